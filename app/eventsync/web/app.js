// The live page: one sync client, and the views of what it holds.

import { SyncClient } from "./sync_client.js";
import { differences } from "./describe.js";
import { newDocument, openDocument } from "./document.js";
import { $, h, onFrame } from "./dom.js";
import { editCell, failed } from "./editor.js";
import { Feed } from "./feed.js";
import { BASE, get, newKey, pathOf, write } from "./http.js";
import { notify } from "./notices.js";
import { Outage } from "./outage.js";
import { parsePosition } from "./positions.js";
import { parseShape, shapeText, valueText } from "./shapes.js";
import { ask, signInAtStart } from "./session.js";
import { DocumentTable } from "./table.js";

const STATUS = {
  connecting: "Connecting",
  syncing: "Catching up",
  live: "Live",
  waiting: "Reconnecting",
  stopped: "Cut",
  failed: "Refused",
};
const MISSING = "Give each parameter a value.";
const UNAUTHENTICATED = 4401; // the close code
const CHANGES = 20; // that the button writes
const ASK_AGAIN = 3000; // ms, while there is no collection to show

const keys = new Set(); // the idempotency keys of this page's own writes
// Without a client id: the server stores the vector of each client that has one, and each page would be another.
const client = new SyncClient({ url: BASE, transport: "websocket" });
const feed = new Feed();
const table = new DocumentTable($("grid"), {
  edit: (cell, id, tokens) =>
    editCell(cell, { collection: collection(), id, entry: documents().get(id), tokens, wrote, done: () => table.redraw(id) }),
  open: (id) => openDocument({ collection: collection(), id, entry: documents().get(id), wrote }),
  counted,
});
const outage = new Outage(client, shape);
const drawVector = onFrame(() => {
  $("vector").replaceChildren(...vectorRows());
});

let declared = new Map(); // name → { name, collection, parameters, lists? } of each declared shape

let followed = ""; // the shape on the screen

function shape() {
  return followed;
}

/** The shape that is chosen; empty while a parameter has no value. */
function chosenShape() {
  const chosen = $("collection").value;
  const known = declaredShape();
  if (!known) return chosen;
  const fields = [...$("parameters").querySelectorAll("input")];
  if (fields.some((field) => !field.value)) return "";
  return shapeText(known.name, Object.fromEntries(fields.map((field) => [field.name, typedValues(field, known)])));
}

function typedValues({ name, value }, { parameters, lists = [] }) {
  const typed = lists.includes(name) ? value.split(",").map((item) => item.trim()).filter(Boolean) : [value];
  return typed.map((item) => valueText(item, parameters[name]));
}

/** The declared shape that is chosen, or undefined for a collection. */
function declaredShape() {
  return declared.get($("collection").value);
}

/** The collection that the documents on the screen are in. */
function collection() {
  return declaredShape()?.collection ?? $("collection").value;
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
  if (!position) return [h("div", {}, h("dt", {}, shape() || "no shape"), h("dd", { class: "muted" }, "nothing yet"))];
  const { log, seq } = parsePosition(position);
  return [h("div", {}, h("dt", {}, shape()), h("dd", {}, `${log}:`, h("b", {}, String(seq))))];
}

function counted(shown, matching, all) {
  const number = (count) => count.toLocaleString("en");
  const found = matching === all ? `${number(all)}` : `${number(matching)} of ${number(all)}`;
  $("count").textContent = shown < matching ? `${found}, the first ${shown} shown` : found;
  $("empty").hidden = shown > 0;
  $("empty").textContent = shape() ? (all ? "No document matches the filter." : "No documents.") : MISSING;
}

client.addEventListener("change", ({ detail: { kind, changes, replayed, shape: changed, reason } }) => {
  drawVector();
  if (changed !== shape()) return;
  if (reason === "scope_changed") notify(`${changed} has another definition now.`, { detail: "It is read again." });
  if (kind === "snapshot") return table.reset(documents());
  const told = changes.map((change) => ({ ...change, differences: differences(change) }));
  if (!told.length) return;
  table.note(documents(), told);
  feed.add(told.filter(({ event }) => event), { replayed, mine: (key) => keys.has(key) });
});

client.addEventListener("status", ({ detail: { status, transport, reason, code } }) => {
  $("status").dataset.status = status;
  $("status").textContent = STATUS[status];
  $("status").title = reason ?? "";
  $("facts").textContent = status === "live" ? `by ${transport === "sse" ? "Server-Sent Events" : "WebSocket"}` : "";
  if (status === "failed" && code === UNAUTHENTICATED) ask(`The connection was refused: ${reason}`).then(listCollections);
  else if (status === "failed") notify("The server refuses this connection.", { detail: reason, bad: true });
});

client.addEventListener("refused", ({ detail: { message, shape: refused } }) => {
  notify(refused ? `${refused} can't be followed.` : "The server reports an error.", { detail: message, bad: true });
});

