// The client of eventsync: exact copies of shapes, writes that are seen at once, and the history of documents.
//
//   const db = createClient({ url: "https://sync.example", token: () => getToken() });
//   const cards = db.collection("cards");
//   cards.subscribe(({ documents }) => draw(documents));
//   await cards.patch(id, { column: "done" });

import { Connection, clock } from "./connection.js";
import { Engine } from "./engine.js";
import { parameterText, randomHex } from "./ids.js";
import { Persister } from "./persister.js";
import { Http, Tokens } from "./requests.js";
import { CollectionHandle, DocumentHandle, Handle, ShapeHandle } from "./handles.js";
import { canonicalShape, isDeclared, shapeText } from "./shapes.js";
import { FORMAT, Fenced, memoryStore } from "./store.js";
import { JSON_BODY, Writes } from "./writes.js";

export { Refusal } from "./requests.js";
export { StoreLost, memoryStore } from "./store.js";
export { CollectionHandle, DocumentHandle, Handle, ShapeHandle } from "./handles.js";
export { idText, idValue, newId } from "./ids.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./outbox.js").Problem} Problem */
/** @typedef {import("./writes.js").Written} Written */
/** @typedef {import("./engine.js").ShapeInfo} ShapeInfo */
/** @typedef {import("./lifecycle.js").TokenReason} TokenReason */
/** @typedef {import("./schema.js").Schema} Schema */
/** @typedef {import("./schema.js").AnySchema} AnySchema */
/** @template {Schema} S @typedef {import("./schema.js").CollectionName<S>} CollectionName */
/** @template {Schema} S @typedef {import("./schema.js").ShapeName<S>} ShapeName */
/** @template {Schema} S @typedef {import("./schema.js").ShapeText<S>} ShapeText */
/** @template {Schema} S @template {string} Text @typedef {import("./schema.js").TextDocument<S, Text>} TextDocument */

/**
 * What `createClient` takes.
 *
 * @typedef {object} ClientOptions
 * @property {string | URL} [url] - Of the server; in a page, its own origin without it.
 * @property {(why: TokenReason) => string | null | Promise<string | null>} [token] - Asked before each connection
 *   (`connect`), before a token ends (`expiring`), and after the server has refused one (`refused`).
 * @property {string} [principal] - Who the token speaks for. What is stored for another one is not used.
 * @property {string} [clientId] - Has the server store what this client acknowledges, and list it for operators.
 * @property {import("./store.js").Store} [store] - Keeps documents, positions and writes; in memory without it.
 * @property {import("./decode.js").Codec} [decode] - How documents are seen and written, such as `native()`; as
 *   Extended JSON without it.
 * @property {"auto" | import("./transports.js").TransportName} [transport] - `auto`, without it, is the first of them
 *   that gets through.
 * @property {typeof globalThis.WebSocket} [WebSocket] - Where the runtime has none, as that of the package `ws`.
 * @property {typeof globalThis.fetch} [fetch] - In place of the runtime's.
 * @property {number} [maxWrites] - Writes that may be queued, or not known to be in all shapes; 10,000 without it.
 * @property {number} [maxChanges] - Changes that may wait for one reader of `changes()`; 100,000 without it.
 * @property {number} [linger] - Milliseconds that a shape without a subscriber is still followed; 1000 without it.
 * @property {import("./tabs.js").Browser | false} [tabs] - The locks and the channels by which tabs share a connection;
 *   those of the browser without it. With `false` each tab has its own.
 * @property {(rejection: Rejection) => void} [onRejected] - A write was refused and taken back.
 * @property {(error: unknown) => void} [onError] - The store has failed, the browser has removed what it had
 *   (`StoreLost`), or a subscriber has thrown.
 */

/**
 * A write that was taken back, and why.
 *
 * @typedef {{ write: QueuedWrite, problem: Problem }} Rejection
 */

/**
 * What a client has to know of a declared shape to show own writes in it.
 *
 * @template Doc
 * @typedef {{ collection?: string, matches?: (doc: Doc) => boolean }} ShapeOptions
 */

