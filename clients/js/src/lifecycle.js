// The life of a connection without I/O: when a client connects, with which token, when it gives a connection up, and
// when it tries again. `core.js` extends this by what the messages say.

import { backoff } from "./backoff.js";
import { Credential } from "./credential.js";
import { Replica } from "./replica.js";

/** @typedef {import("./replica.js").Message} Message */
/** @typedef {import("./core.js").Output} Output */

/** @typedef {"connecting" | "syncing" | "live" | "waiting" | "failed" | "stopped"} StatusName */

/**
 * Why a token is asked for: before a connection, before the present one ends, or because the server refused it.
 *
 * @typedef {"connect" | "expiring" | "refused"} TokenReason
 */

const OPENING = 20_000; // ms without `welcome`
const ASKING = 60_000; // ms that the token function may take
const NO_TOKEN = "the token function does not answer";
const SILENT = "the server was silent for too long";
const NO_HELLO = 4408; // this client was suspended before it could say it
const BEATS = 2.5; // heartbeats without a message

export class Lifecycle {
  /** @type {Output[]} */
  #outputs = [];
  /** @type {"off" | "asking" | "opening" | "open" | "waiting"} */
  #phase = "off";
  #asked = ""; // the shapes when the transport was opened
  #credential = new Credential();
  /** @type {TokenReason} */
  #why = "connect";
  #silence = OPENING;
  #silentAt = Infinity; // when the present silence is too long

  /** @protected */
  replica = new Replica();
  /** True between `start` and `stop`. @protected */
  wanted = false;
  /** True while nothing can be sent by the connection. @protected */
  oneWay = false;
  /** Milliseconds that the server asks a client to stay away. @protected */
  floor = 0;
  /** The last error of this connection that names no shape. @protected @type {Message | null} */
  error = null;
  /** Attempts in a row that did not become live. */
  attempts = 0;
  /** When the next attempt to connect is due; Infinity if none is. */
  reconnectAt = Infinity;

  /** @type {StatusName} */
  status = "stopped";
  /** Why the client waits or has failed. */
  reason = "";
  /** The close code that the client has failed with; 0 without one. */
  code = 0;
  /** Milliseconds of the present delay. */
  delay = 0;

  /** @param {{ clientId?: string, hasToken?: boolean, random?: () => number }} [options] */
  constructor({ clientId, hasToken = false, random = Math.random } = {}) {
    this.clientId = clientId;
    this.hasToken = hasToken;
    this.random = random;
  }

  /** The outputs since the last call. */
  take() {
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }

