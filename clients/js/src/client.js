// A sync client for protocol v1: WebSocket or Server-Sent Events, resuming from its own state vector.
//
//   const client = new SyncClient({ shapes: ["theaters"] });
//   client.addEventListener("change", ({ detail }) => draw(client.documents(detail.shape)));
//   client.start();
//
// Events: `change` (a `Replica` result; `replayed`: it happened while this client was away), `status`
// (`{ status, reason, delay, transport }`), `refused` (the server's `error` message).

import { Replica, TYPES, parsePosition } from "./replica.js";
import { canonicalShape } from "./shapes.js";
import { parseJson } from "./json.js";

const SHORTEST = 250; // ms
const LONGEST = 30_000;
const MESSAGES = ["welcome", "error", "pong", ...TYPES]; // an `EventSource` listens to each type by name

/** 44xx: the server refuses what this client asks; asking again unchanged is pointless. */
const isFinal = (code) => code >= 4400 && code < 4500;

export class SyncClient extends EventTarget {
  #replica = new Replica();
  #link = null; // the current connection; messages of older ones are ignored
  #attempts = 0; // since the client was last live
  #timer = null; // starts the next attempt
  #watchdog = null; // fires when the server has been silent for too long
  #silence = 60_000; // ms without a message that the watchdog allows
  #floor = 0; // the delay that the server asked for, ms

  /** `transport`: `websocket`, `sse`, or `auto` (WebSocket, or SSE where WebSockets do not get through). */
  constructor({ url = globalThis.location?.origin, shapes = [], transport = "auto", clientId } = {}) {
    super();
    this.url = url;
    this.clientId = clientId;
    this.status = "stopped"; // connecting, syncing, live, waiting, stopped, failed
    this.setTransport(transport);
    for (const shape of shapes) this.#replica.hold(canonicalShape(shape));
  }

  /** The state vector: shape → position, of every shape that is complete here. */
  get vector() {
    return this.#replica.vector;
  }

  /** The Map id → `{ version, doc }` of a shape. */
  documents(shape) {
    return this.#replica.documents(canonicalShape(shape));
  }

  start() {
    if (this.status === "stopped" || this.status === "failed") this.#connect();
  }

  /** Cut the connection. The documents stay; `start` continues from them. */
  stop() {
    this.#cut();
    this.#tell("stopped");
  }

  /** Connect at once if the client waits for its next attempt. */
  hurry() {
    if (this.status === "waiting") this.#connect();
  }

  /** Follow these shapes from now on, and no others. */
  follow(shapes) {
    const wanted = shapes.map(canonicalShape);
    for (const shape of this.#replica.shapes) if (!wanted.includes(shape)) this.#replica.forget(shape);
    for (const shape of wanted) this.#replica.hold(shape);
    this.#renew();
  }

  /** Change the transport, and continue from the same vector. */
  use(transport) {
    this.setTransport(transport);
    this.#renew();
  }

  setTransport(transport) {
    this.automatic = transport === "auto";
    this.transport = this.automatic ? "websocket" : transport;
  }

  #renew() {
    if (this.status !== "stopped") this.#connect();
  }

