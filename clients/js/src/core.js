// The sync side of a client without I/O: messages, a clock and the answers of a token function come in; what is to be
// sent, stored and told comes out. `clients/vectors` says case by case what it does.
//
// Each input returns nothing. `take()` returns the outputs since the last call, in order. `due` is when `tick` is to be
// called next.

import { Acknowledgements } from "./acks.js";
import { Credential } from "./credential.js";
import { Pings } from "./pings.js";
import { Replica } from "./replica.js";

/** @typedef {import("./replica.js").Message} Message */
/** @typedef {import("./replica.js").Change} Change */
/** @typedef {import("./store.js").SavedShape} SavedShape */
/** @typedef {import("./store.js").Step} Step */

/** @typedef {"connecting" | "syncing" | "live" | "waiting" | "failed" | "stopped"} StatusName */

/**
 * Why a token is asked for: before a connection, before the present one ends, or because the server refused it.
 *
 * @typedef {"connect" | "expiring" | "refused"} TokenReason
 */

/**
 * What the core wants done.
 *
 * @typedef {{ type: "connect" }
 *   | { type: "disconnect" }
 *   | { type: "ask", why: TokenReason }
 *   | { type: "send", message: Message }
 *   | { type: "apply", shape: string, step: Step }
 *   | { type: "forget", shape: string }
 *   | { type: "changes", shape: string, source: Change["source"], changes: Change[], replayed: boolean }
 *   | { type: "progress" }
 *   | { type: "reset", shape: string, reason: string }
 *   | { type: "refused", error: Message }
 *   | { type: "status" }} Output
 */

const SHORTEST = 250; // ms, the ceiling of the first delay
const LONGEST = 30_000; // ms, of all others
const OPENING = 20_000; // ms without `welcome`
const ASKING = 60_000; // ms that the token function may take
const ACK_EVERY = 1000; // ms
const RESUBSCRIBE_JITTER = 100; // ms
const NO_TOKEN = "the token function does not answer";
const SILENT = "the server was silent for too long";
const BEATS = 2.5; // heartbeats without a message

/**
 * 44xx: the server refuses what this client asks; asking again unchanged is pointless.
 *
 * @param {number} code
 */
const isFinal = (code) => code >= 4400 && code < 4500;

export class Core {
  /** @type {Output[]} */
  #outputs = [];
  #replica = new Replica();
  /** @type {"off" | "asking" | "opening" | "open" | "waiting"} */
  #phase = "off";
  #wanted = false; // true between start and stop
  #oneWay = false;
  #asked = ""; // the shapes when the transport was opened
  #attempts = 0; // since the client was last live
  #credential = new Credential();
  /** @type {TokenReason} */
  #why = "connect";
  #floor = 0; // ms that the server asks a client to stay away
  /** @type {Message | null} The last error of this connection that names no shape. */
  #error = null;
  #silence = OPENING;
  #remembered = true;
  #acks = new Acknowledgements();
  #pings = new Pings();
  /** @type {Map<string, number>} Shape → when to subscribe to it again. */
  #resubscribe = new Map();
  /** When something is due; Infinity: never. */
  #at = { reconnect: Infinity, silence: Infinity, ack: Infinity };

