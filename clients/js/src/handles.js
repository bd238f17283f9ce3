// What an application holds of a shape: its documents, its changes, and the writes and the history of its documents.

import { idText, idValue, newId } from "./ids.js";
import { ChangeReader } from "./readers.js";
import { pathOf } from "./requests.js";

/** @typedef {import("./client.js").Client<any>} Client */
/** @template [Doc=any] @typedef {import("./view.js").ViewRow<Doc>} ViewRow */
/** @template [Doc=any] @typedef {import("./replica.js").Change<Doc>} Change */
/** @template Doc @typedef {import("./schema.js").NewDocument<Doc>} NewDocument */
/** @template Doc @typedef {import("./schema.js").Patch<Doc>} Patch */

/**
 * What a subscriber gets. `documents` is the live Map of the shape, and `revision` counts its changes.
 *
 * @template [Doc=any]
 * @typedef {object} Notice
 * @property {string} shape
 * @property {ReadonlyMap<string, ViewRow<Doc>>} documents
 * @property {import("./view.js").ViewChange<Doc>[]} changes
 * @property {import("./engine.js").Source} source
 * @property {boolean} replayed - True for what happened before the client was live.
 * @property {number} revision
 */

/** @typedef {import("./writes.js").Written} Written */

/**
 * Conditions of a write. `ifMatch`: the version, or the entity tag, that the document has to have; else the write is
 * refused with 412.
 *
 * @typedef {{ ifMatch?: string | number }} WriteOptions
 */

/**
 * Which events of a document: those after the `next` of a page, or after a version, and how many at most.
 *
 * @typedef {{ after?: string, limit?: number, after_version?: number }} HistoryQuery
 */

/**
 * Events of a document. `next`: the `after` of the next page. `since`: where the history begins that is still there.
 *
 * @typedef {{ events: import("./replica.js").LogEvent[], next?: string, since?: string }} HistoryPage
 */

/**
 * A document as it was at a point of its history.
 *
 * @template Doc
 * @typedef {{ id: string, version: number, doc: Doc, position: string, etag: string }} PastDocument
 */

/**
 * The difference of two points of a document's history. `patch` leads from the first one to the second.
 *
 * @typedef {{ id: string, from: any, to: any, patch: import("./patch.js").Operation[] }} Difference
 */

/** @type {ReadonlyMap<string, ViewRow>} */
const NOTHING = new Map();
/** @type {readonly any[]} */
const NO_LIST = [];

/**
 * What all shapes have in common: they are followed.
 *
 * @template [Doc=any]
 */
export class Handle {
  /** @type {Set<(notice: Notice<Doc>) => void>} */
  #subscribers = new Set();
  /** @type {Set<ChangeReader>} */
  #readers = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #lingering;
  /** True while the shape is followed, or about to be. @type {boolean} */
  isFollowed = false;
  /** True once the documents of the store or of the server are here, even if there are none. @type {boolean} */
  isLoaded = false;
  /** The server's last refusal of the shape, or null. @type {import("./replica.js").Message | null} */
  error = null;

  /** @param {Client} client @param {string} text @param {import("./engine.js").ShapeInfo} info */
  constructor(client, text, info) {
    this.client = client;
    this.text = text;
    this.info = info;
  }

