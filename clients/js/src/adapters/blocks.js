// Rows of a shape in IndexedDB, many in one record: with a record for each row they took ten times as long to read.
//
// A block is a text with the rows from its key up to the key of the next block; the key of the first one is "". A
// change of few rows is kept beside the blocks, a record for each row, so that it costs the same in a large shape. Such
// an entry counts more than a block, until `fold` has merged it. Each method reads all that it needs in the transaction
// in which it writes: any number of tabs may do the same, and each may be killed at any point.

import { resultOf } from "./database.js";

/** @typedef {import("../store.js").Row} Row */
/** @typedef {[id: string, row?: Row]} Entry - A document, or without a row that it is not there. */
/** @typedef {{ id: string, text: string, isGone: boolean }} Line - An entry as JSON. */

/**
 * What is merged when. A block is merged at once with many changes of it, or with long ones.
 *
 * @typedef {object} Layout
 * @property {number} block - Characters of a block, of JSON. Chromium keeps what has over 64 KiB in a file of its own.
 * @property {number} dense - Changes of one block that are many; a quarter of its characters is long.
 * @property {number} most - Entries that one transaction folds.
 * @property {number} loose - Entries of a shape beside its blocks from which on they are folded.
 * @property {number} full - Entries of a shape from which on every change is merged at once.
 */

