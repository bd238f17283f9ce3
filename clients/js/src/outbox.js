// The writes of a client without I/O: which of them is to be sent, and what has become of it. `settlement.js` says how
// long each one is shown.
//
// Like in the core, each input returns nothing; `take()` returns the outputs, and `due` is when to call `tick`.

import { backoff } from "./backoff.js";
import { isAnswered } from "./queue.js";
import { isTemporary } from "./requests.js";
import { Settlement } from "./settlement.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./pending.js").PendingWrite} PendingWrite */
/** @typedef {import("./pending.js").WriteAnswer} WriteAnswer */

/**
 * Why a write was refused: a problem document (RFC 9457), or one that the client has made, with the status 0. `current`:
 * the version that the document has.
 *
 * @typedef {{ status: number, code: string, title?: string, detail?: string, current?: number }} Problem
 */

/**
 * What the outbox wants done. `redraw`: the writes that are shown of a document have changed, in one shape or in all.
 * `settled`: a shape is known to have a write.
 *
 * @typedef {{ type: "request", write: QueuedWrite, ifMatch: string | undefined }
 *   | { type: "barrier" }
 *   | { type: "enqueue", write: QueuedWrite }
 *   | { type: "dequeue", key: string }
 *   | { type: "done", write: QueuedWrite, answer: WriteAnswer }
 *   | { type: "settled", key: string, shape: string }
 *   | { type: "rejected", write: QueuedWrite, problem: Problem }
 *   | { type: "redraw", collection: string, id: string, shape?: string }} OutboxOutput
 */

const HOUR = 3600_000; // ms
const KEY_AGE = 23 * HOUR; // the server keeps keys for 24 h
const PARALLEL = 6; // requests at a time

export class Outbox extends Settlement {
  #sending = 0;
  #leads = true; // false while another tab sends the writes
  #offlineUntil = 0;
  #offlineAttempts = 0;

  /** The number of writes that the server has not answered. */
  get pending() {
    return this.queue.all.filter((entry) => !isAnswered(entry)).length;
  }

  /** The number of writes that are not known to be in all shapes. */
  get size() {
    return this.queue.size;
  }

  /**
   * The number of writes of a document that the server has not answered.
   *
   * @param {string} collection
   * @param {string} id
   */
  unanswered(collection, id) {
    return this.queue.of(collection, id).filter((entry) => !isAnswered(entry)).length;
  }

  // --- other tabs -------------------------------------------------------------------------------------------------

  /** The keys of the writes that are stored, and whether the server has answered them. */
  get keys() {
    const stored = this.queue.all.filter(({ state }) => state !== "storing");
    return stored.map((entry) => /** @type {[string, boolean]} */ ([entry.write.key, isAnswered(entry)]));
  }

  /**
   * Send the writes from now on, or leave that to another tab. What another one may have sent is sent again.
   *
   * @param {boolean} leads
   * @param {number} now
   */
  lead(leads, now) {
    this.#leads = leads;
    for (const entry of this.queue.all) {
      if (entry.state !== "storing") entry.attempted = true;
      if (leads && entry.attempted) this.doubt(entry);
    }
    if (leads) this.hurry(now);
  }

  /**
   * Show a write that another tab has stored. `isNew`: nobody has sent it.
   *
   * @param {QueuedWrite} write
   * @param {boolean} isNew
   * @param {number} now
   */
  adopt(write, isNew, now) {
    this.#adopt(write, isNew);
    this.#send(now);
  }

  /**
   * The server has answered a write that another tab has sent: with 2xx, or with a problem that takes it back.
   *
   * @param {string} key
   * @param {{ answer?: WriteAnswer, problem?: Problem }} outcome
   * @param {number} now
   */
  settledElsewhere(key, { answer, problem }, now) {
    const entry = this.queue.get(key);
    if (!entry || isAnswered(entry)) return;
    if (answer) this.#accept(entry, answer, now);
    else if (problem) this.#reject(entry, problem);
  }

  // --- the application --------------------------------------------------------------------------------------------

  /** @param {number} now */
  start(now) {
    this.running = true;
    this.#send(now);
  }

  /** Send nothing more for now; requests under way may still be answered. */
  stop() {
    this.running = false;
  }

  /** The server can be reached again: send at once. @param {number} now */
  hurry(now) {
    this.#online();
    for (const entry of this.queue.all) entry.retryAt = 0;
    this.barrierAt = 0;
    this.tick(now);
  }

  /** Show a write from now on. It is sent once `stored` says that the store has it. @param {QueuedWrite} write */
  add(write) {
    const entry = this.queue.put(write);
    this.output({ type: "enqueue", write });
    this.redraw(entry);
  }