/**
 * The state of a connection.
 *
 * @typedef {object} Connected
 * @property {import("./lifecycle.js").StatusName} name
 * @property {string} reason - Why it waits or has failed.
 * @property {number} code - The close code that it has failed with, or 0.
 * @property {number} delay - Milliseconds from `waiting` to the next attempt.
 * @property {string} transport
 * @property {boolean} stale - True while committed changes may not have been sent, because no worker runs.
 */

/** @typedef {Connected & { pending: number }} Status - `pending`: writes that the server has not answered. */

/**
 * What `on` listens to.
 *
 * @typedef {object} ClientEvents
 * @property {Status} status
 * @property {Rejection} rejected
 * @property {import("./replica.js").Message} refused - A message `error` of the server.
 * @property {{ shape: string, reason: string }} reset - A shape is loaded again.
 */

/**
 * A client, which connects once a shape is followed. `createClient<Schema>()` types its documents.
 *
 * @template {Schema} [S=AnySchema]
 * @param {ClientOptions} [options]
 * @returns {Client<S>}
 */
export function createClient(options) {
  return new Client(options);
}

/**
 * A client of one server, for one principal. What it follows is kept until nobody uses it, and its connection until
 * `stop` or `close`.
 *
 * @template {Schema} [S=AnySchema]
 */
export class Client {
  /** @type {Map<string, Handle>} */
  #handles = new Map();
  /** @type {Map<string, Set<(detail: any) => void>>} */
  #listeners = new Map();
  #writes = new Writes(this);
  #closed = false;
  #stopped = false; // by `stop`, until `start`
  #isAway = false; // in the back/forward cache, and not stopped before
  /** @type {AbortController | null} Ends listening to the page. */
  #page = null;
  #announced = ""; // the last status
  /**
   * What this client shares with other tabs; null if it works alone.
   *
   * @internal
   * @type {import("./tabs.js").Tabs | null}
   */
  tabs = null;

