"use client";
// Hooks for React: a component shows the documents of a shape, one document, or the status of the client, and follows
// the shape while it is mounted.
//
//   <Provider client={db}><Board /></Provider>
//   const { data, isLoaded, error } = useShape("cards", { select: (cards) => cards.filter(({ done }) => !done) });

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
} from "react";

/** @typedef {import("../client.js").Client<any>} Client */
/** @typedef {import("../client.js").Status} Status */
/** @template [Doc=any] @typedef {import("../handles.js").Handle<Doc>} Handle */
/** @template [Doc=any] @typedef {import("../handles.js").DocumentHandle<Doc>} DocumentHandle */
/** @typedef {import("../replica.js").Message} Message */
/** @typedef {import("../schema.js").Schema} Schema */
/** @template {Schema} S @typedef {import("../schema.js").CollectionName<S>} CollectionName */
/** @template {Schema} S @typedef {import("../schema.js").ShapeText<S>} ShapeText */

/**
 * The type of the documents of what `useShape` takes.
 *
 * @template {Schema} S
 * @template Shape
 * @typedef {Shape extends Handle<infer Doc> ? Doc
 *   : Shape extends string ? import("../schema.js").TextDocument<S, Shape>
 *   : any} DocumentOf
 */

/**
 * The hooks for the documents of a schema.
 *
 * @template {Schema} S
 * @typedef {object} Hooks
 * @property {typeof Provider} Provider
 * @property {() => import("../client.js").Client<S>} useClient
 * @property {<Shape extends ShapeText<S> | Handle | null, Data = readonly DocumentOf<S, Shape>[]>(
 *   shape: Shape, options?: { select?: (documents: readonly DocumentOf<S, Shape>[]) => Data }
 * ) => ShapeState<Data>} useShape
 * @property {{
 *   <Name extends CollectionName<S>>(collection: Name, id: string | null | undefined): DocumentState<DocumentOf<S, Name>>,
 *   <Doc>(document: DocumentHandle<Doc> | null): DocumentState<Doc>,
 * }} useDocument
 * @property {typeof useStatus} useStatus
 */

/**
 * What a component shows of a shape.
 *
 * @template Data
 * @typedef {object} ShapeState
 * @property {Data} data - The documents with own writes over them, or what `select` makes of them.
 * @property {boolean} isLoaded - True once they are here, from the store or from the server.
 * @property {Message | null} error - The refusal by which the server has ended the shape, or null.
 */

/**
 * What a component shows of one document.
 *
 * @template [Doc=any]
 * @typedef {object} DocumentState
 * @property {Doc | undefined} data - The document with own writes over it; undefined if it is not here.
 * @property {number} version - Of the document as the server has sent it, for `ifMatch`; 0 if it has not.
 * @property {boolean} isPending - True while own writes are shown in it that the server has not confirmed.
 * @property {boolean} isLoaded - True once it is known whether there is such a document.
 * @property {Message | null} error - The refusal by which the server has ended the shape, or null.
 */

/**
 * Where a hook reads its state, for `useSyncExternalStore`. A state is replaced and never changed.
 *
 * @template State
 * @typedef {object} Source
 * @property {(listener: () => void) => () => void} subscribe
 * @property {() => State} read
 * @property {State} initial - What a server renders, and a page before it has taken over.
 */

/** @type {import("react").Context<Client | null>} */
const Context = createContext(/** @type {Client | null} */ (null));

/**
 * Have the components below use this client.
 *
 * @param {{ client: Client, children?: import("react").ReactNode }} props
 * @returns {import("react").ReactElement}
 */
export function Provider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest `Provider`. Throws `Error` if there is none. @returns {Client} */
export function useClient() {
  return provided(useContext(Context));
}

/**
 * The documents of a shape. The component renders again when they change. What is equal to what was shown before stays
 * the same object: a document, an item of a list, and each list of an object such as `Object.groupBy` makes.
 *
 * @template [Doc=any]
 * @template [Data=readonly Doc[]]
 * @param {string | Handle<Doc> | null} shape - A text, such as `cards` or `my_cards?board=7`; or what `db.collection()`
 *   or `db.shape()` returns, which needs no `Provider`; or null for no shape.
 * @param {{ select?: (documents: readonly Doc[]) => Data }} [options] - `select` makes `data` of the documents.
 * @returns {ShapeState<Data>}
 */