  #connect() {
    this.#cut();
    this.#replica.reconnected();
    this.#tell("connecting");
    const open = this.transport === "sse" ? openEventSource : openWebSocket;
    const link = open(this, this.#replica.shapes, {
      message: (text) => link === this.#link && this.#receive(parseJson(text)),
      closed: (ending) => link === this.#link && this.#closed(ending),
    });
    this.#link = link;
    this.#watch();
  }

  #cut() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    const link = this.#link;
    this.#link = null;
    link?.close();
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#again("the server was silent for too long"), this.#silence);
  }

  #receive(message) {
    this.#watch();
    if (message.type === "welcome") {
      this.#silence = message.heartbeat * 2500;
      this.#tell("syncing");
    } else if (message.type === "error") {
      this.#refused(message);
    } else {
      this.#take(message);
    }
  }

  #take(message) {
    const replayed = this.status !== "live";
    const result = this.#replica.apply(message);
    if (!result) return;
    if (result.kind === "hole") this.#again(`what came for ${result.shape} does not continue what is here`);
    this.#emit("change", { ...result, replayed });
    if (result.kind === "reset") this.#tell("syncing");
    if (this.status === "syncing" && this.#replica.live) {
      this.#attempts = 0;
      this.#tell("live");
    }
  }

  #refused(message) {
    this.#floor = (message.retry_after ?? 0) * 1000;
    this.#emit("refused", message);
    if (!message.shape) return; // a close follows, or nothing is lost
    // A temporary refusal is retried. A permanent one would be repeated on every connection.
    if (message.retry_after !== undefined) return this.#again(message.message);
    this.#replica.forget(message.shape);
    // A connection without shapes would be called live.
    if (!this.#replica.shapes.length) this.#fail(message.message);
  }

  #closed({ code = 0, reason }) {
    if (isFinal(code)) return this.#fail(reason || `closed with ${code}`, code);
    this.#again(reason || "the connection was lost");
  }

  /** End after a permanent refusal. */
  #fail(reason, code) {
    this.#cut();
    this.#tell("failed", { reason, code });
  }

  /** Reconnect after exponential backoff with full jitter, so that many clients do not return at the same time. */
  #again(reason) {
    this.#cut();
    const ceiling = Math.min(LONGEST, SHORTEST * 2 ** this.#attempts++);
    // A proxy without WebSockets lets an event stream through; a server that is down accepts neither.
    if (this.automatic) this.transport = this.#attempts % 3 === 2 ? "sse" : "websocket";
    const delay = Math.max(this.#floor, Math.random() * ceiling);
    this.#floor = 0;
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#tell("waiting", { reason, delay });
  }

  #tell(status, detail = {}) {
    this.status = status;
    this.#emit("status", { status, transport: this.transport, ...detail });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** The URL of a path below the server's URL, which may have a path itself. */
function below(url, path) {
  return new URL(path, `${url}`.endsWith("/") ? url : `${url}/`);
}

function openWebSocket({ url, clientId, vector }, shapes, { message, closed }) {
  const address = below(url, "v1/sync");
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address, "eventsync.v1");
  socket.onopen = () => socket.send(JSON.stringify({ type: "hello", client_id: clientId, shapes, vector }));
  socket.onmessage = ({ data }) => message(data);
  socket.onclose = closed;
  socket.onerror = () => {}; // a close always follows
  return { close: () => socket.close() };
}

const CLOSED = 2; // EventSource.CLOSED

/** Find out why an event stream was refused, which EventSource does not say. Returns it like a WebSocket's close. */
async function refusal(address) {
  const asking = new AbortController();
  try {
    const answer = await fetch(address, { headers: { Accept: "application/problem+json" }, signal: asking.signal });
    const { status } = answer;
    if (status < 400 || status >= 500 || status === 408 || status === 429) return {};
    const { detail } = await answer.json().catch(() => ({}));
    return { code: 4000 + status, reason: detail };
  } catch {
    return {};
  } finally {
    asking.abort();
  }
}

function openEventSource({ url, clientId, vector }, shapes, { message, closed }) {
  const address = below(url, "v1/sync/sse");
  for (const shape of shapes) address.searchParams.append("shape", shape);
  address.searchParams.set("vector", vectorText(shapes, vector));
  if (clientId) address.searchParams.set("client_id", clientId);
  const source = new EventSource(address);
  for (const type of MESSAGES) {
    source.addEventListener(type, (event) => {
      // `error` with data is the server's message; without data it is the browser's report of a lost connection.
      if (event.data !== undefined) return message(event.data);
      // The server reports temporary refusals in band. So this one is permanent, or another program's failure.
      const refused = source.readyState === CLOSED;
      // The browser would reconnect by itself. Reconnecting here gives both transports one backoff and one vector.
      source.close();
      if (refused) refusal(address).then(closed);
      else closed({});
    });
  }
  return { close: () => source.close() };
}

const LONG = 1024; // characters of a vector that names its shapes

/** A state vector for a URL that names the shapes already; a long one has only their positions, in that order. */
export function vectorText(shapes, vector) {
  const long = new URLSearchParams(vector).toString();
  if (long.length <= LONG) return long;
  let before = null; // the log of the previous position, which is not repeated
  const item = (shape) => {
    if (!vector[shape]) return "";
    const { log, seq } = parsePosition(vector[shape]);
    const text = log === before ? `${seq}` : vector[shape];
    before = log;
    return text;
  };
  return shapes.map(item).join(",");
}