  get #view() {
    return this.client.engine.view(this.text);
  }

  /**
   * The documents with own writes over them, by id. The Map changes with them: replace nothing in it.
   *
   * @returns {ReadonlyMap<string, ViewRow<Doc>>}
   */
  get documents() {
    return this.#view?.rows ?? NOTHING;
  }

  /**
   * The contents of the documents: the same array until something changes.
   *
   * @returns {readonly Doc[]}
   */
  get list() {
    return this.#view?.list ?? NO_LIST;
  }

  /** Counts the changes of `documents`. @returns {number} */
  get revision() {
    return this.#view?.revision ?? 0;
  }

  /**
   * The position that the server's part of the documents stands at; null while nothing is complete.
   *
   * @returns {string | null}
   */
  get position() {
    return this.client.engine.core.position(this.text);
  }

  /** True while the shape has caught up. @returns {boolean} */
  get isLive() {
    return this.client.engine.core.isLive(this.text);
  }

  /** The content of a document. @param {string} id - The id text. @returns {Doc | undefined} */
  get(id) {
    return this.documents.get(id)?.doc;
  }

  /**
   * Follow the shape, and be called after each change. Returns the function that ends it.
   *
   * @param {(notice: Notice<Doc>) => void} subscriber
   * @returns {() => void}
   */
  subscribe(subscriber) {
    this.#subscribers.add(subscriber);
    this.#hold();
    return () => {
      this.#subscribers.delete(subscriber);
      this.#mayLeave();
    };
  }

  /**
   * The changes of what the server has sent, without own writes that it has not confirmed. Each reader gets them from
   * now on; one that comes to lag more than `maxChanges` behind ends with an error.
   *
   * @returns {AsyncIterableIterator<Change<Doc> & { position: string | null }>}
   */
  changes() {
    const reader = new ChangeReader(this.client.options.maxChanges, () => {
      this.#readers.delete(reader);
      this.#mayLeave();
    });
    this.#readers.add(reader);
    this.#hold();
    return reader;
  }

  #hold() {
    clearTimeout(this.#lingering);
    if (this.isFollowed) return;
    this.isFollowed = true;
    this.error = null;
    this.client.begin(this).catch((error) => this.client.report(error));
  }

  #mayLeave() {
    clearTimeout(this.#lingering);
    if (!this.isFollowed || this.#subscribers.size || this.#readers.size) return;
    this.#lingering = setTimeout(() => this.#leave(), this.client.options.linger);
  }

  #leave() {
    this.isFollowed = this.isLoaded = false;
    this.client.release(this);
  }

  // --- what the client reports --------------------------------------------------------------------------------------

  /** @internal @param {{ changes: Notice["changes"], source: Notice["source"], replayed: boolean }} output */
  changed({ changes, source, replayed }) {
    if (this.isFollowed && source !== "local") this.isLoaded = true;
    const notice = { shape: this.text, documents: this.documents, changes, source, replayed, revision: this.revision };
    for (const subscriber of this.#subscribers) this.client.listeners.call(subscriber, notice);
  }

  /** @internal @param {{ changes: Change[], position: string | null }} output */
  confirmed({ changes, position }) {
    if (!this.#readers.size) return;
    const { decodeRow } = this.client.engine;
    for (const change of changes) {
      const { before, after } = change;
      const seen = decodeRow && { before: before && decodeRow(before), after: after && decodeRow(after) };
      for (const reader of this.#readers) reader.push({ ...change, ...seen, position });
    }
  }

  /** @internal @param {import("./replica.js").Message} error */
  refused(error) {
    this.error = error;
    if (error.retry_after !== undefined) return;
    this.end(new Error(error.message));
    this.isFollowed = this.isLoaded = false;
    // After this report is over: the core is at work.
    queueMicrotask(() => this.isFollowed || this.client.release(this));
  }

  /** End the readers of `changes()`. @internal @param {Error} [error] */
  end(error) {
    clearTimeout(this.#lingering);
    for (const reader of this.#readers) reader.end(error);
    this.#readers.clear();
  }
}

/**
 * A shape of several documents, whose writes and history name the document by its id text.
 *
 * @template [Doc=any]
 * @extends {Handle<Doc>}
 */
export class ShapeHandle extends Handle {
  get #collection() {
    const { collection } = this.info;
    if (collection !== undefined) return collection;
    throw new TypeError(`name the collection of ${this.text}: shape(…, …, { collection })`);
  }

  /**
   * Create a document. Its `_id` is made here if it has none. Throws `TypeError` for what has no Extended JSON.
   *
   * @param {NewDocument<Doc>} doc - Extended JSON, or what the `decode` of the client makes of it.
   * @returns {Promise<Written>}
   */
  async insert(doc) {
    const json = this.#encoded(doc);
    const text = json._id === undefined ? newId() : idText(json._id);
    return this.#write("POST", text, { _id: idValue(text), ...json });
  }

  /**
   * Change a document by a merge patch (an object) or a JSON Patch (a list).
   *
   * @param {string} id - The id text.
   * @param {Patch<Doc>} patch
   * @param {WriteOptions} [options]
   * @returns {Promise<Written>}
   */
  async patch(id, patch, options) {
    return this.#write("PATCH", id, this.client.encoded(patch), options);
  }

  /**
   * Replace a document, or create it.
   *
   * @param {string} id
   * @param {NewDocument<Doc>} doc
   * @param {WriteOptions} [options]
   * @returns {Promise<Written>}
   */
  async replace(id, doc, options) {
    return this.#write("PUT", id, { _id: idValue(id), ...this.#encoded(doc) }, options);
  }

  /** Delete a document. @param {string} id @param {WriteOptions} [options] @returns {Promise<Written>} */
  remove(id, options) {
    return this.#write("DELETE", id, undefined, options);
  }

  /** A document as it is sent. A list or a text would become one of its parts. @param {any} doc */
  #encoded(doc) {
    const json = this.client.encoded(doc);
    if (json && typeof json === "object" && !Array.isArray(json)) return json;
    throw new TypeError("a document is an object of its fields");
  }

  /**
   * @param {import("./store.js").QueuedWrite["method"]} method
   * @param {string} id
   * @param {any} body
   * @param {WriteOptions} [options]
   */
  async #write(method, id, body, options = {}) {
    const ifMatch = typeof options.ifMatch === "number" ? `"${options.ifMatch}"` : options.ifMatch;
    const content = body !== undefined && { body };
    const condition = ifMatch !== undefined && { ifMatch };
    const write = { collection: this.#collection, id, method, shape: this.text, ...content, ...condition };
    return this.client.writes.make(write);
  }

  /**
   * The events of a document: a page of them, and the `after` of the next one.
   *
   * @param {string} id
   * @param {HistoryQuery} [query]
   * @returns {Promise<HistoryPage>}
   */
  history(id, query) {
    return this.client.http.request("GET", `${pathOf(this.#collection, id)}/events`, { query });
  }

  /**
   * A document as it was: at a `Date`, an instant in RFC 3339, a position, or a version.
   *
   * @param {string} id
   * @param {Date | string | number} point
   * @returns {Promise<PastDocument<Doc>>}
   */
  async at(id, point) {
    const found = await this.client.http.request("GET", pathOf(this.#collection, id), { query: pointOf(point) });
    return { ...found, doc: this.client.codec.decode(found.doc) };
  }

  /**
   * The patch from one point of a document's history to another one; to the newest event without `to`.
   *
   * @param {string} id @param {Date | string | number} from @param {Date | string | number} [to]
   * @returns {Promise<Difference>}
   */
  diff(id, from, to) {
    const query = { from: textOf(from), ...(to !== undefined && { to: textOf(to) }) };
    return this.client.http.request("GET", `${pathOf(this.#collection, id)}/diff`, { query });
  }
}

/**
 * A collection.
 *
 * @template [Doc=any]
 * @extends {ShapeHandle<Doc>}
 */
export class CollectionHandle extends ShapeHandle {}

/**
 * One document: what a collection does with its documents, without naming the id.
 *
 * @template [Doc=any]
 * @extends {Handle<Doc>}
 */
export class DocumentHandle extends Handle {
  /** @type {ShapeHandle<Doc>} */
  #byId = new ShapeHandle(this.client, this.text, this.info);

  get #id() {
    return /** @type {string} */ (this.info.id);
  }

  /** The document with own writes over it; undefined if it is not here. @returns {Doc | undefined} */
  get document() {
    return this.get(this.#id);
  }

  /** Change the document. @param {Patch<Doc>} patch @param {WriteOptions} [options] @returns {Promise<Written>} */
  patch(patch, options) {
    return this.#byId.patch(this.#id, patch, options);
  }

  /** Replace or create it. @param {NewDocument<Doc>} doc @param {WriteOptions} [options] @returns {Promise<Written>} */
  replace(doc, options) {
    return this.#byId.replace(this.#id, doc, options);
  }

  /** Delete it. @param {WriteOptions} [options] @returns {Promise<Written>} */
  remove(options) {
    return this.#byId.remove(this.#id, options);
  }

  /** Its events, page by page. @param {HistoryQuery} [query] @returns {Promise<HistoryPage>} */
  history(query) {
    return this.#byId.history(this.#id, query);
  }

  /** The document as it was. @param {Date | string | number} point @returns {Promise<PastDocument<Doc>>} */
  at(point) {
    return this.#byId.at(this.#id, point);
  }

  /**
   * The patch from one point of its history to another one.
   *
   * @param {Date | string | number} from @param {Date | string | number} [to]
   * @returns {Promise<Difference>}
   */
  diff(from, to) {
    return this.#byId.diff(this.#id, from, to);
  }
}

/** @param {Date | string | number} point @returns {Record<string, string>} */
function pointOf(point) {
  if (typeof point === "number") return { version: `${point}` };
  if (point instanceof Date) return { at: point.toISOString() };
  return /^\d{4}-\d\d-\d\d/.test(point) ? { at: point } : { position: point };
}

/** @param {Date | string | number} point */
function textOf(point) {
  return point instanceof Date ? point.toISOString() : `${point}`;
}