  /** @param {ClientOptions} [options] */
  constructor(options = {}) {
    const url = String(options.url ?? globalThis.location?.origin);
    const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    const tokens = new Tokens(options.token);
    this.options = { maxWrites: 10_000, maxChanges: 100_000, linger: 1000, ...options };
    this.http = new Http({ url, fetch, tokens });
    const { clientId, decode } = options;
    this.engine = new Engine({ clientId, hasToken: options.token !== undefined, decode: decode?.decode });
    this.connection = new Connection({
      url, fetch, tokens, core: this.engine.core, machine: this.engine, transport: options.transport ?? "auto",
      WebSocket: options.WebSocket ?? globalThis.WebSocket, handle: (output) => this.#take(output), tap: this.#tap(),
    });
    this.store = this.#open({ url, principal: options.principal ?? "", format: FORMAT });
    this.persister = new Persister(this.store, {
      durable: (shape, position) => {
        this.tabs?.tab.durable(shape, position);
        this.connection.do((core, now) => core.durable(shape, position, now));
      },
      failed: (error) => (error instanceof Fenced ? this.tabs?.fenced(error.epoch) : this.report(error)),
    });
    if (typeof globalThis.addEventListener === "function") {
      const { signal } = (this.#page = new AbortController());
      globalThis.addEventListener("online", () => this.hurry(), { signal });
      // The back/forward cache keeps no page with a connection, or with a lock that another tab waits for.
      globalThis.addEventListener("pagehide", ({ persisted }) => persisted && this.#hide(), { signal });
      globalThis.addEventListener("pageshow", ({ persisted }) => persisted && this.#show(), { signal });
    }
    /** Resolves once the writes of a former process are here. @type {Promise<void>} */
    this.ready = this.#restore();
    this.ready.catch(() => {}); // reported; whoever awaits it gets it too
  }

  /** The state of the connection, and the number of writes that wait. @returns {Status} */
  get status() {
    const { status: name, reason, code, delay, stale } = this.engine.core;
    const { pending } = this.engine.outbox;
    const own = { name, reason, code, delay, stale, transport: this.connection.transport };
    return { ...((!this.#stopped && this.tabs?.status(own)) || own), pending };
  }

  /** The state vector: shape → position, of every shape that is complete here. @returns {Record<string, string>} */
  get vector() {
    return this.engine.core.vector;
  }

  /**
   * A collection.
   *
   * @template {CollectionName<S>} Name
   * @param {Name} name
   * @returns {CollectionHandle<S["collections"][Name]>}
   */
  collection(name) {
    return this.#handle(name, { collection: name }, CollectionHandle);
  }

  /**
   * One document of a collection.
   *
   * @template {CollectionName<S>} Name
   * @param {Name} collection
   * @param {string} id - The id text.
   * @returns {DocumentHandle<S["collections"][Name]>}
   */
  document(collection, id) {
    return this.#handle(`${collection}/${id}`, { collection, id }, DocumentHandle);
  }

  /**
   * A declared shape. With `collection` own writes are shown in it; with `matches` also those that bring a document
   * into it or take one out.
   *
   * @template {ShapeName<S>} Name
   * @param {Name} name
   * @param {import("./schema.js").ShapeParameters<S, Name>} [parameters] - A list stands for several values of one
   *   parameter.
   * @param {ShapeOptions<import("./schema.js").ShapeDocument<S, Name>>} [info]
   * @returns {ShapeHandle<import("./schema.js").ShapeDocument<S, Name>>}
   */
  shape(name, parameters, info = {}) {
    const { encode = (/** @type {any} */ value) => value } = this.options.decode ?? {};
    const texts = (/** @type {any} */ value) => [value].flat().map((item) => parameterText(encode(item)));
    const lists = Object.entries(parameters ?? {}).map(([key, value]) => [key, texts(value)]);
    return this.#handle(shapeText(name, Object.fromEntries(lists)), info, ShapeHandle);
  }

  /**
   * The shape of a text, such as `orders`, `orders/42` or `my_orders?owner=7`.
   *
   * @template {ShapeText<S>} Text
   * @param {Text} text
   * @param {ShapeInfo} [info]
   * @returns {Handle<TextDocument<S, Text>>}
   */
  follow(text, info = {}) {
    if (isDeclared(text)) return this.#handle(canonicalShape(text), info, ShapeHandle);
    const slash = text.indexOf("/");
    if (slash < 0) return this.#handle(text, { collection: text }, CollectionHandle);
    return this.#handle(text, { collection: text.slice(0, slash), id: text.slice(slash + 1) }, DocumentHandle);
  }

  /**
   * Listen to what happens to the client. Returns the function that ends it.
   *
   * @template {keyof ClientEvents} Name
   * @param {Name} name
   * @param {(detail: ClientEvents[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Connect, which following a shape does too; after `stop` and after a failure it is needed. */
  start() {
    this.#stopped = false;
    this.do((engine, now) => {
      engine.start(now);
      this.tabs?.tab.command("start");
      this.tabs?.tab.greet();
    });
    this.tabs?.start();
  }

  /** End the connection and send no more writes. What is held stays, and another tab may lead. */
  stop() {
    this.#halt();
    void this.tabs?.pause(() => this.#stopped);
  }

  #hide() {
    this.#isAway = !this.#stopped;
    this.#halt();
    this.tabs?.hide();
  }

  #show() {
    this.tabs?.show();
    if (this.#isAway) this.start();
    this.#isAway = false;
  }

  #halt() {
    this.#stopped = true;
    this.do((engine) => engine.stop());
  }

  /** Connect at once if the client waits for its next attempt: the network is back. */
  hurry() {
    this.do((engine, now) => {
      engine.core.hurry(now);
      engine.outbox.hurry(now);
      this.tabs?.tab.command("hurry");
    });
  }

  /**
   * A position at or past every write that was acknowledged before, by any server. The server is asked for the
   * positions of the shapes that are before it, so a shape in which nothing happens reaches it soon, too.
   *
   * @returns {Promise<import("./positions.js").Barrier>}
   */
  async barrier() {
    const barrier = await this.http.request("POST", "v1/barrier", { body: {}, headers: JSON_BODY });
    this.connection.do((core, now) => core.reach(barrier, now));
    return barrier;
  }

  /** Resolves once everything that was received so far, and the queue, is in the store. @returns {Promise<void>} */
  async flush() {
    await (this.tabs ? this.tabs.flush() : this.persister.settled());
  }

  /** End everything and close the store. @returns {Promise<void>} */
  async close() {
    await this.#end();
    this.tabs?.end();
    await (await this.store).close();
  }

  /** Remove everything that is stored for this principal, as on a logout. @returns {Promise<void>} */
  async destroy() {
    await this.#end();
    try {
      await (await this.store).destroy();
    } finally {
      this.tabs?.end();
    }
  }

  async #end() {
    this.#closed = true;
    this.#page?.abort();
    this.#halt();
    for (const handle of this.#handles.values()) handle.end();
    await this.persister.finish();
  }

  // --- what the handles use -----------------------------------------------------------------------------------------

  /** @internal @param {unknown} error */
  report(error) {
    if (this.options.onError) this.options.onError(error);
    else console.error("eventsync:", error);
  }

  /**
   * What the application sees of Extended JSON.
   *
   * @internal
   * @param {any} json
   */
  decoded(json) {
    return this.options.decode ? this.options.decode.decode(json) : json;
  }

  /**
   * What the application writes, as it is sent. Throws `TypeError` for what has no Extended JSON.
   *
   * @internal
   * @param {any} value
   */
  encoded(value) {
    const { decode } = this.options;
    return JSON.parse(JSON.stringify(decode ? decode.encode(value) : value));
  }

  /**
   * Begin to follow the shape of a handle, from what is stored.
   *
   * @internal
   * @param {Handle} handle
   */
  async begin(handle) {
    const store = await this.store;
    const { text, info } = handle;
    const saved = this.engine.info(text) ? null : await store.load(text);
    if (!handle.isFollowed || this.#closed) return;
    this.do((engine, now) => {
      if (this.tabs) this.tabs.tab.begin(text, info, saved, now, true);
      else engine.follow(text, info, saved, now);
    });
    this.resume();
  }

  /** @internal @param {Handle} handle */
  release(handle) {
    this.do((engine, now) => (this.tabs?.tab ?? engine).unfollow(handle.text, now));
  }

  /** Connect and send, unless the client was stopped. @internal */
  resume() {
    if (this.#stopped) return;
    this.do((engine, now) => engine.start(now));
    this.tabs?.start();
  }

  /** Announce the status, if it is another one. @internal */
  statusChanged() {
    const { status } = this;
    const announced = JSON.stringify(status);
    if (announced === this.#announced) return;
    this.#announced = announced;
    this.#tell("status", status);
  }

  /**
   * Show a write, and send it once it is stored.
   *
   * @internal
   * @param {Omit<QueuedWrite, "key" | "order" | "at" | "base">} write
   * @returns {Promise<Written>}
   */
  async write(write) {
    await this.ready;
    const { outbox } = this.engine;
    if (this.#closed) throw new Error("the client is closed");
    if (outbox.size >= this.options.maxWrites) throw new Error(`${outbox.size} writes are queued already: maxWrites`);
    const base = this.engine.baseOf(write.collection, write.id);
    const key = randomHex(16);
    const whole = { ...write, key, order: outbox.queue.order + 1, at: Date.now(), ...(base !== undefined && { base }) };
    const { done, settled } = this.#writes.promise(key, write.shape);
    this.do(() => outbox.add(whole));
    this.statusChanged();
    try {
      await (await this.store).enqueue(whole);
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      this.do(() => outbox.cancel(key, { status: 0, code: "store_failed", detail }));
      throw error;
    }
    this.do((_, now) => {
      if (!this.#stopped) outbox.start(now);
      if (!this.#stopped) this.tabs?.tab.wrote(whole);
      outbox.stored(key, now);
    });
    return { id: write.id, key, done, settled };
  }

  // --- inside -------------------------------------------------------------------------------------------------------

  /** @template {Handle} T @param {string} text @param {ShapeInfo} info @param {new (...rest: any[]) => T} Kind */
  #handle(text, info, Kind) {
    const handle = this.#handles.get(text) ?? new Kind(this, text, info);
    this.#handles.set(text, handle);
    return /** @type {T} */ (handle);
  }

  /**
   * Give an input to the engine, and do what it wants then.
   *
   * @internal
   * @param {(engine: Engine, now: number) => void} input
   */
  do(input) {
    input(this.engine, clock());
    this.connection.run();
  }

  /** @param {import("./store.js").Identity} identity */
  async #open(identity) {
    const store = await (this.options.store ?? memoryStore()).open(identity, (error) => this.report(error));
    const { tabs } = this.options;
    if (tabs === false || this.#closed) return store;
    this.tabs = store.share?.(this, tabs) ?? null;
    if (!this.#stopped) this.tabs?.start();
    return store;
  }

  /** What other tabs get of the connection, or give to it. @returns {import("./connection.js").Tap} */
  #tap() {
    return {
      open: (reports) => this.tabs?.tab.open(reports) ?? null,
      message: (message) => {
        this.tabs?.tab.pass(message);
        this.tabs?.post();
      },
      cut: () => this.tabs?.tab.cut(),
      ran: () => {
        this.tabs?.tab.settle();
        this.tabs?.post();
      },
    };
  }

  async #restore() {
    try {
      const writes = await (await this.store).queue();
      if (this.#closed) return;
      this.do((engine, now) => {
        (this.tabs?.tab ?? engine.outbox).restore(writes, now);
        this.tabs?.tab.greet();
        if (writes.length && !this.#stopped) engine.outbox.start(now);
      });
    } catch (error) {
      this.report(error);
      throw error;
    }
  }

  /** @param {import("./engine.js").EngineOutput} output */
  #take(output) {
    switch (output.type) {
      case "view":
        return this.#handles.get(output.shape)?.changed(output);
      case "confirmed":
        return this.#handles.get(output.shape)?.confirmed(output);
      case "apply":
        this.tabs?.tab.unstored.apply(output.shape, output.step);
        return this.persister.apply(output.shape, output.step);
      case "forget":
        this.tabs?.tab.unstored.forget(output.shape);
        return this.persister.forget(output.shape);
      case "dequeue":
        this.#writes.settled(output.key);
        return this.persister.then((store) => store.dequeue(output.key));
      case "request":
        return void this.#writes.send(output.write, output.ifMatch);
      case "barrier":
        return void this.#writes.askForBarrier();
      case "done":
        this.#writes.answered(output.write, output.answer);
        this.tabs?.tab.ended(output.write.key, { answer: output.answer });
        return this.statusChanged();
      case "settled":
        return this.#writes.settled(output.key, output.shape);
      case "rejected":
        return this.#rejected(output);
      case "reset":
        return this.#isOwn(output.shape) && this.#tell("reset", { shape: output.shape, reason: output.reason });
      case "refused":
        if (!this.#isOwn(output.error.shape)) return;
        this.#handles.get(output.error.shape)?.refused(output.error);
        return this.#tell("refused", output.error);
      case "status":
        this.tabs?.tab.statusChanged();
        return this.statusChanged();
    }
  }

  /** False for a shape that only other tabs follow. @param {string | undefined} shape */
  #isOwn(shape) {
    return shape === undefined || !this.engine.hidden.includes(shape);
  }

  /** @param {Rejection} rejection */
  #rejected({ write, problem }) {
    const isOwn = this.#writes.rejected(write.key, problem) || !this.tabs || this.tabs.tab.inherits(write.key);
    this.tabs?.tab.ended(write.key, { problem });
    if (isOwn) {
      this.#call(this.options.onRejected, { write, problem });
      this.#tell("rejected", { write, problem });
    }
    this.statusChanged();
  }

  /** @param {keyof ClientEvents} name @param {any} detail */
  #tell(name, detail) {
    for (const listener of this.#listeners.get(name) ?? []) this.#call(listener, detail);
  }

  /**
   * Call a function of the application: what it throws must not disturb the client.
   *
   * @param {((detail: any) => void) | undefined} listener
   * @param {any} detail
   */
  #call(listener, detail) {
    try {
      listener?.(detail);
    } catch (error) {
      this.report(error);
    }
  }
}
