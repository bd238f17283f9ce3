// Edits one value in place, by a PATCH that is conditional on the version on the screen.

import { h } from "./dom.js";
import { get, pathOf, write } from "./http.js";
import { notify } from "./notices.js";
import { equal, formatPointer, parsePointer } from "./patch.js";
import { valueAt } from "./table.js";
import { brief, editText, kindOf, readEdit } from "./values.js";

const PATCH = "application/json-patch+json";

/** The JSON Patch that puts `value` at `tokens`, and creates missing objects on the way. */
export function patchFor(doc, tokens, value) {
  let depth = 1;
  while (depth < tokens.length && valueAt(doc, tokens.slice(0, depth)) !== undefined) depth += 1;
  const made = tokens.slice(depth).reduceRight((inner, token) => ({ [token]: inner }), value);
  const path = tokens.slice(0, depth);
  return [{ op: valueAt(doc, path) === undefined ? "add" : "replace", path: formatPointer(path), value: made }];
}

/** Prepend a test that the replaced value is still there: an external change keeps the version. */
export function guarded(doc, patch) {
  const [{ op, path }] = patch;
  if (op !== "replace") return patch;
  return [{ op: "test", path, value: valueAt(doc, parsePointer(path)) }, ...patch];
}

/**
 * Turn a cell into an input. Calls `wrote(key)` before a write, `done()` once the input is gone, whatever the outcome, and
 * `saved()` after a write.
 */
export function editCell(cell, { collection, id, entry, tokens, done, wrote, saved }) {
  const previous = valueAt(entry.doc, tokens);
  const field = kindOf(previous) === "boolean" ? choice(previous) : h("input", { value: editText(previous), spellcheck: "false" });
  const why = h("span", { class: "why", role: "alert", hidden: true });
  field.setAttribute("aria-label", `${tokens.join(".")} of ${id}`);
  cell.classList.add("editing");
  cell.append(field, why);
  field.focus();
  field.select?.();

  let open = true;
  const end = ({ refocus }) => {
    if (!open) return;
    open = false;
    cell.classList.remove("editing");
    field.remove();
    why.remove();
    done();
    if (refocus) cell.focus();
  };
  const save = ({ refocus }) => {
    if (!open) return;
    let value;
    try {
      value = field.value === editText(previous) ? previous : readEdit(field.value, previous);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      if (!refocus) return end({ refocus });
      field.setAttribute("aria-invalid", "true");
      why.textContent = error.message;
      why.hidden = false;
      return;
    }
    end({ refocus });
    if (value !== undefined && !equal(value, previous)) change({ collection, id, entry, tokens, value, wrote, saved });
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") save({ refocus: true });
    if (event.key === "Escape") end({ refocus: true });
  });
  field.addEventListener("blur", () => save({ refocus: false }));
}

function choice(previous) {
  const options = [true, false].map((value) => h("option", { value: String(value), selected: value === previous }, String(value)));
  return h("select", {}, ...options);
}

/** Write the value. After a lost race, let the user choose. */
async function change(edit) {
  const { collection, id, entry, tokens, value, wrote } = edit;
  try {
    const path = pathOf(collection, id);
    const body = guarded(entry.doc, patchFor(entry.doc, tokens, value));
    await write("PATCH", path, { body, type: PATCH, version: entry.version, key: wrote() });
    edit.saved?.();
  } catch (error) {
    if (error.code !== "version_mismatch" && error.code !== "patch_failed") return failed(error);
    await lost(edit, error.problem.current);
  }
}

async function lost(edit, current) {
  const { collection, id, entry, tokens, value } = edit;
  if (current === null) return notify("Not saved: the document was deleted meanwhile.", { bad: true });
  let theirs;
  try {
    theirs = await get(pathOf(collection, id));
  } catch (error) {
    return failed(error);
  }
  const field = tokens.join(".");
  const now = valueAt(theirs.doc, tokens);
  notify("Not saved: somebody else was faster.", {
    bad: true,
    detail:
      `You changed version ${entry.version}; the document is at version ${theirs.version} now. ` +
      `There ${field} is “${brief(now)}”; you typed “${brief(value)}”.`,
    choices: [
      { text: "Save mine over it", primary: true, run: () => change({ ...edit, entry: theirs }) },
      { text: "Keep theirs" },
    ],
  });
}

/** Say why a request failed. */
export function failed(error) {
  const unreachable = error instanceof TypeError;
  notify(unreachable ? "The server can't be reached." : "The server refused.", { detail: error.message, bad: true });
}
