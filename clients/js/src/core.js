// The sync side of a client without I/O: messages, a clock and the answers of a token function come in; what is to be
// sent, stored and told comes out. `clients/vectors` says case by case what it does.
//
// Each input returns nothing. `take()` returns the outputs since the last call, in order. `due` is when `tick` is to be
// called next. When to connect is in `lifecycle.js`, and what a message does to the documents in `replica.js`.

import { Acknowledgements } from "./acks.js";
import { Lifecycle } from "./lifecycle.js";
import { Pings } from "./pings.js";

/** @typedef {import("./replica.js").Message} Message */
/** @typedef {import("./replica.js").Change} Change */
/** @typedef {import("./store.js").SavedShape} SavedShape */
/** @typedef {import("./store.js").Step} Step */

/**
 * What the core wants done.
 *
 * @typedef {{ type: "connect" }
 *   | { type: "disconnect" }
 *   | { type: "ask", why: import("./lifecycle.js").TokenReason }
 *   | { type: "send", message: Message }
 *   | { type: "acknowledge", vector: Record<string, string> }
 *   | { type: "apply", shape: string, step: Step }
 *   | { type: "forget", shape: string }
 *   | { type: "changes", shape: string, source: Change["source"], changes: Change[], replayed: boolean }
 *   | { type: "progress" }
 *   | { type: "reset", shape: string, reason: string }
 *   | { type: "refused", error: Message }
 *   | { type: "status" }} Output
 */

const RESUBSCRIBE_JITTER = 100; // ms

export class Core extends Lifecycle {
  #remembers = true; // the server stores acknowledgements
  #acks = new Acknowledgements();
  #pings = new Pings();
  /** @type {Map<string, number>} Shape → when to subscribe to it again. */
  #resubscribe = new Map();
  /** The position of a shape; null if the server does not serve it on this connection. @param {string} shape */
  #served = (shape) => (this.#resubscribe.has(shape) ? null : this.position(shape));
  /** True while some committed changes may not be events yet. */
  stale = false;

  /** When `tick` is to be called. @override */
  get due() {
    return Math.min(super.due, this.#acks.due, this.#pings.due, ...this.#resubscribe.values());
  }

  /** @param {string} shape */
  documents(shape) {
    return this.replica.documents(shape);
  }

  /** @param {string} shape */
  position(shape) {
    return this.replica.position(shape);
  }

  /** @param {string} shape */
  isLive(shape) {
    return this.replica.isLive(shape);
  }

  // --- what the application wants ---------------------------------------------------------------------------------

  /**
   * Follow a shape, from what was saved of it.
   *
   * @param {string} shape
   * @param {SavedShape | null} saved
   * @param {number} now
   */
  follow(shape, saved, now) {
    if (this.shapes.includes(shape)) return;
    this.replica.hold(shape, saved);
    if (saved) this.#acks.durable(shape, saved.position);
    if (!this.wanted) return;
    if (!this.isOpen) this.start(now);
    else if (this.oneWay) this.reconnect(now);
    else this.#subscribe(shape);
  }

  /** Follow a shape no more. What is stored of it stays. @param {string} shape @param {number} now */
  unfollow(shape, now) {
    if (!this.shapes.includes(shape)) return;
    this.#drop(shape);
    if (!this.shapes.length) return this.end();
    if (!this.isOpen) return;
    if (this.oneWay) this.reconnect(now);
    else this.send({ type: "unsubscribe", shape });
    this.#settle();
  }

  /**
   * What is stored of a shape has come to `position`.
   *
   * @param {string} shape
   * @param {string} position
   * @param {number} now
   */
  durable(shape, position, now) {
    this.#acks.durable(shape, position);
    this.#planAck(now);
  }

  /**
   * Have the server tell the positions of shapes that are before a barrier, where nothing may happen. By a connection
   * of one way it tells them by itself, every heartbeat.
   *
   * @param {import("./positions.js").Barrier} barrier
   * @param {number} now
   */
  reach(barrier, now) {
    this.#pings.reach(barrier);
    this.#ping(now);
  }

  /** @override @param {number} now */
  tick(now) {
    super.tick(now);
    for (const [shape, at] of this.#resubscribe) if (now >= at) this.#subscribe(shape);
    if (now >= this.#acks.due) {
      const vector = this.#acks.take(this.#served);
      if (vector) this.oneWay ? this.output({ type: "acknowledge", vector }) : this.send({ type: "ack", vector });
    }
    if (now >= this.#pings.due) this.#ping(now);
  }

  /** @protected @override */
  cut() {
    super.cut();
    this.#resubscribe.clear();
    this.#acks.reconnected();
    this.#pings.reconnected();
  }

  // --- messages ---------------------------------------------------------------------------------------------------

  /** @param {Message} message @param {number} now */
  receive(message, now) {
    if (!this.isOpen) return;
    this.heard(now);
    const { type, token_expires_in: left } = message;
    if (left !== undefined) this.tokenEnds(left, now);
    switch (type) {
      case "welcome":
        this.heard(now, message.heartbeat);
        this.#remembers = message.remembered !== false;
        this.tell("syncing");
        return this.#planAck(now);
      case "error":
        return this.#refused(message, now);
      case "authenticated":
        return this.tokenRenewed(message.expires_in, now);
      case "progress":
        this.#setStale(message.stale === true);
    }
    this.#apply(message, now);
    if (type === "progress") this.#pings.answered(now);
    if (type === "progress" || type === "live") this.#ping(now);
  }

  /** @param {Message} message @param {number} now */
  #apply(message, now) {
    const before = message.type === "progress" || message.type === "live" ? this.vector : null;
    const applied = this.replica.apply(message);
    if (!applied) return;
    const { kind, shape, changes, step, reason = "" } = applied;
    if (kind === "hole") {
      if (!this.position(shape)) this.output({ type: "forget", shape });
      return this.again(reason, now);
    }
    if (kind === "reset") {
      this.output({ type: "reset", shape, reason });
    } else if (kind === "snapshot" || kind === "squashed" || kind === "events") {
      this.output({ type: "changes", shape, source: kind, changes, replayed: this.status !== "live" });
    }
    if (step) this.output({ type: "apply", shape, step });
    if (before) this.#moved(before);
    this.#settle();
  }

  /**
   * Have the positions stored that have moved without a change of the documents.
   *
   * @param {Record<string, string>} before
   */
  #moved(before) {
    for (const [shape, position] of Object.entries(this.vector)) {
      if (before[shape] === position) continue;
      this.output({ type: "apply", shape, step: { position, put: [], remove: [], clear: false } });
    }
    this.output({ type: "progress" });
  }

  /** Live once all shapes are, and not while one of them is not. */
  #settle() {
    const { live } = this.replica;
    if (this.status === "live" && !live) this.tell("syncing");
    if (this.status !== "syncing" || !live) return;
    this.attempts = 0;
    this.tell("live");
  }

