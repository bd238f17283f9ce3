// Collections of TanStack DB on shapes: live queries and joins over their documents, and mutations that are sent, kept
// and repeated by the client.
//
//   const cards = createCollection(eventsyncCollectionOptions({ shape: db.collection("cards") }));

import { idText } from "../ids.js";
import { equal, formatPointer, isMergeable, mergePatch } from "../patch.js";

/** @typedef {import("../client.js").Client<any>} Client */
/** @typedef {import("../client.js").Written} Written */
/** @template [Doc=any] @typedef {import("../handles.js").ShapeHandle<Doc>} ShapeHandle */
/** @template {object} Doc @typedef {import("@tanstack/db").CollectionConfig<Doc, string>} CollectionConfig */
/** @typedef {Parameters<CollectionConfig<any>["sync"]["sync"]>[0]} SyncParameters */
/** @typedef {Pick<import("@tanstack/db").PendingMutation<any>, "key" | "original" | "modified">} Mutation */

/**
 * Options of `createCollection` that are made of the shape, or that a collection on a shape has not.
 *
 * @typedef {"getKey" | "sync" | "onInsert" | "onUpdate" | "onDelete" | "schema" | "utils" | "syncMode"} Made
 */

/**
 * What the options of a collection are made of.
 *
 * @template {object} Doc
 * @typedef {object} CollectionSource
 * @property {ShapeHandle<Doc>} shape - What `db.collection()` or `db.shape()` returns. It is followed while the collection
 *   is in use.
 * @property {"confirmed" | "queued"} [persisted] - When a transaction of TanStack DB has persisted: once the shape has
 *   the server's result (`confirmed`, the default), or once the client has stored the write for sending (`queued`).
 */

/**
 * The options of a collection of TanStack DB whose rows are the documents of a shape. The key of a row is the id text
 * of its document, and own writes are part of the rows, whoever made them. A new row needs an `_id`. The writes of a
 * transaction are sent by themselves: one that is refused rolls the whole transaction back in TanStack DB, but not the
 * others that the server has made.
 *
 * TanStack DB shows nothing new in a collection while one of its transactions persists. With `queued` that is no longer
 * than storing takes, also offline, and a refusal is reported by the client's `onRejected` alone.
 *
 * @template {object} Doc
 * @param {CollectionSource<Doc> & Partial<Omit<CollectionConfig<Doc>, Made>>} options - Beside `shape` and `persisted`
 *   those of `createCollection`, such as `id` and `gcTime`.
 * @returns {CollectionConfig<Doc> & { schema?: never, singleResult?: never }}
 */
export function eventsyncCollectionOptions({ shape, persisted = "confirmed", ...config }) {
  const { client } = shape;
  const keys = new Keys(client);

  /** @param {(mutation: Mutation) => Promise<Written>} write */
  const handler = (write) => async (/** @type {{ transaction: { mutations: any[] } }} */ { transaction }) => {
    /** @type {Written[]} */
    const writes = [];
    for (const mutation of transaction.mutations) writes.push(await write(mutation));
    if (persisted === "confirmed") await Promise.all(writes.map(({ settled }) => settled));
  };

  return {
    id: shape.text,
    ...config,
    getKey: (/** @type {any} */ row) => keys.of(row),
    sync: {
      sync: (/** @type {SyncParameters} */ parameters) => follow(shape, keys, parameters),
      rowUpdateMode: /** @type {const} */ ("full"),
    },
    onInsert: handler(({ modified }) => shape.insert(documentOf(modified))),
    onUpdate: handler(({ key, original, modified }) => {
      const [before, after] = [original, modified].map((row) => client.encoded(documentOf(row)));
      return shape.patch(key, patchBetween(before, after));
    }),
    onDelete: handler(({ key }) => shape.remove(key)),
  };
}

/** The keys of rows, which are the id texts of their documents. */
class Keys {
  /** @type {Map<string, string>} JSON of an `_id` → its text, where only the server makes the text. */
  #odd = new Map();

