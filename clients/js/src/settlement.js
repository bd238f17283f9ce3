// How long a client shows each of its writes, without I/O.
//
// A write is shown over the documents of each shape until that shape is known to have it: an event with its `op_id` was
// applied there; or the server has answered it and the shape's rows came later and have its version; or the shape has
// reached a barrier, a position at or past all writes that were acknowledged before it was asked for. `outbox.js`
// extends this by when a write is sent.

import { backoff } from "./backoff.js";
import { WriteQueue, isAnswered } from "./queue.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./pending.js").PendingWrite} PendingWrite */
/** @typedef {import("./pending.js").FollowedShape} FollowedShape */
/** @typedef {import("./outbox.js").OutboxOutput} OutboxOutput */

const BARRIER_AFTER = 2000; // ms that an answered write may miss in a shape
/** @type {readonly QueuedWrite[]} */
const NONE = []; // for each of 100,000 documents, when there are no writes

export class Settlement {
  /** @type {OutboxOutput[]} */
  #outputs = [];
  /** @type {Map<string, FollowedShape>} */
  #shapes = new Map();
  #asking = false; // for a barrier
  #attempts = 0; // to get one

  queue = new WriteQueue();
  /** True while requests may be made. @protected */
  running = false;
  /** When a barrier may be asked for. @protected */
  barrierAt = 0;

  /** @param {{ random?: () => number, wallClock?: () => number }} [options] - `wallClock`: milliseconds since 1970. */
  constructor({ random = Math.random, wallClock = Date.now } = {}) {
    this.random = random;
    this.wallClock = wallClock;
  }

  take() {
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }

  /**
   * The writes that are to be shown over a document of a shape, in order.
   *
   * @param {string} shape
   * @param {string} id
   * @returns {readonly QueuedWrite[]}
   */
  shown(shape, id) {
    const followed = this.#shapes.get(shape);
    if (!followed || !this.queue.size) return NONE;
    const entries = this.queue.of(followed.collection, id);
    return entries.filter((entry) => entry.isMissingIn(shape, followed)).map(({ write }) => write);
  }

  /** The ids of the documents that have a write in a shape. @param {string} shape */
  ids(shape) {
    const followed = this.#shapes.get(shape);
    const entries = this.queue.all.filter((entry) => entry.isMissingIn(shape, followed));
    return [...new Set(entries.map(({ write }) => write.id))];
  }

  // --- the shapes -------------------------------------------------------------------------------------------------

  /** @param {string} shape @param {FollowedShape} followed */
  follow(shape, followed) {
    this.#shapes.set(shape, followed);
    this.mayHave(shape);
  }

  /** @param {string} shape */
  unfollow(shape) {
    this.#shapes.delete(shape);
    for (const entry of this.queue.all) {
      entry.settled.delete(shape);
      entry.doubt.delete(shape);
      this.release(entry);
    }
  }

  /**
   * A shape has other rows, from a snapshot, a squashed answer or a store: they may have writes whose events it never
   * gets.
   *
   * @param {string} shape
   * @param {number} now
   */
  rowsReplaced(shape, now) {
    this.mayHave(shape);
    this.moved(shape, now);
  }

  /** A shape has another position. @param {string} shape @param {number} now */
  moved(shape, now) {
    const followed = this.#shapes.get(shape);
    for (const entry of this.queue.all) {
      if (!followed || !entry.isMissingIn(shape, followed)) continue;
      entry.checkBarrier(followed);
      if (entry.isKnownIn(shape, followed)) this.settle(entry, shape);
    }
    this.askForBarrier(now);
  }

  // --- barriers ---------------------------------------------------------------------------------------------------

  /** @param {import("./positions.js").Barrier} barrier @param {number} now */
  barrierReached(barrier, now) {
    this.#asking = false;
    this.#attempts = 0;
    this.barrierAt = now + BARRIER_AFTER;
    for (const entry of this.queue.all) {
      if (!entry.asked) continue;
      entry.asked = false;
      entry.barrier = barrier;
      this.settleWhereKnown(entry);
    }
    this.askForBarrier(now);
  }