  /** @param {Message} message @param {number} now */
  #refused(message, now) {
    const { shape, retry_after } = message;
    this.output({ type: "refused", error: message });
    if (shape === undefined) return this.troubled(message, now);
    if (!this.shapes.includes(shape)) return;
    if (retry_after === undefined) return this.#endOf(shape, message.message);
    this.replica.interrupted(shape);
    if (this.oneWay) {
      this.floor = retry_after * 1000;
      return this.again(message.message, now);
    }
    this.#resubscribe.set(shape, now + retry_after * 1000 + this.random() * RESUBSCRIBE_JITTER);
    this.#settle();
  }

  /** A shape is refused for good: forget it with its documents. @param {string} shape @param {string} reason */
  #endOf(shape, reason) {
    const gone = [...this.documents(shape)];
    this.#drop(shape);
    this.output({ type: "forget", shape });
    if (gone.length) {
      const rest = { shape, kind: /** @type {const} */ ("delete"), source: /** @type {const} */ ("snapshot") };
      const changes = gone.map(([id, before]) => ({ ...rest, id, before, after: undefined }));
      this.output({ type: "changes", shape, source: "snapshot", changes, replayed: true });
    }
    // A connection without shapes would be called live.
    if (!this.shapes.length) this.fail(reason);
    else this.#settle();
  }

  /** @param {string} shape */
  #drop(shape) {
    this.replica.forget(shape);
    this.#resubscribe.delete(shape);
    this.#acks.forget(shape);
  }

  /** @param {string} shape */
  #subscribe(shape) {
    this.#resubscribe.delete(shape);
    const position = this.position(shape);
    this.send({ type: "subscribe", shape, ...(position && { position }) });
    this.#settle();
  }

  /** @param {number} now */
  #planAck(now) {
    if (this.clientId && this.#remembers && this.isOpen) this.#acks.plan(this.#served, this.oneWay, now);
  }

  /** @param {number} now */
  #ping(now) {
    if (!this.isOpen || this.oneWay) return;
    const positions = this.shapes.flatMap((shape) => (this.isLive(shape) && this.position(shape)) || []);
    if (this.#pings.take(positions, this.replica.live, now)) this.send({ type: "ping" });
  }

  /** @param {boolean} stale */
  #setStale(stale) {
    if (stale === this.stale) return;
    this.stale = stale;
    this.output({ type: "status" });
  }
}