export function useShape(shape, { select } = {}) {
  const client = useContext(Context);
  const handle = typeof shape === "string" ? provided(client).follow(shape) : shape;
  const derive = useCallback(
    (/** @type {ShapeState<any>} */ state) => (select ? { ...state, data: select(state.data) } : state),
    [select],
  );
  return useDerived(handle ? shapeSource(handle) : NO_SHAPE, derive);
}

/**
 * One document. It is followed by itself: for many documents of a collection, follow the collection.
 *
 * @template [Doc=any]
 * @param {string | DocumentHandle<Doc> | null} collection - Its name; or what `db.document()` returns, which needs no
 *   `Provider`; or null for no document.
 * @param {string | null} [id] - The id text, if `collection` is a name; without one, no document.
 * @returns {DocumentState<Doc>}
 */
export function useDocument(collection, id) {
  const client = useContext(Context);
  const find = (/** @type {string} */ name) => (id ? provided(client).document(name, id) : null);
  const handle = typeof collection === "string" ? find(collection) : collection;
  return useDerived(handle ? documentSource(handle) : NO_DOCUMENT, whole);
}

/**
 * The status of the client, or what `select` makes of it. The component renders again when that changes.
 *
 * @template [Data=Status]
 * @param {{ select?: (status: Status) => Data, client?: Client }} [options] - `client`: instead of the provided one.
 * @returns {Data}
 */
export function useStatus({ select, client } = {}) {
  const context = useContext(Context);
  const derive = /** @type {(status: Status) => any} */ (select ?? whole);
  return useDerived(statusSource(provided(client ?? context)), derive);
}

/**
 * The hooks of this module, typed by a schema: `export const { useShape, useDocument } = createHooks<Schema>()`.
 *
 * @template {Schema} S
 * @returns {Hooks<S>}
 */
export function createHooks() {
  return { Provider, useClient, useShape, useDocument, useStatus };
}

/** @param {Client | null} client */
function provided(client) {
  if (client) return client;
  throw new Error("there is no client: put the component into <Provider client={…}>, of eventsync/react");
}

/** @template T @param {T} value */
const whole = (value) => value;

// --- sources --------------------------------------------------------------------------------------------------------

/** @type {ShapeState<readonly any[]>} */
const NOTHING = { data: [], isLoaded: false, error: null };
/** @type {Source<ShapeState<readonly any[]>>} */
const NO_SHAPE = { subscribe: () => () => {}, read: () => NOTHING, initial: NOTHING };
/** @type {DocumentState} */
const NO_STATE = { data: undefined, version: 0, isPending: false, isLoaded: false, error: null };
/** @type {Source<DocumentState>} */
const NO_DOCUMENT = { ...NO_SHAPE, read: () => NO_STATE, initial: NO_STATE };

const shapeSource = once((/** @type {Handle} */ handle) => {
  const now = () => ({ data: handle.list, isLoaded: handle.isLoaded, error: refusalOf(handle) });
  return { subscribe: followed(handle), read: unchanged(now), initial: NOTHING };
});

const documentSource = once((/** @type {DocumentHandle} */ handle) => {
  /** @returns {DocumentState} */
  const now = () => {
    const row = handle.documents.get(/** @type {string} */ (handle.info.id));
    const seen = { data: row?.doc, version: row?.version ?? 0, isPending: row?.pending ?? false };
    return { ...seen, isLoaded: handle.isLoaded, error: refusalOf(handle) };
  };
  return { subscribe: followed(handle), read: unchanged(now), initial: NO_STATE };
});

const statusSource = once((/** @type {Client} */ client) => {
  /** @type {Status} */
  const initial = { ...client.status, name: "connecting", reason: "", code: 0, delay: 0, pending: 0, stale: false };
  return {
    subscribe: (/** @type {() => void} */ listener) => client.on("status", listener),
    read: unchanged(() => client.status),
    initial,
  };
});

/**
 * Make one source for each object: React subscribes again to another one.
 *
 * @template {object} Of
 * @template State
 * @param {(of: Of) => Source<State>} make
 * @returns {(of: Of) => Source<State>}
 */