  /** @param {string} key @param {number} now */
  stored(key, now) {
    const entry = this.queue.get(key);
    if (entry?.state === "storing") entry.state = "queued";
    if (entry && !this.#leads) entry.attempted = true;
    this.#send(now);
  }

  /**
   * Take over writes from the store, which may have been sent before.
   *
   * @param {QueuedWrite[]} writes
   * @param {number} now
   */
  restore(writes, now) {
    for (const write of writes) this.#adopt(write, false);
    this.#send(now);
  }

  /**
   * Take a write back that could not be stored or is not wanted any more; nothing happens once it was sent.
   *
   * @param {string} key
   * @param {Problem} problem
   */
  cancel(key, problem) {
    const entry = this.queue.get(key);
    if (entry && !entry.attempted) this.#reject(entry, problem);
  }

  // --- the server -------------------------------------------------------------------------------------------------

  /**
   * The server has answered a write with 2xx.
   *
   * @param {string} key
   * @param {WriteAnswer} answer
   * @param {number} now
   */
  answered(key, answer, now) {
    const entry = this.#finish(key);
    this.#online();
    if (entry) this.#accept(entry, answer, now);
    this.#send(now);
  }

  /**
   * The server has answered a write with a problem. `retryAfter`: seconds, if it names any.
   *
   * @param {string} key
   * @param {Problem} problem
   * @param {number | undefined} retryAfter
   * @param {number} now
   */
  refused(key, problem, retryAfter, now) {
    const entry = this.#finish(key);
    this.#online();
    // Its event may have been faster than an answer that only says that it is not known.
    if (entry && !isAnswered(entry)) {
      const delay = (retryAfter ?? 0) * 1000 + backoff(entry.attempts - 1, this.random);
      const isUndecided = problem.status === 401 || (problem.code === "conflict" && retryAfter !== undefined);
      if (isUndecided || isTemporary(problem)) entry.retryAt = now + delay;
      else this.#reject(entry, problem);
    }
    this.#send(now);
  }

  /**
   * A request had no answer: its outcome is unknown, and it is sent again with the same key.
   *
   * @param {string} key
   * @param {number} now
   */
  lost(key, now) {
    this.#finish(key);
    this.#offlineUntil = now + backoff(this.#offlineAttempts++, this.random);
    this.#send(now);
  }

  /**
   * Events were applied in a shape, with the versions that they made.
   *
   * @param {string} shape
   * @param {Iterable<{ op_id?: string, version: number, id: string, enter?: boolean }>} events
   * @param {number} now
   */
  eventsApplied(shape, events, now) {
    for (const { op_id, version, id, enter } of events) {
      // A document that enters comes whole, with writes that were made outside of the shape.
      if (enter) this.mayHave(shape, id);
      const entry = op_id === undefined ? undefined : this.queue.get(op_id);
      if (!entry || entry.write.id !== id) continue;
      // Its request may still be under way, or have been lost: it is known to have succeeded.
      this.#accept(entry, { id, version }, now);
      this.settle(entry, shape);
    }
    this.moved(shape, now);
  }

  // --- time -------------------------------------------------------------------------------------------------------

  /** When `tick` is to be called; Infinity if nothing is due. */
  get due() {
    let due = this.barrierDue;
    if (this.running && this.#leads && this.#sending < PARALLEL) {
      for (const entry of this.queue.heads()) due = Math.min(due, Math.max(entry.retryAt, this.#offlineUntil));
    }
    return due;
  }

  /** @param {number} now */
  tick(now) {
    this.#send(now);
    this.askForBarrier(now);
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  #online() {
    this.#offlineUntil = this.#offlineAttempts = 0;
  }

  /** @param {QueuedWrite} write @param {boolean} isNew */
  #adopt(write, isNew) {
    if (this.queue.get(write.key)) return;
    const entry = this.queue.put(write);
    entry.state = "queued";
    entry.attempted = !isNew || !this.#leads;
    if (!isNew) this.doubt(entry);
    this.redraw(entry);
  }

  /** @param {number} now */
  #send(now) {
    if (!this.running || !this.#leads || now < this.#offlineUntil) return;
    for (const entry of this.queue.heads()) {
      if (this.#sending >= PARALLEL) return;
      if (now >= entry.retryAt) this.#request(entry);
    }
  }

  /** @param {PendingWrite} entry */
  #request(entry) {
    const { write } = entry;
    let { ifMatch } = write;
    const isConditional = ifMatch !== undefined && ifMatch !== "*";
    // The server may have forgotten the key, and a repeat must not write twice. A repeated POST is a conflict.
    if (!isConditional && entry.attempted && this.#isOld(write) && write.method !== "POST") {
      if (write.base === undefined) {
        return this.#reject(entry, { status: 0, code: "outcome_unknown", detail: "it is too old to be sent again" });
      }
      ifMatch = `"${write.base}"`;
    }
    entry.state = "sending";
    entry.attempted = true;
    entry.attempts += 1;
    this.#sending += 1;
    this.output({ type: "request", write, ifMatch });
  }

  /** Nobody knows the age of a write that was made later than it is now, by more than a correction of the clock. */
  #isOld(/** @type {QueuedWrite} */ { at }) {
    const age = this.wallClock() - at;
    return age > KEY_AGE || age < -HOUR;
  }

  /** The request of a write is over. @param {string} key */
  #finish(key) {
    this.#sending -= 1;
    const entry = this.queue.get(key);
    if (entry?.state === "sending") entry.state = "queued";
    return entry;
  }

  /** @param {PendingWrite} entry @param {WriteAnswer} answer @param {number} now */
  #accept(entry, answer, now) {
    if (isAnswered(entry)) return;
    Object.assign(entry, { state: "answered", answer, answeredAt: now });
    this.output({ type: "done", write: entry.write, answer });
    this.settleWhereKnown(entry);
    this.release(entry);
    this.askForBarrier(now);
  }

  /** @param {PendingWrite} entry @param {Problem} problem */
  #reject(entry, problem) {
    this.remove(entry);
    this.output({ type: "rejected", write: entry.write, problem });
    this.redraw(entry);
  }
}
