// The credential of a connection: which token it uses, when the token ends, and which one the server has refused.

const RENEWAL = 60_000; // ms before the end of a token
const SAME_END = 5000; // ms that two reports of one end may differ by
const ASK_AGAIN = 1000; // ms, at least, between two questions to the token function

export class Credential {
  /** @type {string | null} The token of the present connection, or of the next one. */
  token = null;
  /** @type {string | null} The one that `auth` has sent, until the server has answered. */
  #sent = null;
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
   * Take the token that is to replace the present one. Returns false if this is no other one.
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
    this.#sent = token;
    return true;
  }

  /** The server has accepted what `auth` has sent: that is the token of the connection from here on. */
  renewed() {
    this.token = this.#sent ?? this.token;
    this.#sent = null;
    this.#end = 0;
  }

  /**
   * The server has answered by an error, which is about what `auth` has sent, if it has not answered that.
   *
   * @param {number} wait - Milliseconds that the server asks for.
   * @param {number} now
   */
  failed(wait, now) {
    if (this.#sent !== null) this.renewLater(now, wait);
    this.#sent = null;
  }

  /**
   * No other token is to be had now: ask again once half of the time is over.
   *
   * @param {number} now
   * @param {number} [wait] - Milliseconds, at least.
   */
  renewLater(now, wait = 0) {
    this.renewing = false;
    this.renewAt = now + Math.max(ASK_AGAIN, wait, (this.#end - now) / 2);
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
    this.#sent = null;
    this.#end = 0;
    this.renewing = false;
    this.renewAt = Infinity;
  }
}
