// The credential of a connection: which token it uses, when the token ends, and which one the server has refused.

const RENEWAL = 60_000; // ms before the end of a token
const SAME_END = 5000; // ms that two reports of one end may differ by
const ASK_AGAIN = 1000; // ms, at least, between two questions to the token function

export class Credential {
  /** @type {string | null} The token that the next connection uses. */
  token = null;
  /** @type {string | null} */
  #refused = null;
  #end = 0; // 0: not known
  /** When another token is to be asked for; Infinity: never. */
  renewAt = Infinity;
  /** True while the token function is asked for a token that replaces a good one. */
  renewing = false;

  /** The server has refused the present token. */
  refused() {
    this.#refused = this.token;
  }

  /**
   * Use a token for the next connection. Returns false if the server has refused this one.
   *
   * @param {string | null} token
   */
  use(token) {
    if (token !== null && token === this.#refused) return false;
    this.token = token;
    this.#refused = null;
    return true;
  }

  /**
   * Replace the token of the present connection. Returns false if this is no other one.
   *
   * @param {string | null} token
   * @param {number} now
   */
  renew(token, now) {
    if (token === null || token === this.token) {
      this.renewLater(now);
      return false;
    }
    this.renewing = false;
    this.token = token;
    this.#end = 0;
    return true;
  }

  /**
   * No other token is to be had now: ask again once half of the time is over.
   *
   * @param {number} now
   */
  renewLater(now) {
    this.renewing = false;
    this.renewAt = now + Math.max(ASK_AGAIN, (this.#end - now) / 2);
  }

  /**
   * The token ends in so many seconds; undefined: it has no end.
   *
   * @param {number | undefined} seconds
   * @param {number} now
   */
  ends(seconds, now) {
    if (seconds === undefined) return this.disconnected();
    const left = seconds * 1000;
    if (this.#end && Math.abs(this.#end - now - left) <= SAME_END) return;
    this.#end = now + left;
    this.renewAt = now + Math.max(ASK_AGAIN, left - RENEWAL, left / 2);
  }

  disconnected() {
    this.#end = 0;
    this.renewing = false;
    this.renewAt = Infinity;
  }
}
