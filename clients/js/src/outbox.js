// The writes of a client without I/O: which of them is to be sent, and in which shapes each one is still to be shown.
//
// A write is shown over the documents of each shape until that shape is known to have it: an event with its `op_id` was
// applied there; or the server has answered it and the shape's rows came later and have its version; or the shape has
// reached a barrier, a position at or past all writes that were acknowledged before it was asked for.
//
// Like in the core, each input returns nothing; `take()` returns the outputs, and `due` is when to call `tick`.

import { PendingWrite } from "./pending.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./pending.js").WriteAnswer} WriteAnswer */
/** @typedef {import("./pending.js").FollowedShape} FollowedShape */

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

const SHORTEST = 250; // ms
const LONGEST = 30_000; // ms
const BARRIER_AFTER = 2000; // ms that an answered write may miss in a shape
const KEY_AGE = 23 * 3600_000; // ms; the server keeps keys for 24 h
const PARALLEL = 6; // requests at a time
/** @type {readonly QueuedWrite[]} */
const NONE = []; // for each of 100,000 documents, when there are no writes

export class Outbox {
  /** @type {OutboxOutput[]} */
  #outputs = [];
  /** @type {Map<string, PendingWrite>} By key, in order. */
  #entries = new Map();
  /** @type {Map<string, PendingWrite[]>} By document, in order. */
  #documents = new Map();
  /** @type {Map<string, FollowedShape>} */
  #shapes = new Map();
  #sending = 0;
  #running = false;
  #leads = true; // false while another tab sends the writes
  #offlineUntil = 0;
  #offlineAttempts = 0;
  #barrier = { asking: false, attempts: 0, notBefore: 0 };

  /** @param {{ random?: () => number }} [options] */
  constructor({ random = Math.random } = {}) {
    this.random = random;
  }

  take() {
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }

  /** The number of writes that the server has not answered. */
  get pending() {
    return [...this.#entries.values()].filter(({ state }) => state !== "answered").length;
  }

  /** The number of writes that are not known to be in all shapes. */
  get size() {
    return this.#entries.size;
  }

  /**
   * The writes that are to be shown over a document of a shape, in order.
   *
   * @param {string} shape
   * @param {string} id
   * @returns {readonly QueuedWrite[]}
   */
  shown(shape, id) {
    if (!this.#entries.size) return NONE;
    const followed = this.#shapes.get(shape);
    const entries = followed ? (this.#documents.get(nameOf(followed.collection, id)) ?? []) : [];
    return entries.filter((entry) => entry.isMissingIn(shape, followed)).map(({ write }) => write);
  }

  /**
   * The ids of the documents that have a write in a shape.
   *
   * @param {string} shape
   */
  ids(shape) {
    const followed = this.#shapes.get(shape);
    const entries = [...this.#entries.values()].filter((entry) => entry.isMissingIn(shape, followed));
    return [...new Set(entries.map(({ write }) => write.id))];
  }

  /**
   * The number of writes of a document that the server has not answered.
   *
   * @param {string} collection
   * @param {string} id
   */
  unanswered(collection, id) {
    return (this.#documents.get(nameOf(collection, id)) ?? []).filter(({ state }) => state !== "answered").length;
  }

  /** The greatest `order` of a write so far. */
  order = 0;

  // --- other tabs -------------------------------------------------------------------------------------------------

  /** The keys of the writes that are stored, and whether the server has answered them. */
  get keys() {
    const stored = [...this.#entries.values()].filter(({ state }) => state !== "storing");
    return stored.map(({ write, state }) => /** @type {[string, boolean]} */ ([write.key, state === "answered"]));
  }

  /** A write that is here, with the answer if there is one. @param {string} key */
  get(key) {
    const entry = this.#entries.get(key);
    return entry && { write: entry.write, answer: entry.answer };
  }

  /**
   * Send the writes from now on, or leave that to another tab. What another one may have sent is sent again.
   *
   * @param {boolean} leads
   * @param {number} now
   */
  lead(leads, now) {
    this.#leads = leads;
    for (const entry of this.#entries.values()) {
      if (entry.state !== "storing") entry.attempted = true;
      if (leads && entry.attempted) this.#doubt(entry);
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
    const entry = this.#entries.get(key);
    if (!entry || entry.state === "answered") return;
    if (answer) this.#accept(entry, answer, now);
    else if (problem) this.#reject(entry, problem);
  }

  // --- the application --------------------------------------------------------------------------------------------

  /** @param {number} now */
  start(now) {
    this.#running = true;
    this.#send(now);
  }

  /** Send nothing more for now; requests under way may still be answered. */
  stop() {
    this.#running = false;
  }

  /**
   * The server can be reached again: send at once.
   *
   * @param {number} now
   */
  hurry(now) {
    this.#offlineUntil = this.#offlineAttempts = 0;
    for (const entry of this.#entries.values()) entry.retryAt = 0;
    this.#barrier.notBefore = 0;
    this.#send(now);
    this.#askForBarrier(now);
  }

  /**
   * Show a write from now on. It is sent once `stored` says that the store has it.
   *
   * @param {QueuedWrite} write
   */
  add(write) {
    const entry = this.#put(write);
    this.#output({ type: "enqueue", write });
    this.#redraw(entry);
  }

  /** @param {string} key @param {number} now */
  stored(key, now) {
    const entry = this.#entries.get(key);
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
    const entry = this.#entries.get(key);
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
    this.#offlineUntil = this.#offlineAttempts = 0;
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
    this.#offlineUntil = this.#offlineAttempts = 0;
    // Its event may have been faster than an answer that only says that it is not known.
    if (entry && entry.state !== "answered") {
      const delay = (retryAfter ?? 0) * 1000 + this.#backoff(entry.attempts - 1);
      if (isTemporary(problem, retryAfter)) entry.retryAt = now + delay;
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
    this.#offlineUntil = now + this.#backoff(this.#offlineAttempts++);
    this.#send(now);
  }

  /** @param {{ log: string, seq: number }} barrier @param {number} now */
  barrierReached(barrier, now) {
    this.#barrier = { asking: false, attempts: 0, notBefore: now + BARRIER_AFTER };
    for (const entry of [...this.#entries.values()]) {
      if (!entry.asked) continue;
      entry.asked = false;
      entry.barrier = barrier;
      this.#settleWhereKnown(entry);
    }
    this.#askForBarrier(now);
  }

  /** @param {number | undefined} retryAfter @param {number} now */
  barrierFailed(retryAfter, now) {
    const attempts = this.#barrier.attempts + 1;
    this.#barrier = { asking: false, attempts, notBefore: now + (retryAfter ?? 1) * 1000 + this.#backoff(attempts) };
    for (const entry of this.#entries.values()) entry.asked = false;
  }

  // --- the shapes -------------------------------------------------------------------------------------------------

  /** @param {string} shape @param {FollowedShape} followed */
  follow(shape, followed) {
    this.#shapes.set(shape, followed);
    this.#mayHave(shape);
  }

  /** @param {string} shape */
  unfollow(shape) {
    this.#shapes.delete(shape);
    for (const entry of [...this.#entries.values()]) {
      entry.settled.delete(shape);
      entry.doubt.delete(shape);
      this.#release(entry);
    }
  }

  /**
   * Events were applied in a shape. `opIds` are theirs, with the versions that they made.
   *
   * @param {string} shape
   * @param {Iterable<{ op_id?: string, version: number, id: string, enter?: boolean }>} events
   * @param {number} now
   */
  eventsApplied(shape, events, now) {
    for (const { op_id, version, id, enter } of events) {
      // A document that enters comes whole, with writes that were made outside of the shape.
      if (enter) this.#mayHave(shape, id);
      const entry = op_id === undefined ? undefined : this.#entries.get(op_id);
      if (!entry || entry.write.id !== id) continue;
      // Its request may still be under way, or have been lost: it is known to have succeeded.
      if (entry.state !== "answered") this.#accept(entry, { id, version }, now);
      this.#settle(entry, shape);
    }
    this.moved(shape, now);
  }

  /**
   * A shape has other rows, from a snapshot, a squashed answer or a store: they may have writes whose events it never
   * gets.
   *
   * @param {string} shape
   * @param {number} now
   */
  rowsReplaced(shape, now) {
    this.#mayHave(shape);
    this.moved(shape, now);
  }

  /**
   * A shape has another position.
   *
   * @param {string} shape
   * @param {number} now
   */
  moved(shape, now) {
    const followed = this.#shapes.get(shape);
    for (const entry of [...this.#entries.values()]) {
      if (!followed || !entry.isMissingIn(shape, followed)) continue;
      entry.checkBarrier(followed);
      if (entry.isKnownIn(shape, followed)) this.#settle(entry, shape);
    }
    this.#askForBarrier(now);
  }

  // --- time -------------------------------------------------------------------------------------------------------

  /** When `tick` is to be called; Infinity if nothing is due. */
  get due() {
    let due = Infinity;
    if (this.#running && this.#leads && this.#sending < PARALLEL) {
      for (const entry of this.#heads()) due = Math.min(due, Math.max(entry.retryAt, this.#offlineUntil));
    }
    if (this.#running && !this.#barrier.asking) {
      const { notBefore } = this.#barrier;
      for (const { answeredAt } of this.#uncovered()) {
        due = Math.min(due, Math.max(answeredAt + BARRIER_AFTER, notBefore));
      }
    }
    return due;
  }

  /** @param {number} now */
  tick(now) {
    this.#send(now);
    this.#askForBarrier(now);
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  /** @param {QueuedWrite} write */
  #put(write) {
    const entry = new PendingWrite(write);
    this.order = Math.max(this.order, write.order);
    this.#entries.set(write.key, entry);
    const name = nameOf(write.collection, write.id);
    const entries = this.#documents.get(name) ?? [];
    // Those of another tab may come late, but nothing comes before what may be under way.
    const before = entries.findLastIndex(({ write: { order }, state }) => {
      return order <= write.order || state === "sending" || state === "answered";
    });
    this.#documents.set(name, [...entries.slice(0, before + 1), entry, ...entries.slice(before + 1)]);
    return entry;
  }

  /** @param {QueuedWrite} write @param {boolean} isNew */
  #adopt(write, isNew) {
    if (this.#entries.has(write.key)) return;
    const entry = this.#put(write);
    entry.state = "queued";
    entry.attempted = !isNew || !this.#leads;
    if (!isNew) this.#doubt(entry);
    this.#redraw(entry);
  }

  /**
   * The rows that are here may have a write.
   *
   * @param {PendingWrite} entry
   */
  #doubt(entry) {
    for (const shape of this.#shapes.keys()) entry.doubt.add(shape);
  }

  /** The first write without an answer of each document, unless it is under way. */
  *#heads() {
    for (const entries of this.#documents.values()) {
      const head = entries.find(({ state }) => state !== "answered");
      if (head?.state === "queued") yield head;
    }
  }

  /** The answered writes that some shape may miss, and that no barrier covers yet. */
  *#uncovered() {
    for (const entry of this.#entries.values()) {
      if (entry.state === "answered" && !entry.barrier && !entry.asked) yield entry;
    }
  }

  /** @param {number} now */
  #send(now) {
    if (!this.#running || !this.#leads || now < this.#offlineUntil) return;
    for (const entry of this.#heads()) {
      if (this.#sending >= PARALLEL) return;
      if (now >= entry.retryAt) this.#request(entry, now);
    }
  }

  /** @param {PendingWrite} entry @param {number} now */
  #request(entry, now) {
    const { write } = entry;
    let { ifMatch } = write;
    // The server may have forgotten the key, and a repeat must not write twice. A repeated POST is a conflict.
    if (ifMatch === undefined && entry.attempted && now - write.at > KEY_AGE && write.method !== "POST") {
      if (write.base === undefined) {
        return this.#reject(entry, { status: 0, code: "outcome_unknown", detail: "it is too old to be sent again" });
      }
      ifMatch = `"${write.base}"`;
    }
    entry.state = "sending";
    entry.attempted = true;
    entry.attempts += 1;
    this.#sending += 1;
    this.#output({ type: "request", write, ifMatch });
  }

  /**
   * The request of a write is over.
   *
   * @param {string} key
   */
  #finish(key) {
    this.#sending -= 1;
    const entry = this.#entries.get(key);
    if (entry?.state === "sending") entry.state = "queued";
    return entry;
  }

  /** @param {PendingWrite} entry @param {WriteAnswer} answer @param {number} now */
  #accept(entry, answer, now) {
    if (entry.state === "answered") return;
    Object.assign(entry, { state: "answered", answer, answeredAt: now });
    this.#output({ type: "done", write: entry.write, answer });
    this.#settleWhereKnown(entry);
    this.#release(entry);
    this.#askForBarrier(now);
  }

  /** @param {PendingWrite} entry @param {Problem} problem */
  #reject(entry, problem) {
    this.#remove(entry);
    this.#output({ type: "rejected", write: entry.write, problem });
    this.#redraw(entry);
  }

  /**
   * Settle a write in the shapes that are known to have it.
   *
   * @param {PendingWrite} entry
   */
  #settleWhereKnown(entry) {
    for (const [shape, followed] of this.#shapes) {
      if (!entry.isMissingIn(shape, followed)) continue;
      if (entry.isKnownIn(shape, followed)) this.#settle(entry, shape);
    }
  }

  /** @param {PendingWrite} entry @param {string} shape */
  #settle(entry, shape) {
    if (entry.settled.has(shape)) return;
    entry.settled.add(shape);
    this.#output({ type: "settled", key: entry.write.key, shape });
    this.#redraw(entry, shape);
    this.#release(entry);
  }

  /**
   * Forget a write that is answered and in all shapes.
   *
   * @param {PendingWrite} entry
   */
  #release(entry) {
    if (entry.state !== "answered" || !this.#entries.has(entry.write.key)) return;
    if (!this.#missing(entry).length) this.#remove(entry);
  }

  /** @param {PendingWrite} entry */
  #remove(entry) {
    const { key, collection, id } = entry.write;
    this.#entries.delete(key);
    const name = nameOf(collection, id);
    const left = (this.#documents.get(name) ?? []).filter((other) => other !== entry);
    if (left.length) this.#documents.set(name, left);
    else this.#documents.delete(name);
    this.#output({ type: "dequeue", key });
  }

  /** @param {number} now */
  #askForBarrier(now) {
    if (!this.#running || this.#barrier.asking || now < this.#barrier.notBefore) return;
    const open = [...this.#uncovered()];
    if (!open.some((entry) => now >= entry.answeredAt + BARRIER_AFTER || this.#isInDoubt(entry))) return;
    for (const entry of open) entry.asked = true;
    this.#barrier.asking = true;
    this.#output({ type: "barrier" });
  }

  /**
   * The shapes that may miss a write.
   *
   * @param {PendingWrite} entry
   */
  #missing(entry) {
    return [...this.#shapes].filter(([shape, followed]) => entry.isMissingIn(shape, followed)).map(([shape]) => shape);
  }

  /**
   * A shape has got whole documents, or one of them: it may have writes whose events it never gets.
   *
   * @param {string} shape
   * @param {string} [id]
   */
  #mayHave(shape, id) {
    for (const { attempted, write, doubt } of this.#entries.values()) {
      if (attempted && (id === undefined || write.id === id)) doubt.add(shape);
    }
  }

  /** @param {PendingWrite} entry */
  #isInDoubt(entry) {
    return this.#missing(entry).some((shape) => entry.doubt.has(shape));
  }

  /** @param {number} attempts */
  #backoff(attempts) {
    return this.random() * Math.min(LONGEST, SHORTEST * 2 ** Math.min(attempts, 16));
  }

  /** @param {PendingWrite} entry @param {string} [shape] */
  #redraw({ write: { collection, id } }, shape) {
    this.#output({ type: "redraw", collection, id, ...(shape !== undefined && { shape }) });
  }

  /** @param {OutboxOutput} output */
  #output(output) {
    this.#outputs.push(output);
  }
}

/** @param {string} collection @param {string} id */
function nameOf(collection, id) {
  return `${collection}/${id}`; // no slash is in a collection's name
}

/**
 * Return true if the same request may succeed later.
 *
 * @param {Problem} problem
 * @param {number | undefined} retryAfter
 */
function isTemporary({ status, code }, retryAfter) {
  return status >= 500 || [401, 408, 425, 429].includes(status) || (code === "conflict" && retryAfter !== undefined);
}
