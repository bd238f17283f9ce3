// Sends the writes of a client, and keeps the promises that an application has of them.

import { randomHex } from "./ids.js";
import { Refusal, pathOf } from "./requests.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./outbox.js").WriteAnswer} WriteAnswer */

/**
 * A write that is queued. `done` resolves with the server's answer; `settled` once the shape that it was made through
 * has the result, too, if it is followed. Both reject with a `Refusal` if the write is taken back.
 *
 * @typedef {object} Written
 * @property {string} id - The id text of the document.
 * @property {string} key - The `Idempotency-Key`, and the `op_id` of the event.
 * @property {Promise<WriteAnswer>} done
 * @property {Promise<void>} settled
 */

export const JSON_BODY = { "Content-Type": "application/json" };

export class Writes {
  /** @type {Map<string, { resolve: (answer: any) => void, reject: (error: Error) => void }>} By key of a write. */
  #waiting = new Map();
  /** @type {Map<string, { shape: string | undefined, resolve: () => void }>} By key: until the shape has the write. */
  #settling = new Map();

  /** @param {import("./client.js").Client<any>} client */
  constructor(client) {
    this.client = client;
  }

  /**
   * Show a write, and send it once it is stored.
   *
   * @param {Omit<QueuedWrite, "key" | "order" | "at" | "base">} write
   * @returns {Promise<Written>}
   */
  async make(write) {
    const { client } = this;
    await client.ready;
    const { engine, options } = client;
    const { outbox } = engine;
    if (client.isClosed) throw new Error("the client is closed");
    if (outbox.size >= options.maxWrites) throw new Error(`${outbox.size} writes are queued already: maxWrites`);
    const base = engine.baseOf(write.collection, write.id);
    const key = randomHex(16);
    const whole = { ...write, key, order: outbox.queue.order + 1, at: Date.now(), ...(base !== undefined && { base }) };
    const promises = this.#promises(key, write.shape);
    client.do(() => outbox.add(whole));
    client.statusChanged();
    try {
      await (await client.store).enqueue(whole);
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      client.do(() => outbox.cancel(key, { status: 0, code: "store_failed", detail }));
      throw error;
    }
    client.do((_, now) => {
      if (!client.isStopped) outbox.start(now);
      if (!client.isStopped) client.tabs?.tab.wrote(whole);
      outbox.stored(key, now);
    });
    return { id: write.id, key, ...promises };
  }

  /** The promises of a write. @param {string} key @param {string | undefined} shape - Through which it was made. */
  #promises(key, shape) {
    /** @type {Promise<WriteAnswer>} */
    const done = new Promise((resolve, reject) => this.#waiting.set(key, { resolve, reject }));
    /** @type {Promise<void>} */
    const over = new Promise((resolve) => this.#settling.set(key, { shape, resolve }));
    const settled = done.then(() => over);
    settled.catch(() => {}); // `onRejected` has it, and not everybody waits
    return { done, settled };
  }

  /** The server has answered. @param {QueuedWrite} write @param {WriteAnswer} answer */
  answered({ key, shape }, answer) {
    const seen = answer.doc === undefined ? answer : { ...answer, doc: this.client.codec.decode(answer.doc) };
    this.#waiting.get(key)?.resolve(seen);
    this.#waiting.delete(key);
    if (!this.client.engine.view(shape ?? "")) this.settled(key);
  }

  /** A shape, or without one every shape has a write. @param {string} key @param {string} [shape] */
  settled(key, shape) {
    const settling = this.#settling.get(key);
    if (shape !== undefined && settling?.shape !== shape) return;
    settling?.resolve();
    this.#settling.delete(key);
  }

  /**
   * A write was taken back. Returns false if it was not made here.
   *
   * @param {string} key
   * @param {import("./outbox.js").Problem} problem
   */
  rejected(key, problem) {
    const waiting = this.#waiting.get(key);
    waiting?.reject(new Refusal(problem));
    return this.#waiting.delete(key);
  }

  /** @param {QueuedWrite} write @param {string | undefined} ifMatch */
  async send({ key, method, collection, id, body }, ifMatch) {
    const { client } = this;
    const { outbox } = client.engine;
    const path = pathOf(collection, method === "POST" ? undefined : id);
    const condition = ifMatch !== undefined && { "If-Match": ifMatch };
    const headers = { "Idempotency-Key": key, ...bodyType(method, body), ...condition };
    try {
      const answer = await client.http.request(method, path, { body, headers });
      if (typeof answer?.version !== "number") throw new Error("the answer is not the server's");
      client.do((_, now) => outbox.answered(key, answer, now));
    } catch (error) {
      client.do((_, now) => {
        if (error instanceof Refusal) outbox.refused(key, error.problem, error.retryAfter, now);
        else outbox.lost(key, now);
      });
    }
  }

  /** Ask the server for a position at or past what it has acknowledged. */
  async askForBarrier() {
    const { client } = this;
    const { outbox } = client.engine;
    try {
      const barrier = await client.barrier();
      client.do((_, now) => outbox.barrierReached(barrier, now));
    } catch (error) {
      const retryAfter = error instanceof Refusal ? error.retryAfter : undefined;
      client.do((_, now) => outbox.barrierFailed(retryAfter, now));
    }
  }
}

/** @param {QueuedWrite["method"]} method @param {any} body @returns {Record<string, string>} */
function bodyType(method, body) {
  if (method === "DELETE") return {};
  if (method !== "PATCH") return JSON_BODY;
  return { "Content-Type": Array.isArray(body) ? "application/json-patch+json" : "application/merge-patch+json" };
}
