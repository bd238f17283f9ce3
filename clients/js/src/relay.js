// How the tab that is connected serves the others, without I/O: they are clients of it, by the messages of the server.
//
// The leader passes on each message as it came. A tab that subscribes says where it stands, and gets what it lacks: the
// messages since then, or all documents. Every message names the positions that it leads from and to, so a tab applies
// each change once, whichever tab leads.

import { distance } from "./positions.js";

/** @typedef {import("./replica.js").Message} Message */

/**
 * A message for the tabs that are attached to its shape, or for one tab. `attached`: from here on the tab gets the
 * messages of that shape.
 *
 * @typedef {{ to?: string, link?: number, message?: Message, attached?: string }} Relayed
 */

const KEPT = 100; // messages of a shape: more than come while a tab reads the store
const PART = 1000; // documents in a message
const RELAYED = new Set(["snapshot", "squashed", "events", "live", "reset", "error"]);

/** The last messages of a shape. `base`: where the first one begins. */
class Recent {
  /** @type {{ to: string, message: Message }[]} */
  messages = [];
  isStaging = false; // true between the first and the last part of an answer

  /** @param {string | null} base */
  constructor(base) {
    this.base = base;
  }
}

/** What the leader has for the other tabs. */
export class Relay {
  /** @type {Relayed[]} */
  #outputs = [];
  /** @type {Map<string, Recent>} */
  #recent = new Map();
  /**
   * Tab → shape → where the tab stands, until that is answered.
   *
   * @type {Map<string, { link: number, shapes: Map<string, string | null | undefined> }>}
   */
  #tabs = new Map();

  /** @param {import("./core.js").Core} core */
  constructor(core) {
    this.core = core;
  }

  take() {
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }

  /** The other tabs that are served. */
  get tabs() {
    return [...this.#tabs.keys()];
  }

  /** Return true if a tab wants a shape. @param {string} shape */
  has(shape) {
    return [...this.#tabs.values()].some(({ shapes }) => shapes.has(shape));
  }

  /** @param {string} tab @param {number} link - Its connections are counted. */
  join(tab, link) {
    this.#tabs.set(tab, { link, shapes: new Map() });
    this.#outputs.push({ to: tab, link, message: { type: "welcome", heartbeat: 1e6 } });
  }

  /** @param {string} tab */
  leave(tab) {
    this.#tabs.delete(tab);
  }

  /** @param {string} tab @param {string} shape @param {string | null} position - Where the tab stands. */
  subscribe(tab, shape, position) {
    this.#tabs.get(tab)?.shapes.set(shape, position);
    this.settle();
  }

  /** @param {string} tab @param {string} shape */
  unsubscribe(tab, shape) {
    this.#tabs.get(tab)?.shapes.delete(shape);
  }

  /** Serve nobody: another tab leads. */
  clear() {
    this.#tabs.clear();
    this.#recent.clear();
  }

  /** The leader's connection has ended, and what it was about to send. */
  cut() {
    this.#recent.clear();
  }

  /**
   * Pass on a message of the server, which the core gets next.
   *
   * @param {Message} message
   */
  pass(message) {
    const { type, shape } = message;
    if (type === "progress") {
      for (const [name, to] of Object.entries(message.vector)) this.#keep(name, to, { type, vector: { [name]: to } });
    } else if (!RELAYED.has(type) || shape === undefined) {
      return;
    } else if (type === "events") {
      this.#keep(shape, message.to, message);
    } else if (type === "error") {
      this.#refused(shape, message);
    } else if (type !== "live") {
      const recent = new Recent(null);
      recent.isStaging = message.last === false;
      this.#recent.set(shape, recent);
    }
    if (this.#tabs.size) this.#outputs.push({ message });
  }

  /** @param {string} shape @param {Message} message */
  #refused(shape, message) {
    for (const [tab, { link, shapes }] of this.#tabs) {
      if (shapes.get(shape) !== undefined) this.#outputs.push({ to: tab, link, message });
      if (message.retry_after === undefined) shapes.delete(shape);
    }
  }

  /** @param {string} shape @param {string} to @param {Message} message */
  #keep(shape, to, message) {
    const recent = this.#of(shape);
    if (recent.base === null) return;
    recent.messages.push({ to, message });
    if (recent.messages.length > KEPT) recent.base = /** @type {any} */ (recent.messages.shift()).to;
  }

  /** @param {string} shape */
  #of(shape) {
    const recent = this.#recent.get(shape) ?? new Recent(this.core.position(shape));
    this.#recent.set(shape, recent);
    recent.base ??= this.core.position(shape);
    return recent;
  }

  /** Answer the subscriptions that can be: whatever was passed on has been applied. */
  settle() {
    for (const [tab, { link, shapes }] of this.#tabs) {
      for (const [shape, position] of shapes) {
        if (position === undefined || !this.core.shapes.includes(shape) || this.#of(shape).isStaging) continue;
        shapes.set(shape, undefined);
        const messages = this.#missing(shape, position);
        if (this.core.isLive(shape)) messages.push({ type: "live", shape, position: this.core.position(shape) });
        for (const message of messages) this.#outputs.push({ to: tab, link, message });
        this.#outputs.push({ to: tab, link, attached: shape });
      }
    }
  }

  /**
   * What a tab lacks that stands at a position.
   *
   * @param {string} shape
   * @param {string | null} position
   * @returns {Message[]}
   */
  #missing(shape, position) {
    const own = this.core.position(shape);
    if (own === null || (position !== null && distance(own, position) >= 0)) return [];
    const { base, messages } = this.#of(shape);
    if (position !== null && base !== null && distance(base, position) >= 0) {
      return messages.filter(({ to }) => !(distance(to, position) >= 0)).map(({ message }) => message);
    }
    const isReset = position !== null && isNaN(distance(position, own));
    const rows = [...this.core.documents(shape)].map(([id, row]) => ({ id, ...row }));
    const parts = Array.from({ length: Math.ceil(rows.length / PART) || 1 }, (_, part) => {
      const docs = rows.slice(part * PART, (part + 1) * PART);
      return { type: "snapshot", shape, position: own, part, last: (part + 1) * PART >= rows.length, docs };
    });
    return isReset ? [{ type: "reset", shape, reason: "unknown_log" }, ...parts] : parts;
  }
}

/** One connection of a tab to the leader: which of the messages on the channel are its own. */
export class Attachment {
  /** @type {Set<string>} */
  #shapes = new Set();

  /** @param {import("./core.js").Core} core @param {number} link */
  constructor(core, link) {
    this.core = core;
    this.link = link;
  }

  /**
   * The message that the core is to get; null if there is none.
   *
   * @param {Relayed} relayed
   * @returns {Message | null}
   */
  take({ to, link, message, attached }) {
    if (to !== undefined && link !== this.link) return null;
    if (attached !== undefined) this.#shapes.add(attached);
    if (!message) return null;
    if (message.type === "progress") {
      const isOurs = (/** @type {string} */ shape) => to !== undefined || this.#shapes.has(shape);
      const positions = Object.entries(message.vector).filter(([shape]) => isOurs(shape));
      return { ...message, vector: Object.fromEntries(positions) };
    }
    const { type, shape } = message;
    if (shape !== undefined && to === undefined && !this.#shapes.has(shape)) return null;
    if (type === "error" && !this.core.shapes.includes(shape)) return null;
    const own = type === "snapshot" ? this.core.position(shape) : null;
    return own !== null && distance(message.position, own) >= 0 ? null : message; // that would lead back
  }
}