function follow() {
  const wanted = chosenShape();
  followed = wanted;
  const query = new URLSearchParams(declaredShape() ? { shape: wanted || $("collection").value } : { collection: wanted });
  history.replaceState(null, "", `?${query}`);
  outage.forget();
  feed.clear();
  drawVector();
  // A connection without shapes would be called live.
  if (!wanted) client.stop();
  client.follow(wanted ? [wanted] : []);
  // Documents that are here already, from before a sign-in, are not sent again.
  table.reset(wanted ? documents() : new Map());
  if (wanted) client.start();
}

/** Show a field for each parameter of the chosen shape, with these values. */
function askForParameters(values = {}) {
  const { parameters = {}, lists = [] } = declaredShape() ?? {};
  const fields = Object.entries(parameters).map(([name, types]) => {
    const title = lists.includes(name) ? `${types.join(" or ")}; several, separated by commas` : types.join(" or ");
    const field = h("input", { type: "text", name, title, placeholder: types.join(", "), autocomplete: "off", spellcheck: "false" });
    field.value = (values[name] ?? []).join(", ");
    return h("label", { class: "pick" }, `${name} `, field);
  });
  $("parameters").replaceChildren($("parameters").firstElementChild, ...fields);
  $("parameters").hidden = !fields.length;
  return fields.length ? $("parameters").querySelector("input") : null;
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
      await write("PATCH", pathOf(collection(), id), { body, type: "application/merge-patch+json", key });
    }
    if (offline) notify(`${CHANGES} changes written while the connection is cut.`);
  } catch (error) {
    failed(error);
  } finally {
    $("writes").disabled = false;
  }
}

/** Fill the list with the tracked collections and the declared shapes. Returns the values of its options. */
async function offer() {
  const { collections, shapes = [] } = await get("/v1/collections");
  const names = collections.map(({ name }) => name);
  const texts = shapes.map(({ name }) => `${name}?`);
  declared = new Map(shapes.map((item) => [`${item.name}?`, item]));
  const chosen = $("collection").value;
  const option = (text) => h("option", { value: text }, text.replace("?", ""));
  const group = (label, values) => h("optgroup", { label }, ...values.map(option));
  const offered = [...names, ...texts];
  if ([...$("collection").options].map(({ value }) => value).join() !== offered.join()) {
    $("collection").replaceChildren(...(texts.length ? [group("Collections", names), group("Shapes", texts)] : names.map(option)));
    if (offered.includes(chosen)) $("collection").value = chosen;
  }
  return offered;
}

/** Offer what can be followed, and follow what the page's address names; ask again until there is a collection. */
async function listCollections() {
  let names = [];
  try {
    names = await offer();
  } catch (error) {
    if (error.code === "unauthenticated") return ask("").then(listCollections);
    $("empty").textContent = `The server does not answer as it should: ${error.message}`;
  }
  if (!names.length) {
    $("empty").hidden = false;
    $("empty").textContent ||= $("who").hidden
      ? "No collection is tracked yet. `eventsync track NAME` adds one; this page notices."
      : "The rules show you no collection.";
    setTimeout(listCollections, ASK_AGAIN);
    return;
  }
  $("collection").disabled = false;
  const query = new URLSearchParams(location.search);
  const wanted = query.get("shape") ?? query.get("collection") ?? "";
  const { name, values } = wanted.includes("?") ? parseShape(wanted) : { name: wanted };
  const choice = values || (!names.includes(name) && names.includes(`${name}?`)) ? `${name}?` : name;
  if (names.includes(choice)) $("collection").value = choice;
  else if (wanted) missing(wanted, Boolean(values));
  askForParameters(names.includes(choice) ? values : {});
  follow();
}

/** Report that what the page's address names does not exist; the notice stays until it is closed. */
function missing(wanted, isShape) {
  const remedy = isShape ? "`eventsync rules show` lists the declared shapes." : "`eventsync track NAME` adds a collection.";
  const what = isShape ? "declared shape" : "tracked collection";
  notify(`There is no ${what} “${wanted}”.`, { detail: `This is ${$("collection").value}. ${remedy}`, bad: true, choices: [{ text: "Close" }] });
}

let typing = null;
$("filter").addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => table.filter(target.value), 120);
});
$("collection").addEventListener("change", () => {
  const field = askForParameters();
  follow();
  field?.focus();
});
// Shapes may have been declared since.
$("collection").addEventListener("focus", () => offer().catch(() => {}));
$("parameters").addEventListener("change", follow);
$("transport").addEventListener("change", ({ target }) => {
  outage.forget();
  client.use(target.value);
  client.start();
});
$("add").addEventListener("click", () =>
  newDocument({ collection: collection(), example: documents().values().next().value?.doc, wrote }),
);
$("writes").addEventListener("click", someChanges);
addEventListener("online", () => client.hurry());

drawVector();
await signInAtStart();
listCollections();
