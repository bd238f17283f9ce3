// One whole document in a dialog: its JSON, its history, and the ways to replace, delete or make one.

import { $, h } from "./dom.js";
import { sentence, differences } from "./describe.js";
import { failed } from "./editor.js";
import { Refusal, get, getTagged, pathOf, write } from "./http.js";
import { equal } from "./patch.js";
import { parseJson } from "./json.js";
import { kindOf } from "./values.js";

const HISTORY = 20;

/** Show an existing document. `wrote()` returns the key for a write. */
export function openDocument({ collection, id, entry, wrote }) {
  const text = textarea(JSON.stringify(entry.doc, null, 2));
  const path = pathOf(collection, id);
  const state = getTagged(path).catch((error) => ({ error }));
  const options = async () => ({ tag: tagOf(await state, entry), key: wrote() });
  show({
    title: id,
    text,
    facts: `Version ${entry.version}. Saving and deleting hold only while it is still in this state.`,
    actions: [
      { label: "Save", primary: true, run: async () => write("PUT", path, { body: read(text), ...(await options()) }) },
      { label: "Delete", danger: true, run: async () => write("DELETE", path, await options()) },
    ],
    more: history(path, entry.version),
  });
}

/** The entity tag of the shown state. Throws if the server had another state when the dialog was opened. */
function tagOf(state, entry) {
  if (state.error) throw state.error;
  if (state.version === entry.version && equal(state.doc, entry.doc)) return state.tag;
  throw new Refusal({ title: "The document has changed", code: "version_mismatch" });
}

/** Ask for a new document; `example` provides its fields. */
export function newDocument({ collection, example, wrote }) {
  const blank = Object.fromEntries(Object.keys(example ?? { name: "" }).filter((name) => name !== "_id").map((name) => [name, empty(example?.[name])]));
  const text = textarea(JSON.stringify(blank, null, 2));
  const path = `/v1/collections/${encodeURIComponent(collection)}/documents`;
  show({
    title: `New document in ${collection}`,
    text,
    facts: "Extended JSON. Without an _id it gets a new ObjectId.",
    actions: [{ label: "Add", primary: true, run: () => write("POST", path, { body: read(text), key: wrote() }) }],
  });
}

function empty(value) {
  const kind = kindOf(value);
  if (kind === "object") return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, empty(item)]));
  return { number: 0, boolean: false, array: [], null: null }[kind] ?? (typeof value === "object" ? value : "");
}

function textarea(value) {
  const element = h("textarea", { spellcheck: "false", autocomplete: "off", "aria-label": "The document as Extended JSON" });
  element.value = value;
  return element;
}

function read(text) {
  try {
    return parseJson(text.value);
  } catch (error) {
    throw new SyntaxError(`This is not JSON: ${error.message}`, { cause: error });
  }
}

function show({ title, text, facts, actions, more = null }) {
  const dialog = $("document");
  const why = h("p", { class: "why", role: "alert" });
  const buttons = actions.map(({ label, primary, danger, run }) => {
    const kind = primary ? "primary" : danger ? "danger far" : null;
    return h("button", { type: "button", class: kind, onclick: () => attempt(dialog, why, run) }, label);
  });
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(
    h("h2", { id: "document-title", class: "mono" }, title),
    h("p", { class: "muted" }, facts),
    text,
    why,
    h("div", { class: "buttons" }, buttons[0], close, ...buttons.slice(1)),
    ...(more ? [more] : []),
  );
  dialog.showModal();
  text.focus();
  text.setSelectionRange(0, 0);
  text.scrollTop = 0;
}

async function attempt(dialog, why, run) {
  why.textContent = "";
  try {
    await run();
    dialog.close();
  } catch (error) {
    if (!error.problem && !(error instanceof SyntaxError)) return failed(error);
    const mismatch = error.code === "version_mismatch";
    why.textContent = mismatch
      ? "Somebody else was faster. Copy what you want to keep, close this, and open the document again."
      : error.message;
  }
}

function history(path, version) {
  const list = h("ol");
  const details = h("details", {}, h("summary", {}, "History"), list);
  details.addEventListener("toggle", async () => {
    if (!details.open || list.childElementCount) return;
    try {
      const { events } = await get(`${path}/events?after_version=${Math.max(0, version - HISTORY)}&limit=${HISTORY}`);
      list.replaceChildren(...events.reverse().map(historyRow));
      if (!events.length) list.append(h("li", { class: "muted" }, "Not changed since it is tracked."));
    } catch (error) {
      failed(error);
    }
  });
  return details;
}

function historyRow(event) {
  const what = event.patch ? differences({ event }).map(sentence).join("; ") : `${event.op}d`.replace("eed", "ed");
  return h("li", {}, h("span", { class: `tag ${event.op}` }, `v${event.version}`), h("span", {}, what), h("span", { class: "muted" }, event.at.replace("T", " ")));
}