  /** @param {Client} client */
  constructor(client) {
    this.client = client;
  }

  /** @param {any} row - Throws `TypeError` if it has no `_id` that a client can name. */
  of({ _id }) {
    if (_id === undefined) throw new TypeError("a row needs an _id: _id: idValue(newId())");
    const json = this.client.encoded(_id);
    return this.#odd.get(JSON.stringify(json)) ?? idText(json);
  }

  /** Note the text of a document's `_id`. @param {string} id @param {any} row */
  learn(id, row) {
    const json = this.client.encoded(row._id);
    try {
      if (idText(json) === id) return;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    this.#odd.set(JSON.stringify(json), id);
  }
}

/**
 * Bring the documents of a shape, with own writes over them, into a collection. Returns the function that ends it.
 *
 * @param {ShapeHandle} shape
 * @param {Keys} keys
 * @param {SyncParameters} parameters
 */
function follow(shape, keys, { begin, write, commit, markReady, markError }) {
  /** @type {Set<string>} The keys that the collection has. */
  const held = new Set();

  /** @param {[id: string, row: { doc: any } | undefined][]} rows */
  function show(rows) {
    if (!rows.length) return;
    begin();
    for (const [id, row] of rows) {
      if (row) {
        keys.learn(id, row.doc);
        write({ type: held.has(id) ? "update" : "insert", value: row.doc });
        held.add(id);
      } else if (held.delete(id)) {
        write({ type: "delete", key: id });
      }
    }
    commit();
  }

  const leave = shape.subscribe(({ changes }) => {
    show(changes.map(({ id, after }) => [id, after]));
    if (shape.isLoaded) markReady();
  });
  const end = shape.client.on("refused", ({ shape: text, message }) => {
    if (text === shape.text && !shape.isFollowed) markError(new Error(message));
  });
  show([...shape.documents]);
  if (shape.isLoaded) markReady();
  return () => {
    leave();
    end();
  };
}

/**
 * The document of a row, without what TanStack DB adds to it: no field of a document begins with `$`.
 *
 * @param {any} row
 * @returns {any}
 */
function documentOf(row) {
  return Object.fromEntries(Object.entries(row).filter(([name]) => !name.startsWith("$")));
}

/**
 * The patch that leads from one document to another one: a merge patch of what differs, so that what others change
 * meanwhile stays; or a JSON Patch of whole fields where a merge patch cannot say it, as for a null.
 *
 * @internal
 * @param {any} before - Extended JSON.
 * @param {any} after
 */
export function patchBetween(before, after) {
  const merge = mergeBetween(before, after);
  if (equal(mergePatch(before, merge), after)) return merge;
  const { changed, removed } = difference(before, after);
  const sets = changed.map((name) => ({ op: "add", path: formatPointer([name]), value: after[name] }));
  return [...sets, ...removed.map((name) => ({ op: "remove", path: formatPointer([name]) }))];
}

/** @param {any} before @param {any} after @returns {any} */
function mergeBetween(before, after) {
  const { changed, removed } = difference(before, after);
  const members = changed.map((name) => {
    const former = Object.hasOwn(before, name) ? before[name] : undefined;
    const value = after[name];
    return [name, isMergeable(former) && isMergeable(value) ? mergeBetween(former, value) : value];
  });
  return Object.fromEntries([...members, ...removed.map((name) => [name, null])]);
}

/**
 * The names of the members that are other ones in `after`, or new, and of those that are gone.
 *
 * @param {any} before
 * @param {any} after
 */
function difference(before, after) {
  const isKept = (/** @type {string} */ name) => Object.hasOwn(before, name) && equal(before[name], after[name]);
  const changed = Object.keys(after).filter((name) => !isKept(name));
  const removed = Object.keys(before).filter((name) => !Object.hasOwn(after, name));
  return { changed, removed };
}
