// Keeps documents, positions and unsent writes in IndexedDB, by the package `idb`.
//
//   const db = createClient({ principal: "ada", store: idb("kanban") });

import { deleteDB, openDB } from "idb";
import { Fenced, leadsOn } from "../store.js";
import { share } from "../tabs.js";

/** @typedef {import("../store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("../store.js").Row} Row */
/** @typedef {import("../store.js").Step} Step */

/**
 * `positions` has the position of each shape, `rows` its documents by `[shape, id]`, and `epoch`, by 0, the number of
 * the tab that may write.
 *
 * @typedef {import("idb").DBSchema & {
 *   positions: { key: string, value: string },
 *   rows: { key: [shape: string, id: string], value: [id: string, row: Row] },
 *   queue: { key: string, value: QueuedWrite },
 *   epoch: { key: number, value: number },
 * }} Schema
 */

/** @typedef {"positions" | "rows" | "queue" | "epoch"} Table */
/** @typedef {import("idb").IDBPDatabase<Schema>} Database */
/** @typedef {import("idb").IDBPTransaction<Schema, Table[], "readwrite">} Transaction */

const VERSION = 1; // another layout is another format, and so another database
/** @type {Table[]} */
const TABLES = ["positions", "rows", "queue", "epoch"];
const WRITE_BATCH = 500; // requests at a time: Safari is slow by the request, and all at once take memory
const READ_BATCH = 2000; // rows at a time, so that no single answer stops the page for long
const WAIT = 10_000; // ms for a database that another tab blocks

/**
 * A store in IndexedDB. Each url, principal and format has a database of its own, whose name begins with `name`.
 *
 * @param {string} [name] - Of the application, if several share an origin.
 * @param {{ wait?: number }} [options] - `wait`: ms for a database that another tab blocks; 10,000 by default.
 * @returns {import("../store.js").Store}
 */
export function idb(name = "eventsync", { wait = WAIT } = {}) {
  return {
    async open({ url, principal, format }) {
      const store = new IndexedStore(`${name} ${JSON.stringify([url, principal, format])}`, wait);
      await store.connect();
      return store;
    },
  };
}

/** Implements `SharedStore`. */
class IndexedStore {
  /** @type {Database | null} */
  #database = null;
  /** Why the store cannot be used any more. */
  #ended = "";
  /** @type {Map<string, string>} Shape → where this client stands, whether it or another tab has stored that. */
  #known = new Map();
  #epoch = 0; // of this client as the one that writes; 0: it has none, and writes beside others

  /** @param {string} name @param {number} wait */
  constructor(name, wait) {
    this.name = name;
    this.wait = wait;
  }

  get group() {
    return this.name;
  }

  /** @type {import("../store.js").Share} */
  share(client, browser) {
    return share(client, this, browser);
  }

  /**
   * The open database. The browser may have closed it, as it does for lack of memory: then it is opened again.
   *
   * @returns {Promise<Database>}
   */
  async connect() {
    if (this.#ended) throw new Error(this.#ended);
    if (this.#database) return this.#database;
    const opening = /** @type {typeof openDB<Schema>} */ (openDB)(this.name, VERSION, {
      upgrade: (database) => TABLES.forEach((table) => database.createObjectStore(table)),
      blocking: () => this.#end("the store was removed, or is used by a newer version, in another tab"),
      terminated: () => (this.#database = null),
    });
    const late = () => void opening.then((database) => database.close(), () => {});
    const database = await inTime(opening, this.wait, `another tab blocks the database ${this.name}`, late);
    if (this.#database || this.#ended) database.close(); // opened twice, or for nothing
    else this.#database = database;
    return this.connect();
  }

  /** @param {string} shape */
  async load(shape) {
    const transaction = await this.#begin(["positions", "rows"], "readonly");
    const position = await transaction.objectStore("positions").get(shape);
    /** @type {[string, Row][]} */
    const rows = [];
    let range = rowsOf(shape);
    for (let read = position === undefined ? 0 : READ_BATCH; read === READ_BATCH; ) {
      const batch = await transaction.objectStore("rows").getAll(range, READ_BATCH);
      for (const row of batch) rows.push(row);
      read = batch.length;
      if (read) range = rowsOf(shape, batch[read - 1][0]);
    }
    await transaction.done;
    if (position === undefined) {
      this.#known.delete(shape);
      return null;
    }
    this.#known.set(shape, position);
    return { position, rows };
  }

  /** @param {string} shape @param {Step} step */
  async apply(shape, { position, put, remove, clear }) {
    await this.#lead(["positions", "rows"], async (transaction) => {
      const [positions, rows] = [transaction.objectStore("positions"), transaction.objectStore("rows")];
      const stored = await positions.get(shape);
      if (!clear && !leadsOn(this.#known.get(shape), stored, position)) return;
      if (clear) await rows.delete(rowsOf(shape));
      await inBatches(remove, (id) => rows.delete([shape, id]));
      await inBatches(put, (entry) => rows.put(entry, [shape, entry[0]]));
      await positions.put(position, shape);
    });
    this.#known.set(shape, position);
  }

  /** @param {string} shape */
  async forget(shape) {
    await this.#lead(["positions", "rows"], async (transaction) => {
      await transaction.objectStore("rows").delete(rowsOf(shape));
      await transaction.objectStore("positions").delete(shape);
    });
    this.#known.delete(shape);
  }

  async queue() {
    const transaction = await this.#begin(["queue"], "readonly");
    const writes = await transaction.objectStore("queue").getAll();
    return writes.sort((left, right) => left.order - right.order);
  }

  /** @param {QueuedWrite} write */
  async enqueue(write) {
    await this.#write(["queue"], (transaction) => transaction.objectStore("queue").put(write, write.key));
  }

  /** @param {string} key */
  async dequeue(key) {
    await this.#lead(["queue"], (transaction) => transaction.objectStore("queue").delete(key));
  }

  /** @param {number} epoch @param {Map<string, string>} stands */
  async lead(epoch, stands) {
    await this.#write(["epoch"], async (transaction) => {
      const stored = (await transaction.objectStore("epoch").get(0)) ?? 0;
      if (stored >= epoch) throw new Fenced(stored);
      await transaction.objectStore("epoch").put(epoch, 0);
    });
    this.#epoch = epoch;
    for (const [shape, position] of stands) this.#known.set(shape, position);
  }

