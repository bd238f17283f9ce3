// What the application sees of a shape: the documents as the server has sent them, and over them its own writes.

import { PatchError, applyPatch, equal, mergePatch } from "./patch.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */

/**
 * A document as an application sees it. `pending`: own writes are shown in it. `version` is that of the document as the
 * server has sent it, 0 if it has not.
 *
 * @template [Doc=any]
 * @typedef {{ readonly version: number, readonly doc: Doc, readonly pending?: true }} ViewRow
 */

/**
 * A change of what is seen. `before` or `after` is undefined where the document is not seen. `event` is the last one of
 * the document, if an event has caused the change.
 *
 * @template [Doc=any]
 * @typedef {object} ViewChange
 * @property {string} id
 * @property {ViewRow<Doc> | undefined} before
 * @property {ViewRow<Doc> | undefined} after
 * @property {import("./replica.js").LogEvent} [event]
 */

/**
 * Return a document with writes over it, in order. A patch that does not apply is left out: the server decides.
 *
 * @param {import("./store.js").Row | undefined} row
 * @param {readonly QueuedWrite[]} writes
 * @param {(write: QueuedWrite) => boolean} [isShown] - False for a created document that is not part of the shape.
 * @returns {ViewRow | undefined}
 */
export function overlay(row, writes, isShown = () => true) {
  if (!writes.length) return row;
  const version = row?.version ?? 0;
  let doc = row?.doc;
  for (const write of writes) {
    const { method, body } = write;
    if (method === "DELETE") doc = undefined;
    else if (method === "PUT") doc = doc !== undefined || isShown(write) ? body : undefined;
    else if (method === "POST") doc = doc === undefined && isShown(write) ? body : doc;
    else if (doc !== undefined) doc = patched(doc, body);
  }
  return doc === undefined ? undefined : doc === row?.doc ? row : { version, doc, pending: true };
}

/** @param {any} doc @param {any} patch */
function patched(doc, patch) {
  if (!Array.isArray(patch)) return mergePatch(doc, patch);
  try {
    return applyPatch(doc, patch);
  } catch (error) {
    if (error instanceof PatchError) return doc;
    throw error;
  }
}

/**
 * A function that decodes the documents of rows, each row once.
 *
 * @param {(json: any) => any} decode
 */
export function rowDecoder(decode) {
  /** @type {WeakMap<ViewRow, ViewRow>} */
  const decoded = new WeakMap();
  return (/** @type {ViewRow} */ row) => {
    const found = decoded.get(row) ?? { ...row, doc: decode(row.doc) };
    decoded.set(row, found);
    return found;
  };
}

export class View {
  /** @type {Map<string, ViewRow>} In Extended JSON. */
  #rows = new Map();
  /** @type {Map<string, ViewRow>} As the application sees them: the same Map without a decoder. */
  #seen;
  /** @type {readonly any[] | null} */
  #list = null;
  /** Counts the changes: what was read at the same revision is the same. */
  revision = 0;

  /** @param {(row: ViewRow) => ViewRow} [decode] - Extended JSON to what the application sees. */
  constructor(decode) {
    this.decode = decode;
    this.#seen = decode ? new Map() : this.#rows;
  }

  /**
   * The seen documents, by id. This Map changes with them: replace nothing in it.
   *
   * @returns {ReadonlyMap<string, ViewRow>}
   */
  get rows() {
    return this.#seen;
  }

  /** The contents of the seen documents: another array after each change. */
  get list() {
    this.#list ??= [...this.#seen.values()].map(({ doc }) => doc);
    return this.#list;
  }

  /**
   * Show these documents as `see` has them now. Returns what has changed.
   *
   * @param {Iterable<string>} ids
   * @param {(id: string) => ViewRow | undefined} see
   */
  update(ids, see) {
    /** @type {ViewChange[]} */
    const changes = [];
    for (const id of ids) {
      const former = this.#rows.get(id);
      const row = see(id);
      if (former === row || (former && row && isSame(former, row))) continue;
      const before = this.#seen.get(id);
      if (row) this.#rows.set(id, row);
      else this.#rows.delete(id);
      if (this.decode) this.#decode(id, former, row);
      changes.push({ id, before, after: this.#seen.get(id) });
    }
    if (changes.length) {
      this.revision += 1;
      this.#list = null;
    }
    return changes;
  }

  /** @param {string} id @param {ViewRow | undefined} former @param {ViewRow | undefined} row */
  #decode(id, former, row) {
    const seen = this.#seen.get(id);
    if (!row) this.#seen.delete(id);
    // A document of which only the version has changed keeps its identity.
    else if (seen && former && equal(former.doc, row.doc)) this.#seen.set(id, { ...row, doc: seen.doc });
    else this.#seen.set(id, /** @type {(row: ViewRow) => ViewRow} */ (this.decode)(row));
  }
}

/** @param {ViewRow} left @param {ViewRow} right */
function isSame(left, right) {
  return left.version === right.version && left.pending === right.pending && equal(left.doc, right.doc);
}
