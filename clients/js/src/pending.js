// A write that is not known to be in every shape yet: how far it has come, and which shapes have it.

import { equal } from "./patch.js";
import { isPast } from "./positions.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./store.js").Row} Row */

/**
 * An answer of 2xx to a write.
 *
 * @typedef {{ id: string, version: number, doc?: any, patch?: any, repeated?: boolean }} WriteAnswer
 */

/**
 * What a pending write has to know of a followed shape.
 *
 * @typedef {object} FollowedShape
 * @property {string} collection
 * @property {string} [id] - Of a shape of one document.
 * @property {() => string | null} position
 * @property {(id: string) => Row | undefined} row - The document as the server has sent it.
 */

export class PendingWrite {
  /** @type {"storing" | "queued" | "sending" | "answered"} */
  state = "storing";
  attempts = 0;
  retryAt = 0;
  answeredAt = 0;
  /** @type {WriteAnswer | null} */
  answer = null;
  /** True while a barrier is asked for that covers it. */
  asked = false;
  /** @type {import("./positions.js").Barrier | null} A position at or past the write. */
  barrier = null;
  /** @type {Set<string>} Shapes that have the write. */
  settled = new Set();
  /** @type {Set<string>} Shapes whose rows came when the server may have had the write: they may have it. */
  doubt = new Set();
  /** True if it may have been sent. */
  attempted = false;

  /** @param {QueuedWrite} write */
  constructor(write) {
    this.write = write;
  }

  /**
   * Return true if a shape may show the document, and is not known to have the write.
   *
   * @param {string} shape
   * @param {FollowedShape | undefined} followed
   */
  isMissingIn(shape, followed) {
    if (followed?.collection !== this.write.collection || this.settled.has(shape)) return false;
    return followed.id === undefined || followed.id === this.write.id;
  }

  /**
   * Return true if a shape is known to have the write, without an event that says so.
   *
   * @param {string} shape
   * @param {FollowedShape} followed
   */
  isKnownIn(shape, followed) {
    const position = followed.position();
    if (!this.answer || !position) return false;
    if (this.barrier && isPast(position, this.barrier)) return true;
    const row = followed.row(this.write.id);
    // What is deleted is not shown either way, until a barrier says that nothing older comes back.
    if (!row || this.write.method === "DELETE") return false;
    const { version, doc } = this.answer;
    // Events alone would have brought the write's own event; rows may have brought the write, and more.
    if (this.doubt.has(shape)) return row.version >= version;
    return row.version === version && doc !== undefined && equal(row.doc, doc);
  }

  /**
   * Forget a barrier of another log than the shape's, which the shape never reaches.
   *
   * @param {FollowedShape} followed
   */
  checkBarrier(followed) {
    const position = followed.position();
    if (this.barrier && position && isPast(position, this.barrier) === undefined) this.barrier = null;
  }
}