function once(make) {
  /** @type {WeakMap<Of, Source<State>>} */
  const made = new WeakMap();
  return (of) => {
    const source = made.get(of) ?? make(of);
    made.set(of, source);
    return source;
  };
}

/**
 * The refusal that has ended a shape. After one that is temporary the shape is still followed.
 *
 * @param {Handle} handle
 */
function refusalOf({ isFollowed, error }) {
  return isFollowed ? null : error;
}

/**
 * Subscribing to a shape. After the last subscriber it lingers, so an effect that runs twice and a component that
 * comes back find it as it was.
 *
 * @param {Handle} handle
 */
function followed(handle) {
  return (/** @type {() => void} */ listener) => {
    const leave = handle.subscribe(() => listener());
    const end = handle.client.on("refused", ({ shape }) => shape === handle.text && listener());
    return () => {
      leave();
      end();
    };
  };
}

/**
 * Return the same state until one of its members has changed: React compares states by identity.
 *
 * @template {object} State
 * @param {() => State} read
 * @returns {() => State}
 */
function unchanged(read) {
  /** @type {State | undefined} */
  let last;
  return () => {
    const state = read();
    const names = /** @type {(keyof State)[]} */ (Object.keys(state));
    if (!last || names.some((name) => state[name] !== last?.[name])) last = state;
    return last;
  };
}

// --- what is made of a state ----------------------------------------------------------------------------------------

/**
 * What `derive` makes of the state of a source. The component renders again when it is not equal to what is shown.
 *
 * @template State
 * @template Data
 * @param {Source<State>} source
 * @param {(state: State) => Data} derive
 * @returns {Data}
 */
function useDerived(source, derive) {
  /** @type {import("react").MutableRefObject<Data | undefined>} */
  const shown = useRef(undefined);
  const [read, readInitial] = useMemo(() => {
    // A `select` that is written into the component is another function in each render: it starts from what is shown.
    const before = () => shown.current;
    return [derived(source.read, derive, before), derived(() => source.initial, derive, before)];
  }, [source, derive]);
  const data = useSyncExternalStore(source.subscribe, read, readInitial);
  useEffect(() => {
    shown.current = data;
  }, [data]);
  return data;
}

/**
 * @template State
 * @template Data
 * @param {() => State} read
 * @param {(state: State) => Data} derive
 * @param {() => Data | undefined} before - What is shown already.
 * @returns {() => Data}
 */
function derived(read, derive, before) {
  /** @type {{ state: State, data: Data } | undefined} */
  let last;
  return () => {
    const state = read();
    if (!last || last.state !== state) last = { state, data: kept(last ? last.data : before(), derive(state)) };
    return last.data;
  };
}

/**
 * Return a value with the parts of the one before that are equal: the items of a list, the members of an object. A
 * document is one part, because what it shares with the one before is the same already.
 *
 * @param {any} before
 * @param {any} after
 * @returns {any}
 */
function kept(before, after) {
  if (isSame(before, after)) return before;
  if (Array.isArray(before) && Array.isArray(after)) {
    const items = after.map((item, at) => (isSame(before[at], item) ? before[at] : item));
    return items.every((item, at) => item === after[at]) ? after : items;
  }
  if (!isPlain(before) || !isPlain(after) || Object.hasOwn(after, "_id")) return after;
  return Object.fromEntries(Object.entries(after).map(([name, value]) => [name, kept(before[name], value)]));
}

/**
 * Return true if two values are equal. Of objects that are neither lists nor plain, none equals another one.
 *
 * @param {any} left
 * @param {any} right
 * @returns {boolean}
 */
function isSame(left, right) {
  if (Object.is(left, right)) return true;
  if (Array.isArray(left) && Array.isArray(right)) {
    return left.length === right.length && left.every((item, at) => isSame(item, right[at]));
  }
  if (!isPlain(left) || !isPlain(right)) return false;
  const names = Object.keys(left);
  if (names.length !== Object.keys(right).length) return false;
  return names.every((name) => Object.hasOwn(right, name) && isSame(left[name], right[name]));
}

/** @param {any} value */
function isPlain(value) {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
