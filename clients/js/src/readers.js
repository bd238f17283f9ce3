// The readers of `changes()`: each gets every change once, in order, at its own pace.

/**
 * Hands on changes to one reader, and holds those that it has not asked for yet.
 *
 * @implements {AsyncIterableIterator<any>}
 */
export class ChangeReader {
  /** @type {any[]} */
  #changes = [];
  #at = 0; // of the next one
  /** @type {(() => void) | null} Continues a `next` that waits. */
  #wake = null;
  #ended = false;
  /** @type {Error | undefined} */
  #error;

  /** @param {number} limit @param {() => void} left */
  constructor(limit, left) {
    this.limit = limit;
    this.left = left;
  }

  /** @param {any} change */
  push(change) {
    if (this.#ended) return;
    this.#changes.push(change);
    this.#wake?.();
    const asked = this.#at + (this.#wake ? 1 : 0);
    if (this.#changes.length - asked <= this.limit) return;
    this.#clear(this.#changes.slice(this.#at, asked));
    this.end(new Error(`the reader lags more than ${this.limit} changes behind: maxChanges`));
    this.left();
  }

  /** @param {Error} [error] */
  end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  #clear(changes = /** @type {any[]} */ ([])) {
    this.#changes = changes;
    this.#at = 0;
  }

  /** @returns {Promise<IteratorResult<any>>} */
  async next() {
    if (this.#wake) throw new Error("one `next` at a time");
    if (this.#at === this.#changes.length && !this.#ended) {
      await new Promise((/** @type {(value?: undefined) => void} */ resolve) => (this.#wake = resolve));
      this.#wake = null;
    }
    if (this.#at < this.#changes.length) {
      const value = this.#changes[this.#at++];
      if (this.#at === this.#changes.length) this.#clear();
      return { value, done: false };
    }
    const error = this.#error;
    this.#error = undefined;
    if (error) throw error;
    return { value: undefined, done: true };
  }

  /** @returns {Promise<IteratorResult<any>>} */
  async return() {
    this.end();
    this.#clear();
    this.left();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
