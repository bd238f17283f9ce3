// The live page: one sync client, and the views of what it holds.

import { SyncClient } from "./client.js";
import { differences } from "./describe.js";
import { newDocument, openDocument } from "./document.js";
import { $, h, onFrame } from "./dom.js";
import { editCell, failed } from "./editor.js";
import { Feed } from "./feed.js";
import { BASE, get, newKey, pathOf, write } from "./http.js";
import { notify } from "./notices.js";
import { Outage } from "./outage.js";
import { parsePosition } from "./replica.js";
import { DocumentTable } from "./table.js";

const STATUS = {
  connecting: "Connecting",
  syncing: "Catching up",
  live: "Live",
  waiting: "Reconnecting",
  stopped: "Cut",
  failed: "Refused",
};
const CHANGES = 20; // that the button writes
const ASK_AGAIN = 3000; // ms, while there is no collection to show

const keys = new Set(); // the idempotency keys of this page's own writes
// Without a client id: the server stores the vector of each client that has one, and each page would be another.
const client = new SyncClient({ url: BASE, transport: "websocket" });
const feed = new Feed();
const table = new DocumentTable($("grid"), {
  edit: (cell, id, tokens) =>
    editCell(cell, { collection: shape(), id, entry: documents().get(id), tokens, wrote, done: () => table.redraw(id) }),
  open: (id) => openDocument({ collection: shape(), id, entry: documents().get(id), wrote }),
  counted,
});
const outage = new Outage(client, shape);
const drawVector = onFrame(() => {
  $("vector").replaceChildren(...vectorRows());
});

function shape() {
  return $("collection").value;
}

function documents() {
  return client.documents(shape());
}

/** Make a key for a write of this page, so that its event can be marked as the user's own. */
function wrote() {
  const key = newKey();
  keys.add(key);
  if (client.status === "stopped") notify("Written while the connection is cut: it arrives when you resume.");
  return key;
}

function vectorRows() {
  const position = client.vector[shape()];
  if (!position) return [h("div", {}, h("dt", {}, shape() || "no collection"), h("dd", { class: "muted" }, "nothing yet"))];
  const { log, seq } = parsePosition(position);
  return [h("div", {}, h("dt", {}, shape()), h("dd", {}, `${log}:`, h("b", {}, String(seq))))];
}

function counted(shown, matching, all) {
  const number = (count) => count.toLocaleString("en");
  const found = matching === all ? `${number(all)}` : `${number(matching)} of ${number(all)}`;
  $("count").textContent = shown < matching ? `${found}, the first ${shown} shown` : found;
  $("empty").hidden = shown > 0;
  $("empty").textContent = all ? "No document matches the filter." : "No documents.";
}

client.addEventListener("change", ({ detail: { kind, changes, replayed, shape: changed } }) => {
  drawVector();
  if (changed !== shape()) return;
  if (kind === "snapshot") return table.reset(documents());
  const told = changes.map((change) => ({ ...change, differences: differences(change) }));
  if (!told.length) return;
  table.note(documents(), told);
  feed.add(told.filter(({ event }) => event), { replayed, mine: (key) => keys.has(key) });
});

client.addEventListener("status", ({ detail: { status, transport, reason } }) => {
  $("status").dataset.status = status;
  $("status").textContent = STATUS[status];
  $("status").title = reason ?? "";
  $("facts").textContent = status === "live" ? `by ${transport === "sse" ? "Server-Sent Events" : "WebSocket"}` : "";
  if (status === "failed") notify("The server refuses this connection.", { detail: reason, bad: true });
});

client.addEventListener("refused", ({ detail: { message, shape: refused } }) => {
  notify(refused ? `${refused} can't be followed.` : "The server reports an error.", { detail: message, bad: true });
});

function follow() {
  history.replaceState(null, "", `?collection=${encodeURIComponent(shape())}`);
  outage.forget();
  feed.clear();
  table.reset(new Map());
  client.follow([shape()]);
  client.start();
  drawVector();
}

async function someChanges() {
  const ids = [...documents().keys()];
  if (!ids.length) return notify("There is no document to change.");
  $("writes").disabled = true;
  const offline = client.status === "stopped";
  try {
    for (let count = 0; count < CHANGES; count += 1) {
      const key = newKey();
      keys.add(key);
      const id = ids[Math.floor(Math.random() * Math.min(ids.length, 200))];
      const body = { demo: Math.floor(Math.random() * 1000) };
      await write("PATCH", pathOf(shape(), id), { body, type: "application/merge-patch+json", key });
    }
    if (offline) notify(`${CHANGES} changes written while the connection is cut.`);
  } catch (error) {
    failed(error);
  } finally {
    $("writes").disabled = false;
  }
}

/** Fill the list with the tracked collections; ask again until there is one. */
async function listCollections() {
  let names = [];
  try {
    names = (await get("/v1/collections")).collections.map(({ name }) => name);
  } catch (error) {
    $("empty").textContent = `The server does not answer as it should: ${error.message}`;
  }
  if (!names.length) {
    $("empty").hidden = false;
    $("empty").textContent ||= "No collection is tracked yet. `eventsync track NAME` adds one; this page notices.";
    setTimeout(listCollections, ASK_AGAIN);
    return;
  }
  $("collection").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  $("collection").disabled = false;
  const wanted = new URLSearchParams(location.search).get("collection");
  if (names.includes(wanted)) $("collection").value = wanted;
  else if (wanted) notTracked(wanted);
  follow();
}

/** Report that the collection in the page's address does not exist; the notice stays until it is closed. */
function notTracked(wanted) {
  const detail = `This is ${shape()}. \`eventsync track NAME\` adds a collection.`;
  notify(`There is no tracked collection “${wanted}”.`, { detail, bad: true, choices: [{ text: "Close" }] });
}

let typing = null;
$("filter").addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => table.filter(target.value), 120);
});
$("collection").addEventListener("change", follow);
$("transport").addEventListener("change", ({ target }) => {
  outage.forget();
  client.use(target.value);
  client.start();
});
$("add").addEventListener("click", () =>
  newDocument({ collection: shape(), example: documents().values().next().value?.doc, wrote }),
);
$("writes").addEventListener("click", someChanges);
addEventListener("online", () => client.hurry());
drawVector();
listCollections();
