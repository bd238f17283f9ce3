// The client of eventsync: exact copies of shapes, writes that are seen at once, and the history of documents.
//
//   const db = createClient({ url: "https://sync.example", token: () => getToken() });
//   const cards = db.collection("cards");
//   cards.subscribe(({ documents }) => draw(documents));
//   await cards.patch(id, { column: "done" });

import { Connection, clock } from "./connection.js";
import { Engine } from "./engine.js";
import { CollectionHandle, DocumentHandle, Handle, ShapeHandle } from "./handles.js";
import { parameterText } from "./ids.js";
import { Listeners } from "./listeners.js";
import { perform } from "./outputs.js";
import { watchPage } from "./page.js";
import { Persister } from "./persister.js";
import { Http, Tokens } from "./requests.js";
import { canonicalShape, isDeclared, shapeText } from "./shapes.js";
import { FORMAT, Fenced, memoryStore } from "./store.js";
import { JSON_BODY, Writes } from "./writes.js";

export { Refusal } from "./requests.js";
export { StoreLost, memoryStore } from "./store.js";
export { CollectionHandle, DocumentHandle, Handle, ShapeHandle } from "./handles.js";
export { idText, idValue, newId } from "./ids.js";

/** @typedef {import("./options.js").ClientOptions} ClientOptions */
/** @template Doc @typedef {import("./options.js").ShapeOptions<Doc>} ShapeOptions */
/** @typedef {import("./options.js").Rejection} Rejection */
/** @typedef {import("./options.js").Connected} Connected */
/** @typedef {import("./options.js").Status} Status */
/** @typedef {import("./options.js").ClientEvents} ClientEvents */
/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./outbox.js").Problem} Problem */
/** @typedef {import("./lifecycle.js").TokenReason} TokenReason */
/** @typedef {import("./writes.js").Written} Written */
/** @typedef {import("./engine.js").ShapeInfo} ShapeInfo */
/** @typedef {import("./schema.js").Schema} Schema */
/** @typedef {import("./schema.js").AnySchema} AnySchema */
/** @template {Schema} S @typedef {import("./schema.js").CollectionName<S>} CollectionName */
/** @template {Schema} S @typedef {import("./schema.js").ShapeName<S>} ShapeName */
/** @template {Schema} S @typedef {import("./schema.js").ShapeText<S>} ShapeText */
/** @template {Schema} S @template {string} Text @typedef {import("./schema.js").TextDocument<S, Text>} TextDocument */

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
  /** @type {() => void} */
  #leavePage;
  /** By their texts. @internal @type {Map<string, Handle>} */
  handles = new Map();
  /** @internal */
  writes = new Writes(this);
  /** @internal */
  listeners = new Listeners((error) => this.report(error));
  /** @internal */
  isClosed = false;
  /** By `stop`, until `start`. @internal */
  isStopped = false;
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
    if (options.token !== undefined && options.store !== undefined && options.principal === undefined) {
      throw new TypeError("principal is needed with a token and a store: what is stored is for the user of the token");
    }
    const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    const tokens = new Tokens(options.token);
    this.options = { maxWrites: 10_000, maxChanges: 100_000, linger: 1000, ...options };
    this.http = new Http({ url, fetch, tokens });
    const { clientId, decode } = options;
    const same = (/** @type {any} */ value) => value;
    /** @internal @type {import("./decode.js").Codec} */
    this.codec = {
      decode: decode ? this.listeners.guarded((json) => decode.decode(json), same) : same,
      encode: decode ? (value) => decode.encode(value) : same,
    };
    this.engine = new Engine({ clientId, hasToken: options.token !== undefined, decode: decode && this.codec.decode });
    this.connection = new Connection({
      url, fetch, tokens, core: this.engine.core, machine: this.engine, transport: options.transport ?? "auto",
      WebSocket: options.WebSocket ?? globalThis.WebSocket, handle: (output) => perform(this, output),
    });
    this.store = this.#open({ url, principal: options.principal ?? "", format: FORMAT });
    this.persister = new Persister(this.store, {
      durable: (shape, position) => {
        this.tabs?.tab.durable(shape, position);
        this.connection.do((core, now) => core.durable(shape, position, now));
      },
      failed: (error) => (error instanceof Fenced ? this.tabs?.fenced(error.epoch) : this.report(error)),
    });
    /** Resolves once the writes of a former process are here. @type {Promise<void>} */
    this.ready = this.#restore();
    this.ready.catch(() => {}); // reported; whoever awaits it gets it too
    this.#leavePage = watchPage(this);
  }

  /** The state of the connection, and the number of writes that wait. @returns {Status} */
  get status() {
    const { status: name, reason, code, delay, stale } = this.engine.core;
    const { pending } = this.engine.outbox;
    const own = { name, reason, code, delay, stale, transport: this.connection.transport };
    return { ...((!this.isStopped && this.tabs?.status(own)) || own), pending };
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
    const text = canonicalShape(name);
    return this.#handle(text, { collection: text }, CollectionHandle);
  }

  /**
   * One document of a collection.
   *
   * @template {CollectionName<S>} Name
   * @param {Name} collection
   * @param {string} id - The id text, which is brought into its canonical form.
   * @returns {DocumentHandle<S["collections"][Name]>}
   */
  document(collection, id) {
    return /** @type {any} */ (this.follow(/** @type {any} */ (`${collection}/${id ?? ""}`)));
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
    const texts = (/** @type {any} */ value) => [value].flat().map((item) => parameterText(this.codec.encode(item)));
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
    const shape = canonicalShape(text);
    if (isDeclared(shape)) return this.#handle(shape, info, ShapeHandle);
    const slash = shape.indexOf("/");
    if (slash < 0) return this.#handle(shape, { collection: shape }, CollectionHandle);
    return this.#handle(shape, { collection: shape.slice(0, slash), id: shape.slice(slash + 1) }, DocumentHandle);
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
    return this.listeners.add(name, listener);
  }

  /** Connect, which following a shape does too; after `stop` and after a failure it is needed. */
  start() {
    this.isStopped = false;
    this.do((engine, now) => {
      engine.start(now);
      this.tabs?.tab.command("start");
      this.tabs?.tab.greet();
    });
    this.tabs?.start();
  }

  /** End the connection and send no more writes. What is held stays, and another tab may lead. */
  stop() {
    this.halt();
    void this.tabs?.pause(() => this.isStopped);
  }

  /** @internal */
  halt() {
    this.isStopped = true;
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
    this.isClosed = true;
    this.#leavePage();
    this.halt();
    for (const handle of this.handles.values()) handle.end();
    await this.persister.finish();
  }

  // --- what the handles use -----------------------------------------------------------------------------------------

  /** @internal @param {unknown} error */
  report(error) {
    const { onError } = this.options;
    try {
      if (onError) return void onError(error);
    } catch (thrown) {
      console.error("eventsync:", thrown);
    }
    console.error("eventsync:", error);
  }

  /** What is written, as it is sent. Throws `TypeError` for what has no Extended JSON. @internal @param {any} value */
  encoded(value) {
    return JSON.parse(JSON.stringify(this.codec.encode(value)));
  }

  /** Begin to follow the shape of a handle, from what is stored. @internal @param {Handle} handle */
  async begin(handle) {
    const store = await this.store;
    const { text, info } = handle;
    const saved = this.engine.info(text) ? null : await store.load(text);
    if (!handle.isFollowed || this.isClosed) return;
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
    if (this.isStopped) return;
    this.do((engine, now) => engine.start(now));
    this.tabs?.start();
  }

  /** Announce the status, if it is another one. @internal */
  statusChanged() {
    this.listeners.announce(this.status);
  }

  // --- inside -------------------------------------------------------------------------------------------------------

  /** @template {Handle} T @param {string} text @param {ShapeInfo} info @param {new (...rest: any[]) => T} Kind */
  #handle(text, info, Kind) {
    const matches = () => info.matches && { matches: this.listeners.guarded(info.matches, () => false) };
    const handle = this.handles.get(text) ?? new Kind(this, text, { ...info, ...matches() });
    this.handles.set(text, handle);
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
    if (tabs === false || this.isClosed) return store;
    this.tabs = this.connection.tap = store.share?.(this, tabs) ?? null;
    if (!this.isStopped) this.tabs?.start();
    return store;
  }

  async #restore() {
    try {
      const writes = await (await this.store).queue();
      if (this.isClosed) return;
      this.do((engine, now) => {
        (this.tabs?.tab ?? engine.outbox).restore(writes, now);
        this.tabs?.tab.greet();
        if (writes.length && !this.isStopped) engine.outbox.start(now);
      });
    } catch (error) {
      this.report(error);
      throw error;
    }
  }
}