  /** @param {number | undefined} retryAfter @param {number} now */
  barrierFailed(retryAfter, now) {
    this.#asking = false;
    this.#attempts += 1;
    this.barrierAt = now + (retryAfter ?? 1) * 1000 + backoff(this.#attempts, this.random);
    for (const entry of this.queue.all) entry.asked = false;
  }

  /** When a barrier is to be asked for; Infinity: not at all. @protected */
  get barrierDue() {
    if (!this.running || this.#asking) return Infinity;
    const answered = this.#uncovered.reduce((first, { answeredAt }) => Math.min(first, answeredAt), Infinity);
    return Math.max(answered + BARRIER_AFTER, this.barrierAt);
  }

  /** @protected @param {number} now */
  askForBarrier(now) {
    if (!this.running || this.#asking || now < this.barrierAt) return;
    const open = this.#uncovered;
    if (!open.some((entry) => now >= entry.answeredAt + BARRIER_AFTER || this.#isInDoubt(entry))) return;
    for (const entry of open) entry.asked = true;
    this.#asking = true;
    this.output({ type: "barrier" });
  }

  /** The answered writes that some shape may miss, and that no barrier covers yet. */
  get #uncovered() {
    return this.queue.all.filter((entry) => isAnswered(entry) && !entry.barrier && !entry.asked);
  }

  // --- the writes -------------------------------------------------------------------------------------------------

  /** The shapes that may miss a write. @param {PendingWrite} entry */
  #missing(entry) {
    return [...this.#shapes].filter(([shape, followed]) => entry.isMissingIn(shape, followed)).map(([shape]) => shape);
  }

  /** @param {PendingWrite} entry */
  #isInDoubt(entry) {
    return this.#missing(entry).some((shape) => entry.doubt.has(shape));
  }

  /**
   * A shape has got whole documents, or one of them: it may have writes whose events it never gets.
   *
   * @protected
   * @param {string} shape
   * @param {string} [id]
   */
  mayHave(shape, id) {
    for (const { attempted, write, doubt } of this.queue.all) {
      if (attempted && (id === undefined || write.id === id)) doubt.add(shape);
    }
  }

  /** The rows that are here may have a write. @protected @param {PendingWrite} entry */
  doubt(entry) {
    for (const shape of this.#shapes.keys()) entry.doubt.add(shape);
  }

  /** Settle a write in the shapes that are known to have it. @protected @param {PendingWrite} entry */
  settleWhereKnown(entry) {
    for (const [shape, followed] of this.#shapes) {
      if (entry.isMissingIn(shape, followed) && entry.isKnownIn(shape, followed)) this.settle(entry, shape);
    }
  }

  /** @protected @param {PendingWrite} entry @param {string} shape */
  settle(entry, shape) {
    if (entry.settled.has(shape)) return;
    entry.settled.add(shape);
    this.output({ type: "settled", key: entry.write.key, shape });
    this.redraw(entry, shape);
    this.release(entry);
  }

  /** Forget a write that is answered and in all shapes. @protected @param {PendingWrite} entry */
  release(entry) {
    if (!isAnswered(entry) || !this.queue.get(entry.write.key)) return;
    if (!this.#missing(entry).length) this.remove(entry);
  }

  /** @protected @param {PendingWrite} entry */
  remove(entry) {
    this.queue.remove(entry);
    this.output({ type: "dequeue", key: entry.write.key });
  }

  /** @protected @param {PendingWrite} entry @param {string} [shape] */
  redraw({ write: { collection, id } }, shape) {
    this.output({ type: "redraw", collection, id, ...(shape !== undefined && { shape }) });
  }

  /** @protected @param {OutboxOutput} output */
  output(output) {
    this.#outputs.push(output);
  }
}
