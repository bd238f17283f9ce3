// When to ask a server for its positions: while a shape in which nothing happens is before a barrier.

import { isPast } from "./positions.js";

/** @typedef {import("./positions.js").Barrier} Barrier */

const AGAIN = 250; // ms after an answer of a server that is behind itself

export class Pings {
  /** @type {Barrier | null} */
  #barrier = null;
  #asked = false; // until the `progress` that answers
  /** When to ask again; Infinity: not at all. */
  due = Infinity;

  /** @param {Barrier} barrier - What the shapes are to reach. */
  reach(barrier) {
    const isReached = this.#barrier?.log === barrier.log && this.#barrier.seq > barrier.seq;
    if (!isReached) this.#barrier = barrier;
  }

  reconnected() {
    this.#asked = false;
    this.due = Infinity;
  }

  /**
   * Positions have come, which may be the answer.
   *
   * @param {number} now
   */
  answered(now) {
    if (this.#asked) this.due = now + AGAIN;
    this.#asked = false;
  }

  /**
   * Return true if a ping is to be sent now.
   *
   * @param {string[]} positions - Of the shapes that are live.
   * @param {boolean} isWhole - True if all shapes are.
   * @param {number} now
   */
  take(positions, isWhole, now) {
    const barrier = this.#barrier;
    if (!barrier || this.#asked) return false;
    if (positions.some((position) => isPast(position, barrier) === false)) {
      if (this.due !== Infinity && now < this.due) return false;
      this.due = Infinity;
      return (this.#asked = true);
    }
    this.due = Infinity;
    // What is not live comes to be so past the barrier, or is asked for then.
    if (isWhole) this.#barrier = null;
    return false;
  }
}
