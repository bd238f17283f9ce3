// The writes of a client that are not known to be in every shape yet, in the order in which they are to be sent.

import { PendingWrite } from "./pending.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */

/** @param {PendingWrite} entry */
export const isAnswered = ({ state }) => state === "answered";

export class WriteQueue {
  /** @type {Map<string, PendingWrite>} By key, in order. */
  #entries = new Map();
  /** @type {Map<string, PendingWrite[]>} By document, in order. */
  #documents = new Map();
  /** The greatest `order` of a write so far. */
  order = 0;

  get size() {
    return this.#entries.size;
  }

  get all() {
    return [...this.#entries.values()];
  }

  /** @param {string} key */
  get(key) {
    return this.#entries.get(key);
  }

  /** The writes of a document. @param {string} collection @param {string} id */
  of(collection, id) {
    return this.#documents.get(nameOf(collection, id)) ?? [];
  }

  /** The first write without an answer of each document, unless it is under way. */
  *heads() {
    for (const entries of this.#documents.values()) {
      const head = entries.find((entry) => !isAnswered(entry));
      if (head?.state === "queued") yield head;
    }
  }

  /** @param {QueuedWrite} write */
  put(write) {
    const entry = new PendingWrite(write);
    this.order = Math.max(this.order, write.order);
    this.#entries.set(write.key, entry);
    const name = nameOf(write.collection, write.id);
    const entries = this.#documents.get(name) ?? [];
    // Those of another tab may come late, but nothing comes before what may be under way.
    const before = entries.findLastIndex(({ write: { order }, state }) => {
      return order <= write.order || state === "sending" || state === "answered";
    });
    this.#documents.set(name, [...entries.slice(0, before + 1), entry, ...entries.slice(before + 1)]);
    return entry;
  }

  /** @param {PendingWrite} entry */
  remove(entry) {
    const { key, collection, id } = entry.write;
    this.#entries.delete(key);
    const left = this.of(collection, id).filter((other) => other !== entry);
    const name = nameOf(collection, id);
    if (left.length) this.#documents.set(name, left);
    else this.#documents.delete(name);
  }
}

/** @param {string} collection @param {string} id */
function nameOf(collection, id) {
  return `${collection}/${id}`; // no slash is in a collection's name
}
