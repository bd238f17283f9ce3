// A server without a network, for tests of what is around the client: its WebSockets and requests are answered by hand.

import assert from "node:assert/strict";

/** Resolves promises for what comes, in order; what nobody waits for yet is kept. */
export class Arrivals {
  #here = [];
  #waiting = [];

  add(item) {
    const at = this.#waiting.findIndex(({ wanted }) => wanted(item));
    if (at < 0) this.#here.push(item);
    else this.#waiting.splice(at, 1)[0].resolve(item);
  }

  /** Resolves with the first item for which `wanted` is true, which is removed. */
  async next(wanted = () => true) {
    const at = this.#here.findIndex(wanted);
    if (at >= 0) return this.#here.splice(at, 1)[0];
    return new Promise((resolve) => this.#waiting.push({ wanted, resolve }));
  }

  /** What has come and was not asked for. */
  get rest() {
    return [...this.#here];
  }
}

/** Options for `createClient`: the test fails by what the client reports. What `onError` throws would be lost. */
export function failingOnErrors(t) {
  const errors = [];
  t.after(() => assert.deepEqual(errors, []));
  return { onError: (error) => errors.push(error) };
}

export class ScriptedServer {
  /** Messages of clients, and `{ type: "closed" }`. */
  said = new Arrivals();
  /** Requests: `{ method, path, headers, body, answer(status, json) }`. */
  requests = new Arrivals();
  refused = new Set();
  #sockets = new Set();
  #seq = 1;

  /** @param {Record<string, Record<string, any>>} documents - By shape and id; each is at version 1. */
  constructor(documents = {}) {
    this.documents = documents;
    const server = this;
    /** Options for `createClient`. */
    this.options = {
      url: "http://scripted",
      transport: "websocket",
      fetch: (address, { method, headers, body }) =>
        new Promise((resolve) => {
          const answer = (status, json) => resolve(new Response(JSON.stringify(json), { status, headers: { "Content-Type": "application/json" } }));
          server.requests.add({ method, path: new URL(address).pathname, headers, body: body && JSON.parse(body), answer });
        }),
      WebSocket: class {
        constructor() {
          server.#sockets.add(this);
          queueMicrotask(() => this.onopen());
        }

        send(text) {
          server.#receive(this, JSON.parse(text));
        }

        close() {
          server.#sockets.delete(this);
          server.said.add({ type: "closed" });
        }
      },
    };
  }

  /** Send a message to all clients: an object, or its text. */
  send(message) {
    const data = typeof message === "string" ? message : JSON.stringify(message);
    for (const socket of this.#sockets) socket.onmessage({ data });
  }

  /** Send events of a shape in one frame; `seq` is theirs, and `base` one less than `version`. */
  events(shape, ...events) {
    const numbered = events.map((event) => ({ seq: (this.#seq += 1), collection: "cards", base: event.version - 1, ...event }));
    this.send({ type: "events", shape, from: "k:1", to: `k:${this.#seq}`, events: numbered });
  }

  #receive(socket, message) {
    this.said.add(message);
    const send = (answer) => queueMicrotask(() => this.#sockets.has(socket) && socket.onmessage({ data: JSON.stringify(answer) }));
    if (message.type === "hello") {
      send({ type: "welcome", session: "s", client_id: "c", protocol: 1, heartbeat: 3600, vector: {} });
      for (const shape of message.shapes) this.#serve(send, shape, message.vector[shape]);
    }
    if (message.type === "subscribe") this.#serve(send, message.shape, message.position);
  }

  #serve(send, shape, position) {
    if (this.refused.has(shape)) return send({ type: "error", code: "forbidden", message: `${shape} is not yours`, shape });
    const docs = Object.entries(this.documents[shape] ?? {}).map(([id, doc]) => ({ id, version: 1, doc: { _id: id, ...doc } }));
    if (!position) send({ type: "snapshot", shape, position: `k:${this.#seq}`, part: 0, last: true, docs });
    send({ type: "live", shape, position: `k:${this.#seq}` });
  }
}
