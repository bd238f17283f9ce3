// The types of what a client takes and reports. Nothing is here at run time.

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./outbox.js").Problem} Problem */
/** @typedef {import("./lifecycle.js").TokenReason} TokenReason */

/**
 * What `createClient` takes.
 *
 * @typedef {object} ClientOptions
 * @property {string | URL} [url] - Of the server; in a page, its own origin without it.
 * @property {(why: TokenReason) => string | null | Promise<string | null>} [token] - Asked before each connection
 *   (`connect`), before a token ends (`expiring`), and after the server has refused one (`refused`).
 * @property {string} [principal] - Who the token speaks for. What is stored for another one is not used. With a `token`
 *   and a `store` it is needed: else the next user of the browser would see the documents of this one, and send its
 *   writes.
 * @property {string} [clientId] - Has the server store what this client acknowledges, and list it for operators.
 * @property {import("./store.js").Store} [store] - Keeps documents, positions and writes; in memory without it.
 * @property {import("./decode.js").Codec} [decode] - How documents are seen and written, such as `native()`; as
 *   Extended JSON without it.
 * @property {"auto" | import("./transports.js").TransportName} [transport] - `auto`, without it, is a WebSocket, or
 *   what gets through: then a WebSocket is tried again at a reconnect 10 minutes later.
 * @property {typeof globalThis.WebSocket} [WebSocket] - Where the runtime has none, as that of the package `ws`.
 * @property {typeof globalThis.fetch} [fetch] - In place of the runtime's.
 * @property {number} [maxWrites] - Writes that may be queued, or not known to be in all shapes; 10,000 without it.
 * @property {number} [maxChanges] - Changes that may wait for one reader of `changes()`; 100,000 without it.
 * @property {number} [linger] - Milliseconds that a shape without a subscriber is still followed; 1000 without it.
 * @property {import("./tabs.js").Browser | false} [tabs] - The locks and the channels by which tabs share a connection;
 *   those of the browser without it. With `false` each tab has its own.
 * @property {(rejection: Rejection) => void} [onRejected] - A write was refused and taken back.
 * @property {(error: unknown) => void} [onError] - The store has failed, the browser has removed what it had
 *   (`StoreLost`), or a function of the application has thrown.
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

export {};
