// The live page's sync client: the core and the connection of the client package, with events for a page.
//
//   const client = new SyncClient({ shapes: ["theaters"] });
//   client.addEventListener("change", ({ detail }) => draw(client.documents(detail.shape)));
//   client.start();
//
// Events: `change` (`{ kind, shape, changes, replayed, reason }`; `replayed`: it happened while this client was away),
// `status` (`{ status, reason, code, delay, transport }`), `refused` (the server's `error` message). Unlike the package's
// own client it writes nothing and stores nothing: the page shows the events themselves.

import { Connection } from "./connection.js";
import { Core } from "./core.js";
import { Tokens } from "./requests.js";
import { canonicalShape } from "./shapes.js";

export class SyncClient extends EventTarget {
  #core;
  #connection;

  /** `transport`: `websocket`, `sse`, `poll`, or `auto` (the first of them that gets through). */
  constructor({ url = globalThis.location?.origin, shapes = [], transport = "auto", clientId } = {}) {
    super();
    this.#core = new Core({ clientId });
    this.#connection = new Connection({
      url, core: this.#core, tokens: new Tokens(undefined), transport,
      WebSocket: globalThis.WebSocket, fetch: globalThis.fetch.bind(globalThis), handle: (output) => this.#take(output),
    });
    for (const shape of shapes) this.#do((core, now) => core.follow(canonicalShape(shape), null, now));
  }

  get status() {
    return this.#core.status;
  }

  /** The state vector: shape → position, of every shape that is complete here. */
  get vector() {
    return this.#core.vector;
  }

  /** The Map id → `{ version, doc }` of a shape. */
  documents(shape) {
    return this.#core.documents(canonicalShape(shape));
  }

  start() {
    this.#do((core, now) => core.start(now));
  }

  /** Cut the connection. The documents stay; `start` continues from them. */
  stop() {
    this.#do((core) => core.stop());
  }

  /** Connect at once if the client waits for its next attempt. */
  hurry() {
    this.#do((core, now) => core.hurry(now));
  }

  /** Follow these shapes from now on, and no others. */
  follow(shapes) {
    const wanted = shapes.map(canonicalShape);
    this.#do((core, now) => {
      for (const shape of wanted) core.follow(shape, null, now);
      for (const shape of core.shapes) if (!wanted.includes(shape)) core.unfollow(shape, now);
    });
  }

  /** Change the transport, and continue from the same vector. */
  use(transport) {
    this.#connection.wanted = transport;
    this.#do((core, now) => core.reconnect(now));
  }

  #do(input) {
    this.#connection.do(input);
  }

  #take(output) {
    const { type, shape } = output;
    if (type === "changes") this.#emit("change", { kind: output.source, shape, changes: output.changes, replayed: output.replayed });
    else if (type === "progress") this.#emit("change", { kind: "progress", shape: null, changes: [], replayed: false });
    else if (type === "reset") this.#emit("change", { kind: "reset", shape, changes: [], replayed: true, reason: output.reason });
    else if (type === "refused") this.#emit("refused", output.error);
    else if (type === "apply") this.#do((core, now) => core.durable(shape, output.step.position, now));
    else if (type === "status") this.#status();
  }

  #status() {
    const { status, reason, code, delay } = this.#core;
    const { transport } = this.#connection;
    this.#emit("status", { status, transport, ...(reason && { reason }), ...(code && { code }), ...(status === "waiting" && { delay }) });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
