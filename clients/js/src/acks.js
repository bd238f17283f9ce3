// What a client with an id acknowledges: the positions that are durable here and that the server does not know.

import { distance } from "./positions.js";

const EVERY = 1000; // ms
const BY_REQUESTS = 30_000; // ms, so that one at a time is under way

/** @typedef {(shape: string) => string | null} Served - The present position; null if the server does not serve it. */

export class Acknowledgements {
  /** @type {Map<string, string>} */
  #durable = new Map();
  /** @type {Map<string, string>} */
  #acked = new Map();
  /** When to acknowledge; Infinity: nothing is to be. */
  due = Infinity;

  /** @param {string} shape @param {string} position */
  durable(shape, position) {
    this.#durable.set(shape, position);
  }

  /** @param {string} shape */
  forget(shape) {
    this.#durable.delete(shape);
    this.#acked.delete(shape);
  }

  /** A new connection knows nothing of what was sent on the one before. */
  reconnected() {
    this.#acked.clear();
    this.due = Infinity;
  }

  /**
   * Acknowledge after a while, if there is something new.
   *
   * @param {Served} served
   * @param {boolean} oneWay - By a request.
   * @param {number} now
   */
  plan(served, oneWay, now) {
    if (this.due === Infinity && this.#open(served).length) this.due = now + (oneWay ? BY_REQUESTS : EVERY);
  }

  /** The positions to send now, by shape; null if there is nothing new. @param {Served} served */
  take(served) {
    this.due = Infinity;
    const open = this.#open(served);
    for (const [shape, position] of open) this.#acked.set(shape, position);
    return open.length ? Object.fromEntries(open) : null;
  }

  /**
   * The durable positions that were not sent on this connection, of shapes that stand in the same log.
   *
   * @param {Served} served
   */
  #open(served) {
    return [...this.#durable].filter(([shape, durable]) => {
      const own = served(shape);
      return own !== null && this.#acked.get(shape) !== durable && !isNaN(distance(durable, own));
    });
  }
}