  /** When `tick` is to be called, by the clock of the other calls; Infinity if nothing is due. */
  get due() {
    return Math.min(this.reconnectAt, this.#silentAt, this.#credential.renewAt);
  }

  /** The token that the next connection uses, or null. */
  get token() {
    return this.#credential.token;
  }

  get vector() {
    return this.replica.vector;
  }

  get shapes() {
    return this.replica.shapes;
  }

  /** @protected */
  get isOpen() {
    return this.#phase === "open";
  }

  // --- what the application wants ---------------------------------------------------------------------------------

  /** @param {number} now */
  start(now) {
    this.wanted = true;
    if (this.#phase === "off" && this.shapes.length) this.#begin(now);
  }

  /** End the connection. The documents stay; `start` continues from them. */
  stop() {
    this.wanted = false;
    this.end();
  }

  /** Connect at once if the client waits for its next attempt. @param {number} now */
  hurry(now) {
    if (this.#phase === "waiting") this.#begin(now);
  }

  /** Give up the connection, if there is one, and make another one at once. @param {number} now */
  reconnect(now) {
    if (!this.wanted || !this.shapes.length) return;
    this.cut();
    this.#begin(now);
  }

  // --- the token function -----------------------------------------------------------------------------------------

  /** The token function has answered. @param {string | null} token @param {number} now */
  tokenAnswered(token, now) {
    if (this.#credential.renewing) return this.#renewed(token, now);
    if (this.#phase !== "asking") return;
    if (this.#credential.use(token)) this.#open(now);
    else this.fail(this.reason, 4401);
  }

  /** The token function has failed. @param {string} reason @param {number} now */
  tokenFailed(reason, now) {
    if (this.#credential.renewing) this.#credential.renewLater(now);
    else if (this.#phase === "asking") this.again(`no token: ${reason}`, now);
  }

  /** @param {string | null} token @param {number} now */
  #renewed(token, now) {
    if (!this.#credential.renew(token, now)) return;
    if (this.oneWay) {
      this.cut();
      this.#credential.use(token);
      this.#open(now);
    } else {
      this.send({ type: "auth", token });
    }
  }

  /** The server has answered `auth`. @protected @param {number | undefined} seconds @param {number} now */
  tokenRenewed(seconds, now) {
    this.#credential.renewed();
    this.tokenEnds(seconds, now);
  }

  /**
   * An error that names no shape: a close follows, or nothing is lost.
   *
   * @protected @param {Message} error @param {number} now
   */
  troubled(error, now) {
    this.error = error;
    this.floor = (error.retry_after ?? 0) * 1000;
    this.#credential.failed(this.floor, now);
  }

  /**
   * The server has said when the token ends; undefined: never.
   *
   * @protected @param {number | undefined} seconds @param {number} now
   */
  tokenEnds(seconds, now) {
    if (this.hasToken) this.#credential.ends(seconds, now);
  }

  // --- the connection ---------------------------------------------------------------------------------------------

  /**
   * The transport has connected. With `oneWay` nothing can be sent by it: its request has named shapes and vector.
   *
   * @param {number} now
   * @param {{ oneWay?: boolean }} [options]
   */
  opened(now, { oneWay = false } = {}) {
    if (this.#phase !== "opening") return;
    // A request of one way has named the shapes of the time when it was made.
    if (oneWay && this.shapes.join() !== this.#asked) return this.reconnect(now);
    this.#phase = "open";
    this.oneWay = oneWay;
    this.heard(now);
    if (oneWay) return;
    const { shapes, vector, clientId, token } = this;
    const identity = { ...(clientId && { client_id: clientId }), ...(token !== null && { token }) };
    this.send({ type: "hello", shapes, vector, ...identity });
  }

  /**
   * The connection is not silent. `heartbeat`: the seconds between two messages, from now on.
   *
   * @protected @param {number} now @param {number} [heartbeat]
   */
  heard(now, heartbeat) {
    if (heartbeat !== undefined) this.#silence = heartbeat * 1000 * BEATS;
    this.#silentAt = now + this.#silence;
  }

  /**
   * The connection has ended. `code`: a WebSocket's close code, or 4000 + the status of an HTTP answer.
   *
   * `retryAfter`: milliseconds that the server asks a client to stay away.
   *
   * @param {{ code?: number, reason?: string, retryAfter?: number }} ending
   * @param {number} now
   */
  closed({ code = 0, reason = "", retryAfter = 0 }, now) {
    if (!this.isOpen && this.#phase !== "opening") return;
    this.floor = Math.max(this.floor, retryAfter);
    const { error } = this;
    if (code === 4401 || (!code && this.oneWay && error?.code === "unauthenticated")) {
      return this.#unauthenticated(reason || error?.reason || "unauthenticated", now);
    }
    if (code === 4403 && reason === "subject_changed" && this.hasToken) return this.again(reason, now);
    const said = reason || error?.message;
    // 44xx: the server refuses what this client asks; asking again unchanged is pointless, but for a late `hello`.
    if (code >= 4400 && code < 4500 && code !== NO_HELLO) return this.fail(said || `closed with ${code}`, code);
    this.again(said || "the connection was lost", now);
  }

  /** Do what is due. @param {number} now */
  tick(now) {
    if (now >= this.#silentAt) this.again(this.#phase === "asking" ? NO_TOKEN : SILENT, now);
    if (now >= this.reconnectAt) this.#begin(now);
    if (now >= this.#credential.renewAt) {
      this.#credential.renewAt = Infinity;
      this.#credential.renewing = true;
      this.output({ type: "ask", why: "expiring" });
    }
  }

  /** @param {number} now */
  #begin(now) {
    this.reconnectAt = Infinity;
    this.tell("connecting");
    if (!this.hasToken) return this.#open(now);
    this.#phase = "asking";
    this.#silentAt = now + ASKING;
    this.output({ type: "ask", why: this.#why });
    this.#why = "connect";
  }

  /** @param {number} now */
  #open(now) {
    this.#phase = "opening";
    this.#asked = this.shapes.join();
    this.#silence = OPENING;
    this.heard(now);
    this.output({ type: "connect" });
  }

  /** Leave the present connection, whatever state it is in. @protected */
  cut() {
    if (this.isOpen || this.#phase === "opening") this.output({ type: "disconnect" });
    this.#phase = "off";
    this.oneWay = false;
    this.#credential.disconnected();
    this.error = null;
    this.reconnectAt = this.#silentAt = Infinity;
    this.replica.reconnected();
  }

  /** End the connection: nothing is wanted of it. @protected */
  end() {
    this.cut();
    this.attempts = this.floor = 0;
    this.tell("stopped");
  }

  /** End after a permanent refusal. @protected @param {string} reason @param {number} [code] */
  fail(reason, code = 0) {
    this.cut();
    this.tell("failed", reason, code);
  }

  /** Connect again after a while. @protected @param {string} reason @param {number} now */
  again(reason, now) {
    this.cut();
    this.delay = this.floor + backoff(this.attempts++, this.random);
    this.floor = 0;
    this.#phase = "waiting";
    this.reconnectAt = now + this.delay;
    this.tell("waiting", reason);
  }

  /** @param {string} reason @param {number} now */
  #unauthenticated(reason, now) {
    if (!this.hasToken) return this.fail(reason, 4401);
    this.#credential.refused();
    this.#why = "refused";
    this.again(reason, now);
  }

  // --- outputs ----------------------------------------------------------------------------------------------------

  /** @protected @param {StatusName} status @param {string} [reason] @param {number} [code] */
  tell(status, reason = "", code = 0) {
    Object.assign(this, { status, reason: status === "connecting" ? this.reason : reason, code });
    this.output({ type: "status" });
  }

  /** @protected @param {Message} message */
  send(message) {
    this.output({ type: "send", message });
  }

  /** @protected @param {Output} output */
  output(output) {
    this.#outputs.push(output);
  }
}
