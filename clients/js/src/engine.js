// A whole client without I/O: the core, the outbox, and what the application sees of each shape.
//
// One input makes at most one change of each view: a frame, and what it settles, are seen together.

import { Core } from "./core.js";
import { Outbox } from "./outbox.js";
import { isDeclared } from "./shapes.js";
import { View, overlay, rowDecoder } from "./view.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./view.js").ViewChange} ViewChange */
/** @typedef {import("./replica.js").LogEvent} LogEvent */

/**
 * What a shape of an application is.
 *
 * @typedef {object} ShapeInfo
 * @property {string} [collection] - The collection of its documents. Without it, own writes are not shown.
 * @property {string} [id] - Of a shape of one document.
 * @property {(doc: any) => boolean} [matches] - Whether a document with own writes is part of a declared shape.
 */

/**
 * Where a change comes from: the store, the server, or a write of the application (`local`), which was made, settled or
 * taken back.
 *
 * @typedef {"cache" | "snapshot" | "squashed" | "events" | "local"} Source
 */

/**
 * What the engine wants done, beside the outputs of the core and of the outbox. `confirmed` are the changes of what the
 * server has sent, and `view` those of what the application sees.
 *
 * @typedef {{ type: "view", shape: string, source: Source, changes: ViewChange[], replayed: boolean }
 *   | { type: "confirmed", shape: string, changes: import("./replica.js").Change[], position: string | null }
 *   | Exclude<import("./core.js").Output, { type: "changes" | "progress" }>
 *   | Exclude<import("./outbox.js").OutboxOutput, { type: "redraw" }>} EngineOutput
 */

class Followed {
  /** @type {Set<string>} Ids of documents that may look otherwise than the view. */
  dirty = new Set();
  /** @type {Map<string, LogEvent>} The last event of each of them. */
  events = new Map();
  /** @type {Source} */
  source = "local";
  replayed = false;

  /** @param {ShapeInfo} info @param {View} view @param {boolean} shown - False for one that is held for other tabs. */
  constructor(info, view, shown) {
    this.info = info;
    this.view = view;
    this.shown = shown;
  }
}

export class Engine {
  /** @type {EngineOutput[]} */
  #outputs = [];
  /** @type {Map<string, Followed>} */
  #shapes = new Map();

  /**
   * @param {object} [options]
   * @param {string} [options.clientId]
   * @param {boolean} [options.hasToken]
   * @param {() => number} [options.random]
   * @param {() => number} [options.wallClock] - Milliseconds since 1970, for the age of writes.
   * @param {(json: any) => any} [options.decode] - Extended JSON to what the application sees of documents.
   */
  constructor({ decode, ...options } = {}) {
    this.decode = decode;
    this.decodeRow = decode && rowDecoder(decode);
    this.core = new Core(options);
    this.outbox = new Outbox(options);
  }

  /** When `tick` is to be called; Infinity if nothing is due. */
  get due() {
    return Math.min(this.core.due, this.outbox.due);
  }

