// A client's state: the documents of each shape, and the position of that state. No network, no clock.
//
// `apply` takes one message of protocol v1 and returns what it did. It applies a whole frame or nothing of it, so the
// events of a MongoDB transaction are never seen in part.

import { PatchError, applyPatch, equal } from "./patch.js";
import { distance, parsePosition } from "./positions.js";

/** @template [Doc=any] @typedef {import("./store.js").Row<Doc>} Row */
/** @typedef {import("./store.js").Step} Step */

/**
 * An event of the log, as on the wire.
 *
 * @typedef {object} LogEvent
 * @property {number} seq
 * @property {string} collection
 * @property {string} id
 * @property {"create" | "update" | "replace" | "delete"} op
 * @property {number} base
 * @property {number} version
 * @property {any} [doc]
 * @property {import("./patch.js").Operation[]} [patch]
 * @property {string} [at]
 * @property {string} [op_id]
 * @property {string} [by]
 * @property {boolean} [external]
 * @property {boolean} [enter]
 * @property {boolean} [leave]
 * @property {{ id: string, n: number, of: number }} [txn]
 */

/**
 * A change of a held document. `before` and `after` are undefined where it was not, or is not, here.
 *
 * @template [Doc=any]
 * @typedef {object} Change
 * @property {string} shape
 * @property {"create" | "update" | "delete"} kind - By what was held before and is held after.
 * @property {string} id
 * @property {Row<Doc> | undefined} before
 * @property {Row<Doc> | undefined} after
 * @property {"snapshot" | "squashed" | "events"} source
 * @property {LogEvent} [event]
 */

/**
 * What a message did. A `hole` cannot be applied: connect again with the vector. `step` is what a store has to apply.
 *
 * @typedef {object} Applied
 * @property {"snapshot" | "squashed" | "events" | "live" | "progress" | "reset" | "hole"} kind
 * @property {string} shape - Empty for `progress`.
 * @property {Change[]} changes
 * @property {Step} [step]
 * @property {string} [reason]
 */

/** A message of the server, as on the wire. @typedef {Record<string, any> & { type: string }} Message */

class Held {
  /** @type {Map<string, Row>} */
  documents = new Map();
  /** @type {string | null} Null: nothing is complete, a snapshot is needed. */
  position = null;
  /** @type {{ answer: string, parts: number, rows: any[] } | null} Parts of an answer whose last part is not here. */
  staged = null;
  live = false;
}

export class Replica {
  /** @type {Map<string, Held>} */
  #held = new Map();