  async close() {
    this.#end("the store is closed");
  }

  /** What is stored is removed first, so it is gone even if another tab keeps the database open. */
  async destroy() {
    const [emptied] = await Promise.allSettled([this.#ended ? undefined : this.#empty()]);
    this.#end("the store is removed");
    const message = `another tab keeps the database ${this.name} open: it is empty, and removed once the tab is closed`;
    try {
      await inTime(deleteDB(this.name), this.wait, message);
    } catch (error) {
      throw emptied.status === "rejected" ? emptied.reason : error;
    }
  }

  #empty() {
    return this.#write(TABLES, (transaction) => inBatches(TABLES, (table) => transaction.objectStore(table).clear()));
  }

  /** @param {string} why */
  #end(why) {
    this.#ended ||= why;
    this.#database?.close();
    this.#database = null;
  }

  /**
   * @template {"readonly" | "readwrite"} Mode
   * @param {Table[]} tables
   * @param {Mode} mode
   * @returns {Promise<import("idb").IDBPTransaction<Schema, Table[], Mode>>}
   */
  async #begin(tables, mode) {
    const database = await this.connect();
    try {
      const transaction = database.transaction(tables, mode, { durability: "strict" });
      transaction.done.catch(() => {}); // its requests and its writers report why it failed
      return transaction;
    } catch (error) {
      // A connection can be lost without an event: the next call opens another one.
      database.close();
      if (this.#database === database) this.#database = null;
      throw error;
    }
  }

  /**
   * Run one transaction, unless another tab has become the one that writes: they see each other's epochs in order.
   *
   * @param {Table[]} tables
   * @param {(transaction: Transaction) => Promise<unknown>} action
   */
  #lead(tables, action) {
    if (!this.#epoch) return this.#write(tables, action);
    return this.#write([...tables, "epoch"], async (transaction) => {
      const stored = (await transaction.objectStore("epoch").get(0)) ?? 0;
      if (stored !== this.#epoch) throw new Fenced(stored);
      return action(transaction);
    });
  }

  /**
   * Run one transaction. All of it is on the disk once the promise resolves, and nothing if it rejects.
   *
   * @param {Table[]} tables
   * @param {(transaction: Transaction) => Promise<unknown>} action
   */
  async #write(tables, action) {
    const transaction = await this.#begin(tables, "readwrite");
    try {
      await action(transaction);
      await transaction.done;
    } catch (error) {
      abort(transaction);
      throw transaction.error ?? error; // the requests say only that they were aborted, and not that the disk is full
    }
  }
}

/**
 * Have a transaction leave nothing. One with a request that could not even be made would commit those before it.
 *
 * @param {Transaction} transaction
 */
function abort(transaction) {
  try {
    transaction.abort();
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "InvalidStateError") throw error; // it has ended already
  }
}

/**
 * The keys of a shape's rows, behind that of `after` if it is there. A list is greater than every text.
 *
 * @param {string} shape
 * @param {string} [after]
 */
function rowsOf(shape, after) {
  const first = after === undefined ? [shape] : [shape, after];
  return IDBKeyRange.bound(first, [shape, []], true, true);
}

/**
 * Make a request for each item. One that cannot be made fails like the others.
 *
 * @template T
 * @param {T[]} items
 * @param {(item: T) => Promise<unknown>} request
 */
async function inBatches(items, request) {
  for (let start = 0; start < items.length; start += WRITE_BATCH) {
    await Promise.all(items.slice(start, start + WRITE_BATCH).map(async (item) => request(item)));
  }
}

/**
 * Return what a promise resolves with, or throw after `wait` milliseconds.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {number} wait
 * @param {string} message
 * @param {() => void} [late] - Called if it was given up.
 * @returns {Promise<T>}
 */
async function inTime(promise, wait, message, late) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const giveUp = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(message));
      late?.();
    }, wait);
  });
  try {
    return await Promise.race([promise, /** @type {Promise<never>} */ (giveUp)]);
  } finally {
    clearTimeout(timer);
  }
}
