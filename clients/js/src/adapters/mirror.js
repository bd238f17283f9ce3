// A copy of the unsent writes of a database in localStorage, for browsers that lose the database.
//
// Browsers remove IndexedDB as a whole: for lack of room, and Chromium also once a file of it is damaged, as it may be
// after a browser was killed while it wrote. localStorage is kept elsewhere. So a database that is new although it is
// known here was lost, and its writes are still here.

/** @typedef {import("../store.js").QueuedWrite} QueuedWrite */

const ROOM = 1 << 20; // characters of all writes together: the application may need the rest of the 5 MiB
const RECOUNT = 1000; // ms between two counts of what is there

export class Mirror {
  /** @type {Storage | null} */
  #storage = null;
  #used = 0; // by what this tab has seen: other tabs put writes, too, and remove those of this one
  #counted = 0;

  /** @param {string} database - Its name. */
  constructor(database) {
    this.name = `eventsync ${database}`;
    try {
      this.#storage = globalThis.localStorage ?? null;
    } catch {
      // The page may not use it.
    }
    this.#count();
  }

  /** The keys of the writes that are here. @returns {string[]} */
  get keys() {
    const start = `${this.name} `;
    const names = Object.keys(this.#storage ?? {}).filter((name) => name.startsWith(start));
    return names.map((name) => name.slice(start.length));
  }

  /** True if the database was there before. */
  get isKnown() {
    return this.#storage?.getItem(this.name) === "";
  }

  /** The database is there. */
  know() {
    this.#set(this.name, "");
  }

  /** The writes that are here, and how many more there were. */
  get writes() {
    const texts = this.keys.map((key) => this.#get(key));
    /** @type {QueuedWrite[]} */
    const kept = texts.filter(Boolean).map((text) => JSON.parse(text));
    return { kept, missing: texts.length - kept.length };
  }

  /** @param {QueuedWrite} write */
  put(write) {
    if (this.#storage?.getItem(this.#nameOf(write.key)) !== null) return;
    const text = JSON.stringify(write);
    if (this.#used + text.length > ROOM && performance.now() - this.#counted >= RECOUNT) this.#count();
    const isKept = this.#used + text.length <= ROOM && this.#set(this.#nameOf(write.key), text);
    if (isKept) this.#used += text.length;
    else this.#set(this.#nameOf(write.key), ""); // so that its loss is noticed
  }

  /** @param {string} key - Of a write. */
  remove(key) {
    this.#used = Math.max(0, this.#used - this.#get(key).length);
    this.#storage?.removeItem(this.#nameOf(key));
  }

  /** Forget the database and its writes. */
  clear() {
    for (const key of this.keys) this.remove(key);
    this.#storage?.removeItem(this.name);
  }

  #count() {
    this.#counted = performance.now();
    this.#used = this.keys.reduce((sum, key) => sum + this.#get(key).length, 0);
  }

  /** @param {string} key */
  #nameOf(key) {
    return `${this.name} ${key}`;
  }

  /** @param {string} key */
  #get(key) {
    return this.#storage?.getItem(this.#nameOf(key)) ?? "";
  }

  /** Returns false if there is no room. @param {string} name @param {string} text */
  #set(name, text) {
    try {
      this.#storage?.setItem(name, text);
      return true;
    } catch {
      return false;
    }
  }
}
