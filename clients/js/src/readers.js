// The readers of `changes()`: each gets every change once, in order, at its own pace.

/**
 * Hands on changes to one reader, and holds those that it has not asked for yet.
 *
 * @implements {AsyncIterableIterator<any>}
 */
export class ChangeReader {
  /** @type {any[]} */
  #changes = [];
  #at = 0;
  /** @type {{ resolve: (result: IteratorResult<any>) => void, reject: (error: Error) => void } | null} */
  #waiting = null;
  #ended = false;
  /** @type {Error | null} */
  #error = null;

  /** @param {number} limit @param {() => void} left */
  constructor(limit, left) {
    this.limit = limit;
    this.left = left;
  }

  /** @param {any} change */
  push(change) {
    if (this.#ended) return;
    if (this.#waiting) {
      const { resolve } = this.#waiting;
      this.#waiting = null;
      return resolve({ value: change, done: false });
    }
    this.#changes.push(change);
    if (this.#changes.length - this.#at <= this.limit) return;
    this.#changes = [];
    this.#at = 0;
    this.end(new Error(`the reader lags more than ${this.limit} changes behind: maxChanges`));
    this.left();
  }

  /** @param {Error} [error] */
  end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error ?? null;
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting && this.#error) waiting.reject(this.#take());
    else waiting?.resolve({ value: undefined, done: true });
  }

  #take() {
    const error = /** @type {Error} */ (this.#error);
    this.#error = null;
    return error;
  }

  /** @returns {Promise<IteratorResult<any>>} */
  async next() {
    if (this.#at < this.#changes.length) {
      const value = this.#changes[this.#at++];
      if (this.#at === this.#changes.length) [this.#changes, this.#at] = [[], 0];
      return { value, done: false };
    }
    if (this.#error) throw this.#take();
    if (this.#ended) return { value: undefined, done: true };
    if (this.#waiting) throw new Error("one `next` at a time");
    return new Promise((resolve, reject) => (this.#waiting = { resolve, reject }));
  }

  /** @returns {Promise<IteratorResult<any>>} */
  async return() {
    this.end();
    this.#changes = [];
    this.#at = 0;
    this.left();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
