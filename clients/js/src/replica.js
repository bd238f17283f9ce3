// A client's state: the documents of each shape, and the position of that state. No network, no clock.
//
// `apply` takes one message of protocol v1 and returns what it did. It applies a whole frame before it returns, so the
// events of a MongoDB transaction are never seen in part.

import { PatchError, applyPatch } from "./patch.js";

/** Split `"k3f9ab2c:128"` into its parts. The log of a declared shape has a scope: `k3f9ab2c.5f2c81ab`. */
export function parsePosition(text) {
  const colon = text.lastIndexOf(":");
  return { log: text.slice(0, colon), seq: Number(text.slice(colon + 1)) };
}

class Held {
  documents = new Map(); // id → { version, doc }
  position = null; // text; null: nothing is complete, a snapshot is needed
  staged = []; // rows of a snapshot or squashed answer, until its last part has arrived
  live = false;
}

export class Replica {
  #held = new Map();

  /** Start to hold a shape. A shape that is held already is not changed. */
  hold(shape) {
    if (!this.#held.has(shape)) this.#held.set(shape, new Held());
  }

  forget(shape) {
    this.#held.delete(shape);
  }

  get shapes() {
    return [...this.#held.keys()];
  }

  /** The live Map of id → `{ version, doc }`; replace nothing in it. */
  documents(shape) {
    return this.#held.get(shape)?.documents ?? new Map();
  }

  /** The state vector: shape → position, without the shapes that need a snapshot. */
  get vector() {
    return Object.fromEntries(
      [...this.#held].filter(([, held]) => held.position).map(([shape, held]) => [shape, held.position]),
    );
  }

  /** True while every shape has caught up since the connection began. */
  get live() {
    return [...this.#held.values()].every((held) => held.live);
  }

  /** Discard incomplete answers: a new connection does not continue them. */
  reconnected() {
    for (const held of this.#held.values()) Object.assign(held, { staged: [], live: false });
  }

  /**
   * Apply a message. Returns `{ kind, shape, changes }`, or null if nothing has changed yet, or nothing that is held.
   * `kind`: `snapshot`, `squashed`, `events`, `live`, `progress`, `reset`, or `hole`: the message cannot be applied,
   * connect again with the vector. `changes`: `[{ id, before, after, event? }]`, where `before` and `after` are
   * `{ version, doc }` or undefined. A `reset` has its `reason`.
   */
  apply(message) {
    if (message.type === "progress") return this.#progress(message.vector);
    const held = this.#held.get(message.shape);
    const take = held && TAKE[message.type];
    const done = take?.(held, message);
    return done ? { kind: message.type, shape: message.shape, changes: [], ...done } : null;
  }

  #progress(vector) {
    for (const [shape, position] of Object.entries(vector)) {
      const held = this.#held.get(shape);
      if (held) advance(held, position);
    }
    return { kind: "progress", shape: null, changes: [] };
  }
}

const TAKE = { __proto__: null, snapshot, squashed, events, live, reset };

/** The types of messages that `apply` takes. */
export const TYPES = [...Object.keys(TAKE), "progress"];

const HOLE = { kind: "hole" };

function snapshot(held, message) {
  if (!stage(held, message)) return null;
  const before = held.documents;
  held.documents = new Map(held.staged.map(({ id, version, doc }) => [id, { version, doc }]));
  held.staged = [];
  held.position = message.position;
  const gone = [...before.keys()].filter((id) => !held.documents.has(id));
  const ids = [...held.documents.keys(), ...gone];
  return { changes: ids.map((id) => ({ id, before: before.get(id), after: held.documents.get(id) })) };
}

function squashed(held, message) {
  if (!reaches(held, message.from)) return HOLE;
  if (!stage(held, message)) return null;
  const rows = behind(held, message.to) ? held.staged : [];
  held.staged = [];
  advance(held, message.to);
  return { changes: rows.map((row) => set(held, row.id, row.deleted ? undefined : row)) };
}

/** Keep the rows of a part. Returns true once the last part is there. */
function stage(held, message) {
  if (message.part === 0) held.staged = [];
  for (const row of message.docs) held.staged.push(row);
  return message.last;
}

function events(held, message) {
  if (!reaches(held, message.from)) return HOLE;
  const own = parsePosition(held.position).seq;
  const fresh = message.events.filter((event) => event.seq > own);
  const changes = [];
  try {
    for (const event of fresh) changes.push({ ...set(held, event.id, result(held, event)), event });
  } catch (error) {
    if (!(error instanceof PatchError)) throw error;
    held.position = null; // the state here is not the one that the server assumes: only a snapshot helps
    return HOLE;
  }
  advance(held, message.to);
  return { changes };
}

/** The entry of the event's document after the event. */
function result(held, event) {
  if (event.op === "delete") return undefined;
  if (event.op !== "update") return event;
  const entry = held.documents.get(event.id);
  if (!entry) throw new PatchError(`${event.id} is not here`);
  return { version: event.version, doc: applyPatch(entry.doc, event.patch) };
}

function set(held, id, entry) {
  const before = held.documents.get(id);
  const after = entry && { version: entry.version, doc: entry.doc };
  if (after) held.documents.set(id, after);
  else held.documents.delete(id);
  return { id, before, after };
}

function live(held, message) {
  advance(held, message.position);
  held.live = true;
  return {};
}

function reset(held, { reason }) {
  // The documents stay visible until the snapshot that follows replaces them.
  Object.assign(held, { position: null, staged: [], live: false });
  return { reason };
}

/** Return true if a frame that begins at `from` continues the held state. */
function reaches(held, from) {
  if (!held.position) return false;
  const own = parsePosition(held.position);
  const start = parsePosition(from);
  return own.log === start.log && start.seq <= own.seq;
}

/** Return true if `position` is ahead of the held state, in the same log. */
function behind(held, position) {
  if (!held.position) return false;
  const own = parsePosition(held.position);
  const other = parsePosition(position);
  return own.log === other.log && own.seq < other.seq;
}

/** Move the position forward; never back. */
function advance(held, position) {
  if (behind(held, position)) held.position = position;
}
