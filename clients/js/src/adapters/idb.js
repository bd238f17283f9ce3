// Keeps documents, positions and unsent writes in IndexedDB.
//
//   const db = createClient({ principal: "ada", store: idb("kanban") });

import { Fenced, StoreLost, leadsOn } from "../store.js";
import { share } from "../tabs.js";
import { LAYOUT, ShapeRows, inBatches } from "./blocks.js";
import { doneOf, openDatabase, resultOf } from "./database.js";
import { Mirror } from "./mirror.js";

/** @typedef {import("../store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("../store.js").Step} Step */

const VERSION = 2; // of the tables: what version 1 has stored, without blocks, is folded like any other row
const SHAPES = ["positions", "blocks", "rows"]; // positions by shape; where its rows are, says `blocks.js`
const TABLES = [...SHAPES, "queue", "epoch"]; // writes by key; by 0 the number of the tab that may write
const WAIT = 10_000; // ms for a database that another tab blocks
const IDLE = 1000; // ms after which a page that is never idle folds rows

/**
 * A store in IndexedDB. Each url, principal and format has a database of its own, whose name begins with `name`.
 *
 * @param {string} [name] - Of the application, if several share an origin.
 * @param {object} [options]
 * @param {number} [options.wait] - Milliseconds for a database that another tab blocks; 10,000 without it.
 * @param {Partial<import("./blocks.js").Layout>} [options.layout] - For tests.
 * @param {() => Promise<void>} [options.idle] - For tests: resolves when there is time to fold rows.
 * @returns {import("../store.js").Store}
 */
export function idb(name = "eventsync", { wait = WAIT, layout, idle = whenIdle } = {}) {
  const folding = { layout: { ...LAYOUT, ...layout }, idle };
  return {
    async open({ url, principal, format }, report = () => {}) {
      const store = new IndexedStore(`${name} ${JSON.stringify([url, principal, format])}`, wait, folding, report);
      await store.connect();
      return store;
    },
  };
}

/** Implements `SharedStore`. */
class IndexedStore {
  /** @type {IDBDatabase | null} */
  #database = null;
  /** Why the store cannot be used any more. */
  #ended = "";
  /** @type {Map<string, string>} Shape → where this client stands, whether it or another tab has stored that. */
  #known = new Map();
  #epoch = 0; // of this client as the one that writes; 0: it has none, and writes beside others
  /** @type {Map<string, number>} Shape → entries beside its blocks, or more: one that is replaced counts again. */
  #loose = new Map();
  #isFolding = false;

  /**
   * @param {string} name
   * @param {number} wait
   * @param {{ layout: import("./blocks.js").Layout, idle: () => Promise<void> }} folding
   * @param {(error: unknown) => void} report
   */
  constructor(name, wait, { layout, idle }, report) {
    this.name = name;
    this.mirror = new Mirror(name);
    this.wait = wait;
    this.report = report;
    this.layout = layout;
    this.idle = idle;
  }

  get group() {
    return this.name;
  }

  /** @type {import("../store.js").Share} */
  share(client, browser) {
    return share(client, this, browser);
  }