  /** The outputs since the last call, in order. @param {number} now */
  take(now) {
    this.#pump(now);
    for (const [shape, followed] of this.#shapes) this.#show(shape, followed);
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }

  /** What the application sees of a shape; nothing if it is not followed. @param {string} shape */
  view(shape) {
    const followed = this.#shapes.get(shape);
    return followed?.shown ? followed.view : undefined;
  }

  /** @param {number} now */
  tick(now) {
    this.core.tick(now);
    this.outbox.tick(now);
  }

  /** @param {number} now */
  start(now) {
    this.core.start(now);
    this.outbox.start(now);
  }

  stop() {
    this.core.stop();
    this.outbox.stop();
  }

  /**
   * Follow a shape, from what was saved of it. Without `shown` it is held for other tabs, and has no view.
   *
   * @param {string} shape
   * @param {ShapeInfo} info
   * @param {import("./store.js").SavedShape | null} saved
   * @param {number} now
   * @param {boolean} [shown]
   */
  follow(shape, info, saved, now, shown = true) {
    const held = this.#shapes.get(shape);
    if (held && (held.shown || !shown)) return;
    const followed = new Followed(info, new View(this.decodeRow), shown);
    this.#shapes.set(shape, followed);
    if (!held) this.core.follow(shape, saved, now);
    if (info.collection !== undefined && held?.info.collection === undefined) {
      const position = () => this.core.position(shape);
      const row = (/** @type {string} */ id) => this.core.documents(shape).get(id);
      this.outbox.follow(shape, { collection: info.collection, id: info.id, position, row });
    }
    const isCached = held ? this.core.position(shape) !== null : saved !== null;
    const ids = [...this.core.documents(shape).keys(), ...this.outbox.ids(shape)];
    this.#mark(followed, ids, isCached ? "cache" : "local");
  }

  /** What a followed shape is; undefined if it is not followed. @param {string} shape */
  info(shape) {
    return this.#shapes.get(shape)?.info;
  }

  /** The shapes that are held for other tabs only. */
  get hidden() {
    return [...this.#shapes].flatMap(([shape, { shown }]) => (shown ? [] : [shape]));
  }

  /** Hold a shape for other tabs only: it has no view any more. @param {string} shape */
  hide(shape) {
    const followed = this.#shapes.get(shape);
    if (followed) this.#shapes.set(shape, new Followed(followed.info, new View(this.decodeRow), false));
  }

  /** @param {string} shape @param {number} now */
  unfollow(shape, now) {
    this.#shapes.delete(shape);
    this.core.unfollow(shape, now);
    this.outbox.unfollow(shape);
  }

  /**
   * The version that a new write of a document is made on: that of the document here, if it is, after all own writes.
   *
   * @param {string} collection
   * @param {string} id
   */
  baseOf(collection, id) {
    for (const [shape, { info }] of this.#shapes) {
      const row = info.collection === collection ? this.core.documents(shape).get(id) : undefined;
      if (row) return row.version + this.outbox.unanswered(collection, id);
    }
    return undefined;
  }

  /** @param {number} now */
  #pump(now) {
    for (;;) {
      const outputs = [...this.core.take(), ...this.outbox.take()];
      if (!outputs.length) return;
      for (const output of outputs) this.#handle(output, now);
    }
  }

  /** @param {import("./core.js").Output | import("./outbox.js").OutboxOutput} output @param {number} now */
  #handle(output, now) {
    switch (output.type) {
      case "changes":
        return this.#changed(output, now);
      case "progress":
        for (const shape of this.#shapes.keys()) this.outbox.moved(shape, now);
        return;
      case "redraw":
        return this.#redraw(output);
      case "status":
        // What could not be reached can be again.
        if (this.core.status === "syncing") this.outbox.hurry(now);
        break;
      case "forget":
        if (!this.core.shapes.includes(output.shape)) this.outbox.unfollow(output.shape);
    }
    this.#outputs.push(output);
  }

  /** @param {Extract<import("./core.js").Output, { type: "changes" }>} output @param {number} now */
  #changed({ shape, source, changes, replayed }, now) {
    const followed = this.#shapes.get(shape);
    if (!followed) return;
    followed.replayed = replayed;
    this.#mark(followed, changes.map(({ id }) => id), source);
    const events = changes.flatMap(({ event }) => event ?? []);
    for (const event of events) followed.events.set(event.id, event);
    this.#outputs.push({ type: "confirmed", shape, changes, position: this.core.position(shape) });
    if (source === "events") this.outbox.eventsApplied(shape, events, now);
    else this.outbox.rowsReplaced(shape, now);
  }

  /** @param {{ collection: string, id: string, shape?: string }} output */
  #redraw({ collection, id, shape: only }) {
    for (const [shape, followed] of this.#shapes) {
      if (followed.info.collection !== collection || (only !== undefined && only !== shape)) continue;
      if (followed.info.id === undefined || followed.info.id === id) followed.dirty.add(id);
    }
  }

  /** @param {Followed} followed @param {string[]} ids @param {Source} source */
  #mark(followed, ids, source) {
    for (const id of ids) followed.dirty.add(id);
    followed.source = source;
  }

  /** @param {string} shape @param {Followed} followed */
  #show(shape, followed) {
    if (!followed.shown) {
      followed.dirty.clear();
      return followed.events.clear();
    }
    if (!followed.dirty.size && followed.source === "local") return;
    const { dirty, events, source, replayed, view } = followed;
    const rows = this.core.documents(shape);
    const changes = view.update(dirty, (id) => this.#see(shape, followed.info, id, rows.get(id)));
    for (const change of events.size ? changes : []) {
      const event = events.get(change.id);
      if (event) change.event = event;
    }
    Object.assign(followed, { dirty: new Set(), events: new Map(), source: "local", replayed: false });
    // The first rows are announced even if there are none: the application may wait for them.
    if (!changes.length && source !== "cache" && source !== "snapshot") return;
    this.#outputs.push({ type: "view", shape, source, changes, replayed });
  }

  /**
   * @param {string} shape
   * @param {ShapeInfo} info
   * @param {string} id
   * @param {import("./store.js").Row | undefined} row - Of that id.
   */
  #see(shape, info, id, row) {
    const writes = this.outbox.shown(shape, id);
    if (!writes.length) return row;
    const showsAll = !isDeclared(shape) || info.matches !== undefined;
    const seen = overlay(row, writes, (write) => showsAll || write.shape === shape);
    if (!seen?.pending || !info.matches) return seen;
    return info.matches(this.decode ? this.decode(seen.doc) : seen.doc) ? seen : undefined;
  }
}
