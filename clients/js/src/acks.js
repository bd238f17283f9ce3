// What a client with an id acknowledges: the positions that are durable here and that the server does not know.

import { distance } from "./positions.js";

export class Acknowledgements {
  /** @type {Map<string, string>} */
  #durable = new Map();
  /** @type {Map<string, string>} */
  #acked = new Map();

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
  }

  /**
   * The durable positions that were not sent on this connection, of shapes that stand in the same log.
   *
   * @param {(shape: string) => string | null} position - The present one; null if the server does not serve the shape.
   */
  open(position) {
    return [...this.#durable].filter(([shape, durable]) => {
      const own = position(shape);
      return own !== null && this.#acked.get(shape) !== durable && !isNaN(distance(durable, own));
    });
  }

  /** @param {[shape: string, position: string][]} positions */
  sent(positions) {
    for (const [shape, position] of positions) this.#acked.set(shape, position);
  }
}
