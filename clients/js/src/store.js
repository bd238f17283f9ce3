// Where a client keeps its documents, its positions and its unsent writes: the interface, and a store in memory.
//
// A store keeps the rows of a frame and the position that they lead to in one transaction. A position without its rows
// would skip events for ever; rows without their position would have events applied twice.

import { distance } from "./positions.js";

/**
 * A document as a client holds it. It is replaced, never changed: an unchanged document keeps its identity.
 *
 * @template [Doc=any]
 * @typedef {{ readonly version: number, readonly doc: Doc }} Row
 */

/**
 * What a store is opened for. Another principal sees other documents, and another format is stored differently: each
 * combination is a database of its own.
 *
 * @typedef {{ url: string, principal: string, format: number }} Identity
 */

/**
 * A shape as it is stored.
 *
 * @typedef {{ position: string, rows: [id: string, row: Row][] }} SavedShape
 */

/**
 * A step of a shape: first everything is removed if `clear` is true, then these rows. `position` is that of the result.
 * No id is both in `put` and in `remove`.
 *
 * @typedef {{ position: string, put: [id: string, row: Row][], remove: string[], clear: boolean }} Step
 */

/**
 * A write that is not known to be in every shape yet. It is plain JSON.
 *
 * @typedef {object} QueuedWrite
 * @property {string} key - The `Idempotency-Key`, and the `op_id` of its event.
 * @property {number} order - Writes are sent in ascending order, and unique by it.
 * @property {number} at - When it was made, in milliseconds since 1970.
 * @property {string} collection
 * @property {string} id - The id text of the document.
 * @property {"POST" | "PUT" | "PATCH" | "DELETE"} method
 * @property {any} [body] - The document or the patch, as on the wire; a patch that is a list is a JSON Patch.
 * @property {string} [ifMatch] - An `If-Match` that the application asked for.
 * @property {number} [base] - The version that the write was made on, if the client held the document.
 * @property {string} [shape] - The declared shape through which it was made.
 */

/**
 * An open store. Calls of one client come one after another, but for `queue`, `enqueue` and `dequeue`, which may come
 * while another call is under way.
 *
 * @typedef {object} OpenStore
 * @property {(shape: string) => Promise<SavedShape | null>} load - The shape as it was last applied; null without one.
 * @property {(shape: string, step: Step) => Promise<void>} apply - Apply one step in one transaction. It is durable
 *   once the promise resolves, and nothing of it is stored if it rejects.
 * @property {(shape: string) => Promise<void>} forget - Remove a shape with its rows and its position.
 * @property {() => Promise<QueuedWrite[]>} queue - The queued writes, by ascending `order`.
 * @property {(write: QueuedWrite) => Promise<void>} enqueue - Add a write, or replace the one with its key.
 * @property {(key: string) => Promise<void>} dequeue - Remove a write; nothing happens if it is not here.
 * @property {() => Promise<void>} close - Release what the store holds open. What is stored stays.
 * @property {() => Promise<void>} destroy - Remove everything that is stored for this identity, and close.
 * @property {Share} [share] - Have a client share its connection with the other tabs that share what is stored.
 */

/**
 * Returns null where tabs cannot find each other.
 *
 * @typedef {(client: import("./client.js").Client<any>, browser?: import("./tabs.js").Browser) =>
 *   import("./tabs.js").Tabs | null} Share
 */

/**
 * A store that several tabs share. `group` is its name, by which they find each other. Of those that have called `lead`
 * only the last one may `apply`, `forget` and `dequeue`; the others get `Fenced`.
 *
 * @typedef {OpenStore & {
 *   group: string,
 *   lead: (epoch: number, stands: Map<string, string>) => Promise<void>,
 * }} SharedStore - `lead` becomes the one that writes, with an epoch that is greater than all before. `stands` has the
 *   position at which the next step of each shape begins.
 */

/**
 * What `createClient` takes as `store`. `report` gets what the store notices by itself, such as a `StoreLost`.
 *
 * @typedef {{ open(identity: Identity, report?: (error: unknown) => void): Promise<OpenStore> }} Store
 */

/** A store whose writer another tab has become; nothing was written. */
export class Fenced extends Error {
  /** @param {number} epoch - That of the other tab. */
  constructor(epoch) {
    super("another tab writes to the store");
    this.name = "Fenced";
    this.epoch = epoch;
  }
}

/**
 * The browser has removed what was stored. Documents come from the server again. Unsent writes are restored from a copy
 * as far as it has them.
 */
export class StoreLost extends Error {
  /** @param {number} restored @param {number} missing */
  constructor(restored, missing) {
    super(`the browser has removed what was stored: ${restored} unsent writes were restored, ${missing} are lost`);
    this.name = "StoreLost";
    /** Unsent writes that were restored, and will be sent. @type {number} */
    this.restored = restored;
    /** Unsent writes that are lost. @type {number} */
    this.missing = missing;
  }
}

/**
 * Return true if a step of this client leads on from what is stored. Another tab may have stored the same events, or
 * some of them: the rows of a step are whole, so they may be stored over any state since `known`, but over none before
 * it, where rows would be missing, and none behind the step, which would lose rows. Those steps are left out: what is
 * stored is whole, and what it lacks comes from the server.
 *
 * @internal
 * @param {string | undefined} known - Where the step begins; undefined if nothing was stored.
 * @param {string | undefined} stored
 * @param {string} position - Where the step ends.
 */
export function leadsOn(known, stored, position) {
  if (known === undefined || stored === undefined) return known === stored;
  return distance(known, stored) >= 0 && distance(stored, position) >= 0;
}

/** The format of what is stored; another number makes another database. @internal */
export const FORMAT = 2;

/**
 * A store that lasts as long as this object. Clients of the same identity that use it one after another continue.
 *
 * @returns {Store}
 */
export function memoryStore() {
  /** @type {Map<string, MemoryDatabase>} */
  const databases = new Map();
  return {
    async open(identity) {
      const name = JSON.stringify([identity.url, identity.principal, identity.format]);
      const found = databases.get(name) ?? new MemoryDatabase();
      databases.set(name, found);
      return found.open(() => databases.delete(name));
    },
  };
}

class MemoryDatabase {
  /** @type {Map<string, { position: string, rows: Map<string, Row> }>} */
  #shapes = new Map();
  /** @type {Map<string, QueuedWrite>} */
  #queue = new Map();

  /** @param {() => void} destroyed @returns {OpenStore} */
  open(destroyed) {
    return {
      load: async (shape) => {
        const saved = this.#shapes.get(shape);
        return saved ? { position: saved.position, rows: [...saved.rows] } : null;
      },
      apply: async (shape, { position, put, remove, clear }) => {
        const rows = clear ? new Map() : (this.#shapes.get(shape)?.rows ?? new Map());
        for (const id of remove) rows.delete(id);
        for (const [id, row] of put) rows.set(id, row);
        this.#shapes.set(shape, { position, rows });
      },
      forget: async (shape) => void this.#shapes.delete(shape),
      queue: async () => [...this.#queue.values()].sort((left, right) => left.order - right.order),
      enqueue: async (write) => void this.#queue.set(write.key, structuredClone(write)),
      dequeue: async (key) => void this.#queue.delete(key),
      close: async () => {},
      destroy: async () => {
        this.#shapes.clear();
        this.#queue.clear();
        destroyed();
      },
    };
  }
}