  /**
   * Start to hold a shape, from what was saved of it. A shape that is held already is not changed.
   *
   * @param {string} shape
   * @param {import("./store.js").SavedShape | null} [saved]
   */
  hold(shape, saved = null) {
    if (this.#held.has(shape)) return;
    const held = new Held();
    if (saved) Object.assign(held, { position: saved.position, documents: new Map(saved.rows) });
    this.#held.set(shape, held);
  }

  /** @param {string} shape */
  forget(shape) {
    this.#held.delete(shape);
  }

  get shapes() {
    return [...this.#held.keys()];
  }

  /**
   * The live Map of id → `{ version, doc }`; replace nothing in it.
   *
   * @param {string} shape
   * @returns {ReadonlyMap<string, Row>}
   */
  documents(shape) {
    return this.#held.get(shape)?.documents ?? new Map();
  }

  /**
   * The position of a shape; null while nothing of it is complete.
   *
   * @param {string} shape
   */
  position(shape) {
    return this.#held.get(shape)?.position ?? null;
  }

  /**
   * The state vector: shape → position, without the shapes that need a snapshot.
   *
   * @returns {Record<string, string>}
   */
  get vector() {
    const positions = [...this.#held].flatMap(([shape, { position }]) => (position ? [[shape, position]] : []));
    return Object.fromEntries(positions);
  }

  /** True while every shape has caught up since the connection began. */
  get live() {
    return [...this.#held.values()].every((held) => held.live);
  }

  /**
   * True once a shape has caught up since the connection began.
   *
   * @param {string} shape
   */
  isLive(shape) {
    return this.#held.get(shape)?.live ?? false;
  }

  /** Discard incomplete answers: a new connection does not continue them. */
  reconnected() {
    for (const held of this.#held.values()) Object.assign(held, { staged: null, live: false });
  }

  /**
   * Discard what is incomplete of one shape, which is asked for again.
   *
   * @param {string} shape
   */
  interrupted(shape) {
    Object.assign(this.#held.get(shape) ?? {}, { staged: null, live: false });
  }

  /**
   * Apply a message. Returns null if nothing has changed yet, or nothing that is held.
   *
   * @param {Message} message
   * @returns {Applied | null}
   */
  apply(message) {
    if (message.type === "progress") return this.#progress(message.vector);
    const held = this.#held.get(message.shape);
    const take = TAKE.get(message.type);
    const done = held && take?.(held, message);
    return done ? { shape: message.shape, changes: [], kind: /** @type {any} */ (message.type), ...done } : null;
  }

  /** @param {Record<string, string>} vector */
  #progress(vector) {
    for (const [shape, position] of Object.entries(vector)) {
      const held = this.#held.get(shape);
      if (held) advance(held, position);
    }
    return { kind: /** @type {const} */ ("progress"), shape: "", changes: [] };
  }
}

/** @type {Map<string, (held: Held, message: any) => Partial<Applied> | null>} */
const TAKE = new Map(Object.entries({ snapshot, squashed, events, live, reset }));

/** The types of messages that `apply` takes. */
export const TYPES = [...TAKE.keys(), "progress"];

/** @param {any} message @returns {Partial<Applied>} */
function hole({ shape }) {
  return { kind: "hole", reason: `what came for ${shape} does not continue what is here` };
}

/** @param {Held} held @param {any} message */
function snapshot(held, message) {
  const rows = staged(held, message, `snapshot ${message.position}`);
  if (!rows) return null;
  const before = held.documents;
  held.documents = new Map(rows.map((row) => [row.id, same(before.get(row.id), row)]));
  held.position = message.position;
  const gone = [...before.keys()].filter((id) => !held.documents.has(id));
  const ids = [...held.documents.keys(), ...gone];
  const changes = ids.flatMap((id) => change(message, id, before.get(id), held.documents.get(id)));
  return { changes, step: { position: message.position, put: [...held.documents], remove: [], clear: true } };
}

/** @param {Held} held @param {any} message */
function squashed(held, message) {
  if (!held.position) return null; // it is of a former subscription: only a snapshot follows here
  if (!(distance(message.from, held.position) >= 0)) return hole(message);
  const rows = staged(held, message, `squashed ${message.to}`);
  if (!rows) return null;
  const fresh = distance(held.position, message.to) > 0 ? rows : [];
  /** @type {Map<string, Row | undefined>} */
  const after = new Map(fresh.map((row) => [row.id, row.deleted ? undefined : same(held.documents.get(row.id), row)]));
  const changes = [...after].flatMap(([id, row]) => change(message, id, held.documents.get(id), row));
  return commit(held, message.to, after, changes);
}

/**
 * Keep the rows of a part. Returns the rows of all parts once the last one is there. A part that does not continue
 * those that are here is of a former subscription.
 *
 * @param {Held} held
 * @param {any} message
 * @param {string} answer
 * @returns {any[] | null}
 */
function staged(held, { part, docs, last }, answer) {
  if (part === 0) held.staged = { answer, parts: 0, rows: [] };
  const here = held.staged;
  if (here?.answer !== answer || here.parts !== part) return null;
  here.parts += 1;
  for (const row of docs) here.rows.push(row);
  if (!last) return null;
  held.staged = null;
  return here.rows;
}

/** @param {Held} held @param {any} message */
function events(held, message) {
  if (!held.position) return null;
  if (!(distance(message.from, held.position) >= 0)) return hole(message);
  const own = parsePosition(held.position).seq;
  /** @type {Map<string, Row | undefined>} */
  const after = new Map();
  const changes = [];
  try {
    for (const event of /** @type {LogEvent[]} */ (message.events)) {
      if (event.seq <= own) continue;
      const before = after.has(event.id) ? after.get(event.id) : held.documents.get(event.id);
      const row = result(before, event);
      after.set(event.id, row);
      changes.push({ ...made(message, event.id, before, row), event });
    }
  } catch (error) {
    if (!(error instanceof PatchError)) throw error;
    held.position = null; // the state here is not the one that the server assumes: only a snapshot helps
    return { ...hole(message), reason: `an event of ${message.shape} cannot be applied: ${error.message}` };
  }
  return commit(held, message.to, after, changes);
}

/**
 * Take over the new rows of a frame, all at once.
 *
 * @param {Held} held
 * @param {string} position
 * @param {Map<string, Row | undefined>} after
 * @param {Change[]} changes
 * @returns {Partial<Applied>}
 */
function commit(held, position, after, changes) {
  /** @type {[string, Row][]} */
  const put = [];
  const remove = [];
  for (const [id, row] of after) {
    if (row) {
      put.push([id, row]);
      held.documents.set(id, row);
    } else {
      remove.push(id);
      held.documents.delete(id);
    }
  }
  advance(held, position);
  return { changes, step: { position: /** @type {string} */ (held.position), put, remove, clear: false } };
}

/**
 * The row of the event's document after the event.
 *
 * @param {Row | undefined} before
 * @param {LogEvent} event
 * @returns {Row | undefined}
 */
function result(before, { op, id, version, doc, patch }) {
  if (op === "delete") return undefined;
  if (op !== "update") return { version, doc };
  if (!before) throw new PatchError(`${id} is not here`);
  return { version, doc: applyPatch(before.doc, /** @type {any} */ (patch)) };
}

/**
 * The row that is held already, if another one says the same.
 *
 * @param {Row | undefined} held
 * @param {Row} row
 * @returns {Row}
 */
function same(held, { version, doc }) {
  return held?.version === version && equal(held.doc, doc) ? held : { version, doc };
}

/**
 * @param {Message} message
 * @param {string} id
 * @param {Row | undefined} before
 * @param {Row | undefined} after
 * @returns {Change[]}
 */
function change(message, id, before, after) {
  return before === after ? [] : [made(message, id, before, after)];
}

/**
 * @param {Message} message
 * @param {string} id
 * @param {Row | undefined} before
 * @param {Row | undefined} after
 * @returns {Change}
 */
function made({ type, shape }, id, before, after) {
  const kind = before ? (after ? "update" : "delete") : after ? "create" : "delete";
  return { shape, kind, id, before, after, source: /** @type {any} */ (type) };
}

/** @param {Held} held @param {any} message @returns {Partial<Applied>} */
function live(held, { position }) {
  advance(held, position);
  held.live = held.position !== null; // else it is of a former subscription
  return {};
}

/** @param {Held} held @param {any} message @returns {Partial<Applied>} */
function reset(held, { reason }) {
  // The documents stay visible until the snapshot that follows replaces them.
  Object.assign(held, { position: null, staged: null, live: false });
  return { reason };
}

/**
 * Move the position forward; never back, and never into another log.
 *
 * @param {Held} held
 * @param {string} position
 */
function advance(held, position) {
  if (held.position && distance(held.position, position) > 0) held.position = position;
}