  /** @type {StatusName} */
  status = "stopped";
  /** Why the client waits or has failed. */
  reason = "";
  /** The close code that the client has failed with; 0 without one. */
  code = 0;
  /** True while some committed changes may not be events yet. */
  stale = false;
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
    const others = [this.#credential.renewAt, this.#pings.due];
    return Math.min(...Object.values(this.#at), ...others, ...this.#resubscribe.values());
  }

  /** When the next attempt to connect is due; Infinity if none is. */
  get reconnectAt() {
    return this.#at.reconnect;
  }

  /** Attempts in a row that did not become live. */
  get attempts() {
    return this.#attempts;
  }

  /** The token that the next connection uses, or null. */
  get token() {
    return this.#credential.token;
  }

  get vector() {
    return this.#replica.vector;
  }

  get shapes() {
    return this.#replica.shapes;
  }

  /** @param {string} shape */
  documents(shape) {
    return this.#replica.documents(shape);
  }

  /** @param {string} shape */
  position(shape) {
    return this.#replica.position(shape);
  }

  /** @param {string} shape */
  isLive(shape) {
    return this.#replica.isLive(shape);
  }

  // --- what the application wants ---------------------------------------------------------------------------------

  /** @param {number} now */
  start(now) {
    this.#wanted = true;
    if (this.#phase === "off" && this.shapes.length) this.#begin(now);
  }

  /** End the connection. The documents stay; `start` continues from them. */
  stop() {
    this.#wanted = false;
    this.#off("stopped");
  }

  /**
   * Connect at once if the client waits for its next attempt.
   *
   * @param {number} now
   */
  hurry(now) {
    if (this.#phase === "waiting") this.#begin(now);
  }

  /**
   * Give up the connection, if there is one, and make another one at once.
   *
   * @param {number} now
   */
  reconnect(now) {
    if (!this.#wanted || !this.shapes.length) return;
    this.#cut();
    this.#begin(now);
  }

  /**
   * Follow a shape, from what was saved of it.
   *
   * @param {string} shape
   * @param {SavedShape | null} saved
   * @param {number} now
   */
  follow(shape, saved, now) {
    if (this.shapes.includes(shape)) return;
    this.#replica.hold(shape, saved);
    if (saved) this.#acks.durable(shape, saved.position);
    if (!this.#wanted) return;
    if (this.#phase === "off") this.#begin(now);
    else if (this.#phase === "open" && this.#oneWay) this.reconnect(now);
    else if (this.#phase === "open") this.#subscribe(shape);
  }

  /**
   * Follow a shape no more. What is stored of it stays.
   *
   * @param {string} shape
   * @param {number} now
   */
  unfollow(shape, now) {
    if (!this.shapes.includes(shape)) return;
    this.#drop(shape);
    if (!this.shapes.length) return this.#off("stopped");
    if (this.#phase !== "open") return;
    if (this.#oneWay) this.reconnect(now);
    else this.#output({ type: "send", message: { type: "unsubscribe", shape } });
    this.#settle();
  }

  /**
   * What is stored of a shape has come to `position`.
   *
   * @param {string} shape
   * @param {string} position
   * @param {number} now
   */
  durable(shape, position, now) {
    this.#acks.durable(shape, position);
    this.#planAck(now);
  }

  /**
   * Have the server tell the positions of shapes that are before a barrier, where nothing may happen. By a connection
   * of one way it tells them by itself, every heartbeat.
   *
   * @param {import("./positions.js").Barrier} barrier
   * @param {number} now
   */
  reach(barrier, now) {
    this.#pings.reach(barrier);
    this.#ping(now);
  }

  // --- the token function -----------------------------------------------------------------------------------------

  /**
   * The token function has answered.
   *
   * @param {string | null} token
   * @param {number} now
   */
  tokenAnswered(token, now) {
    if (this.#credential.renewing) return this.#renewed(token, now);
    if (this.#phase !== "asking") return;
    if (this.#credential.use(token)) this.#open(now);
    else this.#fail(this.reason, 4401);
  }

  /**
   * The token function has failed.
   *
   * @param {string} reason
   * @param {number} now
   */
  tokenFailed(reason, now) {
    if (this.#credential.renewing) this.#credential.renewLater(now);
    else if (this.#phase === "asking") this.#again(`no token: ${reason}`, now);
  }

  /** @param {string | null} token @param {number} now */
  #renewed(token, now) {
    if (!this.#credential.renew(token, now)) return;
    if (this.#oneWay) {
      this.#cut();
      this.#open(now);
    } else {
      this.#output({ type: "send", message: { type: "auth", token } });
    }
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
    this.#oneWay = oneWay;
    this.#watch(now);
    if (oneWay) return;
    const { shapes, vector, clientId } = this;
    const { token } = this.#credential;
    const identity = { ...(clientId && { client_id: clientId }), ...(token !== null && { token }) };
    this.#output({ type: "send", message: { type: "hello", shapes, vector, ...identity } });
  }

  /** @param {Message} message @param {number} now */
  receive(message, now) {
    if (this.#phase !== "open") return;
    this.#watch(now);
    switch (message.type) {
      case "welcome":
        this.#silence = message.heartbeat * 1000 * BEATS;
        this.#remembered = message.remembered !== false;
        this.#watch(now);
        this.#tell("syncing");
        this.#planAck(now);
        return;
      case "error":
        return this.#refused(message, now);
      case "authenticated":
        return this.#tokenEnds(message.expires_in, now);
      case "progress":
        if (message.token_expires_in !== undefined) this.#tokenEnds(message.token_expires_in, now);
        this.#setStale(message.stale === true);
    }
    this.#apply(message, now);
    if (message.type === "progress") this.#pings.answered(now);
    if (message.type === "progress" || message.type === "live") this.#ping(now);
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
    if (this.#phase !== "open" && this.#phase !== "opening") return;
    this.#floor = Math.max(this.#floor, retryAfter);
    const error = this.#error;
    if (code === 4401 || (!code && this.#oneWay && error?.code === "unauthenticated")) {
      return this.#unauthenticated(reason || error?.reason || "unauthenticated", now);
    }
    if (code === 4403 && reason === "subject_changed" && this.hasToken) return this.#again(reason, now);
    if (isFinal(code)) return this.#fail(reason || error?.message || `closed with ${code}`, code);
    this.#again(reason || error?.message || "the connection was lost", now);
  }

  /**
   * Do what is due.
   *
   * @param {number} now
   */
  tick(now) {
    if (now >= this.#at.silence) this.#again(this.#phase === "asking" ? NO_TOKEN : SILENT, now);
    if (now >= this.#at.reconnect) this.#begin(now);
    if (now >= this.#credential.renewAt) {
      this.#credential.renewAt = Infinity;
      this.#credential.renewing = true;
      this.#output({ type: "ask", why: "expiring" });
    }
    for (const [shape, at] of this.#resubscribe) if (now >= at) this.#subscribe(shape);
    if (now >= this.#at.ack) this.#ack();
    if (now >= this.#pings.due) this.#ping(now);
  }

  /** @param {number | undefined} seconds @param {number} now */
  #tokenEnds(seconds, now) {
    if (this.hasToken) this.#credential.ends(seconds, now);
  }

  /** @param {number} now */
  #begin(now) {
    this.#at.reconnect = Infinity;
    this.#replica.reconnected();
    this.#tell("connecting");
    if (!this.hasToken) return this.#open(now);
    this.#phase = "asking";
    this.#at.silence = now + ASKING;
    this.#output({ type: "ask", why: this.#why });
    this.#why = "connect";
  }

  /** @param {number} now */
  #open(now) {
    this.#phase = "opening";
    this.#asked = this.shapes.join();
    this.#silence = OPENING;
    this.#watch(now);
    this.#output({ type: "connect" });
  }

  /** Leave the present connection, whatever state it is in. */
  #cut() {
    if (this.#phase === "open" || this.#phase === "opening") this.#output({ type: "disconnect" });
    this.#phase = "off";
    this.#oneWay = false;
    this.#credential.disconnected();
    this.#error = null;
    this.#at = { reconnect: Infinity, silence: Infinity, ack: Infinity };
    this.#resubscribe.clear();
    this.#acks.reconnected();
    this.#pings.reconnected();
    this.#replica.reconnected();
  }

  /** @param {StatusName} status */
  #off(status) {
    this.#cut();
    this.#attempts = 0;
    this.#floor = 0;
    this.#tell(status);
  }

  /**
   * End after a permanent refusal.
   *
   * @param {string} reason
   * @param {number} [code]
   */
  #fail(reason, code = 0) {
    this.#cut();
    this.#tell("failed", reason, code);
  }

  /**
   * Reconnect after exponential backoff with full jitter, so that many clients do not return at the same time.
   *
   * @param {string} reason
   * @param {number} now
   */
  #again(reason, now) {
    this.#cut();
    const ceiling = Math.min(LONGEST, SHORTEST * 2 ** Math.min(this.#attempts++, 16));
    this.delay = this.#floor + this.random() * ceiling;
    this.#floor = 0;
    this.#phase = "waiting";
    this.#at.reconnect = now + this.delay;
    this.#tell("waiting", reason);
  }

  /** @param {string} reason @param {number} now */
  #unauthenticated(reason, now) {
    if (!this.hasToken) return this.#fail(reason, 4401);
    this.#credential.refused();
    this.#why = "refused";
    this.#again(reason, now);
  }

  /** @param {number} now */
  #watch(now) {
    this.#at.silence = now + this.#silence;
  }

  // --- messages ---------------------------------------------------------------------------------------------------

  /** @param {Message} message @param {number} now */
  #apply(message, now) {
    const before = message.type === "progress" || message.type === "live" ? this.vector : null;
    const applied = this.#replica.apply(message);
    if (!applied) return;
    const { kind, shape, changes, step, reason = "" } = applied;
    if (kind === "hole") {
      if (!this.#replica.position(shape)) this.#output({ type: "forget", shape });
      return this.#again(reason, now);
    }
    if (kind === "reset") {
      this.#output({ type: "reset", shape, reason });
      this.#settle();
      return;
    }
    if (kind === "snapshot" || kind === "squashed" || kind === "events") {
      const replayed = this.status !== "live";
      this.#output({ type: "changes", shape, source: kind, changes, replayed });
    }
    if (step) this.#output({ type: "apply", shape, step });
    if (before) this.#moved(before);
    this.#settle();
  }

  /**
   * Have the positions stored that have moved without a change of the documents.
   *
   * @param {Record<string, string>} before
   */
  #moved(before) {
    for (const [shape, position] of Object.entries(this.vector)) {
      if (before[shape] === position) continue;
      this.#output({ type: "apply", shape, step: { position, put: [], remove: [], clear: false } });
    }
    this.#output({ type: "progress" });
  }

  /** Live once all shapes are, and not while one of them is not. */
  #settle() {
    if (this.status === "live" && !this.#replica.live) this.#tell("syncing");
    if (this.status !== "syncing" || !this.#replica.live) return;
    this.#attempts = 0;
    this.#tell("live");
  }

  /** @param {Message} message @param {number} now */
  #refused(message, now) {
    const { shape, retry_after } = message;
    this.#output({ type: "refused", error: message });
    if (shape === undefined) {
      this.#error = message; // a close follows, or nothing is lost
      this.#floor = (retry_after ?? 0) * 1000;
      return;
    }
    if (!this.shapes.includes(shape)) return;
    if (retry_after === undefined) return this.#endOf(shape, message.message);
    this.#replica.interrupted(shape);
    if (this.#oneWay) {
      this.#floor = retry_after * 1000;
      return this.#again(message.message, now);
    }
    this.#resubscribe.set(shape, now + retry_after * 1000 + this.random() * RESUBSCRIBE_JITTER);
    this.#settle();
  }

  /**
   * A shape is refused for good: forget it with its documents.
   *
   * @param {string} shape
   * @param {string} reason
   */
  #endOf(shape, reason) {
    const gone = [...this.#replica.documents(shape)];
    this.#drop(shape);
    this.#output({ type: "forget", shape });
    if (gone.length) {
      const rest = { shape, kind: /** @type {const} */ ("delete"), source: /** @type {const} */ ("snapshot") };
      const changes = gone.map(([id, before]) => ({ ...rest, id, before, after: undefined }));
      this.#output({ type: "changes", shape, source: "snapshot", changes, replayed: true });
    }
    // A connection without shapes would be called live.
    if (!this.shapes.length) this.#fail(reason);
    else this.#settle();
  }

  /** @param {string} shape */
  #drop(shape) {
    this.#replica.forget(shape);
    this.#resubscribe.delete(shape);
    this.#acks.forget(shape);
  }

  /** @param {string} shape */
  #subscribe(shape) {
    this.#resubscribe.delete(shape);
    const position = this.#replica.position(shape);
    this.#output({ type: "send", message: { type: "subscribe", shape, ...(position && { position }) } });
    this.#settle();
  }

  /** @param {number} now */
  #planAck(now) {
    const possible = this.clientId && this.#remembered && !this.#oneWay && this.#phase === "open";
    if (possible && this.#at.ack === Infinity && this.#unacknowledged().length) this.#at.ack = now + ACK_EVERY;
  }

  #ack() {
    this.#at.ack = Infinity;
    const fresh = this.#unacknowledged();
    if (!fresh.length) return;
    this.#acks.sent(fresh);
    this.#output({ type: "send", message: { type: "ack", vector: Object.fromEntries(fresh) } });
  }

  /** @param {number} now */
  #ping(now) {
    if (this.#phase !== "open" || this.#oneWay) return;
    const positions = this.shapes.flatMap((shape) => (this.isLive(shape) && this.position(shape)) || []);
    if (!this.#pings.take(positions, this.#replica.live, now)) return;
    this.#output({ type: "send", message: { type: "ping" } });
  }

  /** What is durable of the shapes that the server serves on this connection, and that it does not know. */
  #unacknowledged() {
    return this.#acks.open((shape) => (this.#resubscribe.has(shape) ? null : this.#replica.position(shape)));
  }

  /** @param {boolean} stale */
  #setStale(stale) {
    if (stale === this.stale) return;
    this.stale = stale;
    this.#output({ type: "status" });
  }

  /** @param {StatusName} status @param {string} [reason] @param {number} [code] */
  #tell(status, reason = "", code = 0) {
    Object.assign(this, { status, reason: status === "connecting" ? this.reason : reason, code });
    this.#output({ type: "status" });
  }

  /** @param {Output} output */
  #output(output) {
    this.#outputs.push(output);
  }
}