/** @type {Layout} */
export const LAYOUT = { block: 60_000, dense: 16, most: 512, loose: 2000, full: 8000 };
const BETWEEN = ",\n"; // the rows of a block: a line break is in no row, so they are found without parsing
const LINE = /^\["[^"\\]*(?:\\.[^"\\]*)*"/; // up to the end of its id
const READ_BLOCKS = 16; // at a time, so that no single answer stops the page for long
const READ_ROWS = 2000;
const WRITE_BATCH = 500; // requests at a time: Safari is slow by the request, and all at once take memory
const SLICE = 4000; // rows whose texts are in memory at a time

/**
 * The rows of one shape, within one transaction. The tables have texts by `[shape, id]`. In `rows` there are entries of
 * version 1, too, which had no blocks: they are not texts.
 */
export class ShapeRows {
  /**
   * @param {IDBTransaction} transaction - Of `blocks` and `rows`.
   * @param {string} shape
   * @param {Layout} layout
   */
  constructor(transaction, shape, layout) {
    this.blocks = transaction.objectStore("blocks");
    this.rows = transaction.objectStore("rows");
    this.shape = shape;
    this.layout = layout;
  }

  /**
   * All rows by id, and how many entries are beside the blocks.
   *
   * @returns {Promise<{ rows: [string, Row][], loose: number }>}
   */
  async read() {
    /** @type {Entry[]} */
    const loose = [];
    for (let range = this.#range(), read = READ_ROWS; read === READ_ROWS; ) {
      const batch = await resultOf(this.rows.getAll(range, READ_ROWS));
      for (const value of batch) loose.push(typeof value === "string" ? JSON.parse(value) : value);
      read = batch.length;
      if (read) range = this.#behind(loose[loose.length - 1][0]);
    }
    const keys = /** @type {[string, string][]} */ (await resultOf(this.blocks.getAllKeys(this.#range())));
    const get = (/** @type {number} */ at) => {
      const range = this.#range(keys[at]?.[1], keys[at + READ_BLOCKS]?.[1]);
      return at < keys.length ? resultOf(this.blocks.getAll(range)) : [];
    };
    /** @type {Entry[]} */
    const rows = [];
    let next = get(0);
    for (let at = 0; at < keys.length; at += READ_BLOCKS) {
      const texts = await next;
      next = get(at + READ_BLOCKS); // read while these are parsed
      for (const text of texts) for (const row of JSON.parse(text)) rows.push(row);
    }
    const found = merged(rows, loose, ([id]) => id, ([, row]) => !row);
    return { rows: /** @type {[string, Row][]} */ (found), loose: loose.length };
  }

  /** Remove all rows. */
  async clear() {
    await inBatches([this.rows, this.blocks], (table) => table.delete(this.#range()));
  }

  /** Have these rows and no others. @param {[string, Row][]} rows */
  async replace(rows) {
    await this.clear();
    const sorted = [...rows].sort(byId);
    for (let from = 0, to = SLICE; from < sorted.length; from = to, to += SLICE) {
      await this.#write(from ? sorted[from][0] : "", sorted.slice(from, to).map(lineOf));
    }
  }

  /** How many entries are beside the blocks. */
  count() {
    return resultOf(this.rows.count(this.#range()));
  }

  /**
   * Apply changes. Returns how many of them are beside the blocks now.
   *
   * @param {Entry[]} changes - No two of one id.
   * @param {boolean} isFull - Leave none of them beside the blocks.
   */
  async change(changes, isFull) {
    const { block, dense } = this.layout;
    const isMuch = (/** @type {Line[]} */ group) => group.length >= dense || lengthOf(group) >= block / 4;
    const lines = changes.sort(byId).map(lineOf);
    const isEachShort = lines.every(({ text }) => text.length < block / 4);
    if (!isFull && (!isMuch(lines) || (isEachShort && (await this.#areFar(lines))))) return this.#beside(lines);
    let beside = 0;
    for (let at = 0, end = 0; at < lines.length; at = end) {
      const place = await this.#placeOf(lines[at].id);
      while (end < lines.length && (place.end === undefined || lines[end].id < place.end)) end += 1;
      const group = lines.slice(at, end);
      if (isFull || isMuch(group)) await this.#merge(place, group);
      else beside += await this.#beside(group);
    }
    return beside;
  }

  /** Return true if changes are of so many blocks that few are of the same. @param {Line[]} lines - By id. */
  async #areFar(lines) {
    const most = Math.ceil(lines.length / 4);
    const between = IDBKeyRange.bound([this.shape, lines[0].id], [this.shape, lines[lines.length - 1].id]);
    return (await resultOf(this.blocks.getAllKeys(between, most))).length === most;
  }

  /**
   * Merge the entries behind an id into the first block that they are of. Returns the id of the last one that was
   * merged; null if there was none.
   *
   * @param {string | null} after
   * @returns {Promise<string | null>}
   */
  async fold(after) {
    const first = await keyOf(this.rows.getKey(after === null ? this.#range() : this.#behind(after)));
    return first === undefined ? null : this.#merge(await this.#placeOf(first));
  }

  /** The block of an id: its key, and the key of the next one. @param {string} id */
  async #placeOf(id) {
    const upTo = IDBKeyRange.bound([this.shape], [this.shape, id]);
    const own = await resultOf(this.blocks.openKeyCursor(upTo, "prev"));
    const start = own ? /** @type {[string, string]} */ (own.key)[1] : "";
    return { start, end: await keyOf(this.blocks.getKey(this.#behind(id))) };
  }

  /**
   * Merge a block with entries beside it, and then with changes of it. Returns the id of the last entry.
   *
   * @param {{ start: string, end: string | undefined }} place
   * @param {Line[]} [changes] - By id.
   */
  async #merge({ start, end }, changes = []) {
    const { most, block } = this.layout;
    const loose = (await resultOf(this.rows.getAll(this.#range(start, end), most))).map(storedLine);
    const last = loose.at(-1)?.id ?? start;
    if (loose.length) await resultOf(this.rows.delete(IDBKeyRange.bound([this.shape, start], [this.shape, last])));
    // There may be more entries, which count more than the block.
    const rest = loose.length === most ? changes.filter(({ id }) => id > last) : [];
    await inBatches(rest, ({ id }) => this.rows.delete([this.shape, id]));
    const before = mergedLines(await this.#block(start), loose);
    const lines = mergedLines(before, changes);
    if (end !== undefined && lengthOf(lines) < block / 4) {
      lines.push(...(await this.#block(end)));
      await resultOf(this.blocks.delete([this.shape, end]));
    }
    if (!lines.length) await resultOf(this.blocks.delete([this.shape, start]));
    await this.#write(start, lines);
    return last;
  }

  /** The lines of a block. @param {string} key */
  async #block(key) {
    /** @type {string | undefined} */
    const text = await resultOf(this.blocks.get([this.shape, key]));
    return text ? text.slice(1, -1).split(BETWEEN).map(storedLine) : [];
  }

  /** @param {string} start - The key of the first block. @param {Line[]} lines - By id. */
  async #write(start, lines) {
    if (!lines.length) return;
    const blocks = [...blocksOf(lines, this.layout.block)];
    blocks[0].id = start;
    await inBatches(blocks, ({ id, text }) => this.blocks.put(text, [this.shape, id]));
  }

  /** @param {Line[]} lines */
  async #beside(lines) {
    await inBatches(lines, ({ id, text }) => this.rows.put(text, [this.shape, id]));
    return lines.length;
  }

  /** The keys from one id up to another one, without that. @param {string} [start] @param {string} [end] */
  #range(start = "", end) {
    return IDBKeyRange.bound([this.shape, start], [this.shape, end ?? []], false, true); // a list is behind each text
  }

  /** @param {string} id */
  #behind(id) {
    return IDBKeyRange.bound([this.shape, id], [this.shape, []], true, true);
  }
}

/**
 * Make a request for each item. One that cannot be made fails like the others.
 *
 * @template T
 * @param {T[]} items
 * @param {(item: T) => IDBRequest} request
 */
export async function inBatches(items, request) {
  for (let start = 0; start < items.length; start += WRITE_BATCH) {
    await Promise.all(items.slice(start, start + WRITE_BATCH).map(async (item) => resultOf(request(item))));
  }
}

/** The id of a key. @param {IDBRequest<IDBValidKey | undefined>} request @returns {Promise<string | undefined>} */
async function keyOf(request) {
  const key = await resultOf(request);
  return /** @type {[string, string] | undefined} */ (key)?.[1];
}

/**
 * What is there after changes; both are by id, and of each id there is one.
 *
 * @template T
 * @param {T[]} before
 * @param {T[]} changes
 * @param {(item: T) => string} idOf
 * @param {(change: T) => boolean} isGone
 */
function merged(before, changes, idOf, isGone) {
  if (!changes.length) return before;
  const result = [];
  let at = 0;
  for (const change of changes) {
    const id = idOf(change);
    while (at < before.length && idOf(before[at]) < id) result.push(before[at++]);
    if (at < before.length && idOf(before[at]) === id) at += 1;
    if (!isGone(change)) result.push(change);
  }
  while (at < before.length) result.push(before[at++]);
  return result;
}

/** @param {Line[]} before @param {Line[]} changes */
function mergedLines(before, changes) {
  return merged(before, changes, ({ id }) => id, ({ isGone }) => isGone);
}

/**
 * The blocks of rows, of about the same size, each of at least one row.
 *
 * @param {Line[]} lines - By id.
 * @param {number} most - Characters.
 */
function* blocksOf(lines, most) {
  const total = lengthOf(lines);
  const size = total / Math.ceil(total / most);
  for (let first = 0, next = 0, length = 0; first < lines.length; first = next, length = 0) {
    while (next < lines.length && length < size) length += lines[next++].text.length;
    yield { id: lines[first].id, text: `[${lines.slice(first, next).map(({ text }) => text).join(BETWEEN)}]` };
  }
}

/** @param {Line[]} lines */
function lengthOf(lines) {
  return lines.reduce((sum, { text }) => sum + text.length, 0);
}

/** @param {Entry} left @param {Entry} right */
function byId([left], [right]) {
  return left < right ? -1 : 1;
}

/** The line of an entry: JSON that has the sign of zero, too. @param {Entry} entry @returns {Line} */
function lineOf(entry) {
  const [id, row] = entry;
  let text = JSON.stringify(entry);
  if (row && hasNegativeZero(row.doc)) {
    const mark = `-0 ${Math.random()}`; // no string of the document
    text = JSON.stringify(entry, (_, value) => (Object.is(value, -0) ? mark : value)).replaceAll(`"${mark}"`, "-0");
  }
  return { id, text, isGone: !row };
}

/** The line of a stored text, or of an entry of version 1. @param {string | Entry} stored @returns {Line} */
function storedLine(stored) {
  if (typeof stored !== "string") return lineOf(stored);
  const [start] = /** @type {RegExpExecArray} */ (LINE.exec(stored));
  return { id: JSON.parse(start.slice(1)), text: stored, isGone: start.length + 1 === stored.length };
}

/** @param {any} value @returns {boolean} */
function hasNegativeZero(value) {
  if (typeof value !== "object") return Object.is(value, -0);
  for (const name in value) {
    const item = value[name];
    if (item === 0 ? 1 / item < 0 : typeof item === "object" && hasNegativeZero(item)) return true;
  }
  return false;
}
