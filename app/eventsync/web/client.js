// A sync client for protocol v1: WebSocket or Server-Sent Events, resuming from its own state vector.
//
//   const client = new SyncClient({ shapes: ["theaters"] });
//   client.addEventListener("change", ({ detail }) => draw(client.documents(detail.shape)));
//   client.start();
//
// Events: `change` (a `Replica` result, with `replayed`: it happened while this client was away), `status`
// (`{ status, reason, delay, transport }`), `refused` (the server's `error` message).

import { Replica, parsePosition } from "./replica.js";
import { parseJson } from "./values.js";

const SHORTEST = 250; // ms
const LONGEST = 30_000;
const MESSAGES = ["welcome", "snapshot", "squashed", "events", "live", "progress", "reset", "error", "pong"];

/** 44xx: the server refuses what this client asks; asking again unchanged is pointless. */
const isFinal = (code) => code >= 4400 && code < 4500;

export class SyncClient extends EventTarget {
  #replica = new Replica();
  #link = null; // the connection of the moment; whatever older ones still say is ignored
  #attempts = 0; // since it last was live
  #timer = null; // of the next attempt
  #watchdog = null; // goes off when the server has been silent for too long
  #silence = 60_000; // ms
  #floor = 0; // the server asked for at least this delay, ms

  /** `transport`: `websocket`, `sse`, or `auto`: WebSocket, and the other one where it does not get through. */
  constructor({ url = globalThis.location?.origin, shapes = [], transport = "auto", clientId } = {}) {
    super();
    this.url = url;
    this.clientId = clientId;
    this.status = "stopped"; // connecting, syncing, live, waiting, stopped, failed
    this.setTransport(transport);
    for (const shape of shapes) this.#replica.hold(shape);
  }

  /** Shape → position, of everything that is whole here. */
  get vector() {
    return this.#replica.vector;
  }

  /** The Map id → `{ version, doc }` of a shape. */
  documents(shape) {
    return this.#replica.documents(shape);
  }

  start() {
    if (this.status === "stopped" || this.status === "failed") this.#connect();
  }

  /** Cut the connection. What is here stays; `start` goes on from it. */
  stop() {
    this.#cut();
    this.#tell("stopped");
  }

  /** Try at once, if it waits for its next attempt. */
  hurry() {
    if (this.status === "waiting") this.#connect();
  }

  /** Follow these shapes from now on, and no others. */
  follow(shapes) {
    for (const shape of this.#replica.shapes) if (!shapes.includes(shape)) this.#replica.forget(shape);
    for (const shape of shapes) this.#replica.hold(shape);
    this.#renew();
  }

  /** Change the transport; goes on from the same vector. */
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
    // What the server can't serve yet is asked for again; what it won't serve would be refused on every connection.
    if (message.retry_after !== undefined) return this.#again(message.message);
    this.#replica.forget(message.shape);
    // A connection for nothing would be called live.
    if (!this.#replica.shapes.length) this.#fail(message.message);
  }

  #closed({ code = 0, reason }) {
    if (isFinal(code)) return this.#fail(reason || `closed with ${code}`);
    this.#again(reason || "the connection was lost");
  }

  /** What is asked for is refused for good. */
  #fail(reason) {
    this.#cut();
    this.#tell("failed", { reason });
  }

  /** Connect again after a while: exponential backoff with full jitter, so that a crowd does not return at once. */
  #again(reason) {
    this.#cut();
    const ceiling = Math.min(LONGEST, SHORTEST * 2 ** this.#attempts++);
    // A proxy that knows no WebSockets lets an event stream through; a server that is down takes neither.
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

/** The URL of a path below the server's own URL, which may have a path, too. */
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

/** Why an event stream is refused, which an EventSource does not tell: as the close of a WebSocket would say it. */
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
      // `error` is the server's message if it carries data, and the browser's own news of a lost connection if not.
      if (event.data !== undefined) return message(event.data);
      // A server that may take it later says so in band: this is a refusal for good, or somebody else's failure.
      const refused = source.readyState === CLOSED;
      // The browser would reconnect by itself; doing it here gives both transports one backoff, from the own vector.
      source.close();
      if (refused) refusal(address).then(closed);
      else closed({});
    });
  }
  return { close: () => source.close() };
}

const LONG = 1024; // characters of a vector that names its shapes

/** A state vector for a URL that has the shapes already: where naming them is long, their positions in that order. */
export function vectorText(shapes, vector) {
  const long = new URLSearchParams(vector).toString();
  if (long.length <= LONG) return long;
  let before = null; // the log of the item before: it is not said again
  const item = (shape) => {
    if (!vector[shape]) return "";
    const { log, seq } = parsePosition(vector[shape]);
    const text = log === before ? `${seq}` : vector[shape];
    before = log;
    return text;
  };
  return shapes.map(item).join(",");
}