  /**
   * The open database. The browser may have closed it, as it does for lack of memory: then it is opened again. If it is
   * new and should not be, the writes that are known of it are stored with it.
   *
   * @returns {Promise<IDBDatabase>}
   */
  async connect() {
    if (this.#ended) throw new Error(this.#ended);
    if (this.#database) return this.#database;
    const unwanted = (/** @type {IDBVersionChangeEvent} */ { newVersion }) => {
      this.#end("the store was removed, or is used by a newer version, in another tab");
      if (newVersion === null) this.mirror.clear(); // of what this tab has stored since the other one has done so
    };
    /** @type {StoreLost | null} */
    let lost = null;
    const created = (/** @type {IDBTransaction} */ transaction) => {
      if (!this.mirror.isKnown) return;
      const { kept, missing } = this.mirror.writes;
      for (const write of kept) transaction.objectStore("queue").put(write, write.key);
      lost = new StoreLost(kept.length, missing);
    };
    const closed = () => (this.#database = null);
    const opening = openDatabase(this.name, VERSION, TABLES, { created, unwanted, closed });
    const late = () => void opening.then((database) => database.close(), () => {});
    const blocked = `another tab blocks the database ${this.name}`;
    const database = await inTime(opening, this.wait, blocked, late).catch((error) => {
      if (error.name !== "VersionError") throw error;
      throw new Error(`a newer version of eventsync has stored the database ${this.name}`, { cause: error });
    });
    if (this.#database || this.#ended) database.close(); // opened twice, or for nothing
    else this.#database = database;
    if (!this.#ended) this.mirror.know();
    if (lost) this.report(lost);
    return this.connect();
  }

  /** @param {string} shape */
  async load(shape) {
    const { transaction, done } = await this.#begin(SHAPES, "readonly");
    /** @type {string | undefined} */
    const position = await resultOf(transaction.objectStore("positions").get(shape));
    const found = position === undefined ? null : await this.#rows(transaction, shape).read();
    await done;
    if (position === undefined || !found) {
      this.#known.delete(shape);
      return null;
    }
    this.#known.set(shape, position);
    this.#loose.set(shape, found.loose);
    return { position, rows: found.rows };
  }

  /** @param {string} shape @param {Step} step */
  async apply(shape, { position, put, remove, clear }) {
    await this.#lead(SHAPES, async (transaction) => {
      const positions = transaction.objectStore("positions");
      const stored = await resultOf(positions.get(shape));
      if (!clear && !leadsOn(this.#known.get(shape), stored, position)) return;
      const rows = this.#rows(transaction, shape);
      const loose = clear ? 0 : (this.#loose.get(shape) ?? (await rows.count()));
      const isFull = loose >= this.layout.full;
      if (clear) await rows.replace(put);
      const added = clear ? 0 : await rows.change([...put, ...remove.map(gone)], isFull);
      this.#loose.set(shape, loose + added);
      await resultOf(positions.put(position, shape));
    });
    this.#known.set(shape, position);
    void this.#foldLater(shape);
  }

  /** @param {string} shape */
  async forget(shape) {
    await this.#lead(SHAPES, async (transaction) => {
      await this.#rows(transaction, shape).clear();
      await resultOf(transaction.objectStore("positions").delete(shape));
    });
    this.#known.delete(shape);
    this.#loose.delete(shape);
  }

  async queue() {
    const mirrored = this.mirror.keys; // before: another tab may store a write, and mirror it then
    const { transaction } = await this.#begin(["queue"], "readonly");
    /** @type {QueuedWrite[]} */
    const writes = await resultOf(transaction.objectStore("queue").getAll());
    const keys = new Set(writes.map(({ key }) => key));
    for (const key of mirrored) if (!keys.has(key)) this.mirror.remove(key);
    for (const write of writes) this.mirror.put(write);
    return writes.sort((left, right) => left.order - right.order);
  }

  /** @param {QueuedWrite} write */
  async enqueue(write) {
    await this.#write(["queue"], (transaction) => resultOf(transaction.objectStore("queue").put(write, write.key)));
    if (!this.#ended) this.mirror.put(write);
  }

  /** @param {string} key */
  async dequeue(key) {
    await this.#lead(["queue"], (transaction) => resultOf(transaction.objectStore("queue").delete(key)));
    this.mirror.remove(key);
  }

  /** @param {number} epoch @param {Map<string, string>} stands */
  async lead(epoch, stands) {
    await this.#write(["epoch"], async (transaction) => {
      const stored = (await resultOf(transaction.objectStore("epoch").get(0))) ?? 0;
      if (stored >= epoch) throw new Fenced(stored);
      await resultOf(transaction.objectStore("epoch").put(epoch, 0));
    });
    this.#epoch = epoch;
    this.#loose.clear(); // another tab has changed them
    for (const [shape, position] of stands) this.#known.set(shape, position);
  }

  async close() {
    this.#end("the store is closed");
  }

  /** What is stored is removed first, so it is gone even if another tab keeps the database open. */
  async destroy() {
    const [emptied] = await Promise.allSettled([this.#ended ? undefined : this.#empty()]);
    this.mirror.clear();
    this.#end("the store is removed");
    const message = `another tab keeps the database ${this.name} open: it is empty, and removed once the tab is closed`;
    try {
      await inTime(resultOf(indexedDB.deleteDatabase(this.name)), this.wait, message);
    } catch (error) {
      throw emptied.status === "rejected" ? emptied.reason : error;
    }
  }

  /** @param {IDBTransaction} transaction @param {string} shape */
  #rows(transaction, shape) {
    return new ShapeRows(transaction, shape, this.layout);
  }

  /** Fold what is beside the blocks of a shape, if that is much, a block at a time. @param {string} shape */
  async #foldLater(shape) {
    if (this.#isFolding || (this.#loose.get(shape) ?? 0) < this.layout.loose) return;
    this.#isFolding = true;
    try {
      /** @type {string | null} */
      let last = null;
      do {
        await this.idle();
        await this.#lead(["blocks", "rows"], async (transaction) => {
          last = await this.#rows(transaction, shape).fold(last);
        });
      } while (last !== null);
    } catch {
      // What is not folded is stored all the same.
    } finally {
      this.#loose.delete(shape); // to be counted
      this.#isFolding = false;
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

  /** @param {string[]} tables @param {IDBTransactionMode} mode */
  async #begin(tables, mode) {
    const database = await this.connect();
    try {
      // What is stored is acknowledged to the server and to the application, so it must survive a crash of the machine.
      // In Chromium this takes a step of three rows from about 3 ms to 8 ms; steps that wait meanwhile are joined.
      const transaction = database.transaction(tables, mode, { durability: "strict" });
      const done = doneOf(transaction);
      done.catch(() => {}); // its requests and its writers report why it failed
      return { transaction, done };
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
   * @param {string[]} tables
   * @param {(transaction: IDBTransaction) => Promise<unknown>} action
   */
  #lead(tables, action) {
    if (!this.#epoch) return this.#write(tables, action);
    return this.#write([...tables, "epoch"], async (transaction) => {
      const stored = (await resultOf(transaction.objectStore("epoch").get(0))) ?? 0;
      if (stored !== this.#epoch) throw new Fenced(stored);
      return action(transaction);
    });
  }

  /**
   * Run one transaction. All of it is on the disk once the promise resolves, and nothing if it rejects.
   *
   * @param {string[]} tables
   * @param {(transaction: IDBTransaction) => Promise<unknown>} action
   */
  async #write(tables, action) {
    const { transaction, done } = await this.#begin(tables, "readwrite");
    try {
      await action(transaction);
      await done;
    } catch (error) {
      abort(transaction);
      throw transaction.error ?? error; // the requests say only that they were aborted, and not that the disk is full
    }
  }
}

/**
 * Have a transaction leave nothing. One with a request that could not even be made would commit those before it.
 *
 * @param {IDBTransaction} transaction
 */
function abort(transaction) {
  try {
    transaction.abort();
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "InvalidStateError") throw error; // it has ended already
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

/** @param {string} id @returns {[id: string]} */
function gone(id) {
  return [id];
}

/** Resolves when the page has nothing to do, or after a while. */
function whenIdle() {
  const { requestIdleCallback } = globalThis;
  /** @type {Promise<void>} */
  const idle = new Promise((resolve) => {
    if (requestIdleCallback) requestIdleCallback(() => resolve(), { timeout: IDLE });
    else setTimeout(resolve);
  });
  return idle;
}
