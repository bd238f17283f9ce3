// One of several tabs that share a store, without I/O. One of them leads: it is connected, sends the writes and stores.
// The others follow: the leader is the server of their cores, and they hear of every write and its outcome from it, in
// the order in which it acts.
//
// `receive` takes what another tab has posted, and `take` returns what is to be posted. A leader posts its epoch, and a
// message of an older epoch comes from a tab that has not noticed yet that it leads no more.

import { Attachment, Relay } from "./relay.js";
import { Unstored } from "./unstored.js";

/** @typedef {import("./store.js").QueuedWrite} QueuedWrite */
/** @typedef {import("./engine.js").ShapeInfo} ShapeInfo */
/** @typedef {import("./relay.js").Relayed} Relayed */
/** @typedef {{ answer?: import("./pending.js").WriteAnswer, problem?: import("./outbox.js").Problem }} Outcome */

/**
 * What a tab posts. Functions cannot be posted: of a shape the leader learns the collection and the id.
 *
 * `epoch` is that of a leader, and `heard` the greatest that a follower knows of.
 *
 * @typedef {{ from: string, to?: string, epoch?: number, heard?: number } & Record<string, any>} Post
 */

/**
 * What a tab needs of its client.
 *
 * @typedef {object} Host
 * @property {(shape: string, info: ShapeInfo) => void} hold - Load a shape for other tabs, and `begin` it.
 * @property {() => any} status - That of the connection.
 * @property {() => void} changed - The status of the leader has changed.
 * @property {(epoch: number) => void} overtaken - Another tab leads, or has led: `follow` is to be called.
 * @property {() => void} released - A follower wants fewer shapes.
 * @property {() => void} start
 * @property {() => void} hurry
 * @property {() => void} ping - Ask the server for its positions.
 * @property {(key: string) => void} dequeue - Remove a write from the store.
 * @property {(action: () => void) => void} defer - Do something after the present input.
 */

const REMEMBERED = 1000; // outcomes

export class Tab {
  leads = false;
  /** True if another tab can be asked for tokens. */
  askable = false;
  /** That of the leader, as far as it is known. */
  epoch = 0;
  /** The status of the leader, or null while this tab leads or knows none. @type {any} */
  shared = null;
  /** @type {Post[]} */
  #posts = [];
  #links = 0;
  /** @type {{ attachment: Attachment, reports: import("./transports.js").Reports } | null} */
  #link = null;
  /** @type {Map<string, Outcome>} Of writes that are not here, or not any more. */
  #outcomes = new Map();
  /** @type {Map<string, string>} Key of a write → the tab that has made it. */
  #makers = new Map();
  unstored = new Unstored();

  /** @param {string} id @param {import("./engine.js").Engine} engine @param {Host} host */
  constructor(id, engine, host) {
    this.id = id;
    this.engine = engine;
    this.host = host;
    this.relay = new Relay(engine.core);
    this.hasToken = engine.core.hasToken;
    engine.core.hasToken = false;
    engine.outbox.lead(false, 0);
  }

  /** What is to be posted, in order. */
  take() {
    const posts = this.#posts;
    this.#posts = [];
    return posts;
  }

  /** @param {Omit<Post, "from">} content */
  #post(content) {
    const { leads, epoch } = this;
    this.#posts.push({ ...content, from: this.id, ...(leads ? { epoch } : { heard: epoch }) });
  }

  #relay() {
    for (const relayed of this.relay.take()) this.#post({ to: relayed.to, relayed });
  }

  // --- who leads ----------------------------------------------------------------------------------------------------

  /**
   * Lead from now on. The writes are sent once `restore` has brought those that are in the store.
   *
   * @param {number} epoch
   * @param {number} now
   */
  lead(epoch, now) {
    Object.assign(this, { leads: true, epoch, shared: null });
    this.engine.core.hasToken = this.hasToken;
    this.askable = false;
    this.#post({});
    this.engine.core.reconnect(now);
  }

  /** Follow from now on. @param {number} now */
  follow(now) {
    this.leads = false;
    this.engine.core.hasToken = false;
    this.relay.clear();
    this.release(now);
    this.engine.outbox.lead(false, now);
    this.engine.core.reconnect(now);
    this.greet();
  }

  /** Have the leader tell its status, and what has become of the writes. */
  greet() {
    if (this.leads) return;
    const ended = [...this.#outcomes].filter(([, { problem }]) => problem); // what was accepted may be sent again
    this.#post({ greeting: true, keys: this.engine.outbox.keys, ended, hasToken: this.hasToken });
  }

  /** @param {Post} post @param {number} now */
  receive(post, now) {
    if (post.epoch !== undefined && !this.#hear(post.epoch, now)) return;
    // A follower that knows of a later leader, which is gone, would not hear this one.
    if (this.leads && post.heard !== undefined && post.heard > this.epoch) return this.host.overtaken(post.heard);
    if (post.to !== undefined && post.to !== this.id) return;
    if (post.epoch === undefined) {
      if (this.leads) this.#asked(post, now);
    } else if (!this.leads) {
      this.#told(post, now);
    }
    this.#relay();
  }

  /** @param {number} epoch @param {number} now */
  #hear(epoch, now) {
    if (epoch <= this.epoch) return epoch === this.epoch;
    this.epoch = epoch;
    this.shared = null;
    if (this.leads) {
      this.host.overtaken(epoch);
    } else {
      this.engine.core.reconnect(now);
      this.greet();
    }
    return true;
  }

  // --- the leader ---------------------------------------------------------------------------------------------------

  /** A follower asks for something. @param {Post} post @param {number} now */
  #asked({ from, up, link, infos, greeting, keys, ended, hasToken, write, isNew, maker, command }, now) {
    if (up) this.#up(from, up, link, infos);
    for (const [key, outcome] of ended ?? []) if (!this.#outcomes.has(key)) this.#learn(key, outcome, now);
    if (greeting) {
      if (hasToken) this.askable = true;
      if (hasToken && !this.engine.core.hasToken) {
        this.engine.core.hasToken = true;
        this.host.start(); // it may have failed for lack of one
      }
      this.#post({ to: from, status: this.host.status() });
      this.#reconcile(from, new Map(keys));
    }
    if (write) this.#adopt(write, isNew, maker ?? from, now);
    if (command === "start") this.host.start();
    if (command === "hurry") this.host.hurry();
  }

  /**
   * A message of a follower's core, which takes this tab for the server.
   *
   * @param {string} tab
   * @param {any} message
   * @param {number} link
   * @param {Record<string, ShapeInfo>} infos
   */
  #up(tab, message, link, infos) {
    const { type, shape, position = null } = message;
    const subscribe = (/** @type {string} */ name, /** @type {string | null} */ stands) => {
      this.relay.subscribe(tab, name, stands);
      if (!this.engine.core.shapes.includes(name)) this.host.hold(name, infos[name] ?? {});
    };
    if (type === "hello") {
      this.relay.join(tab, link);
      for (const name of message.shapes) subscribe(name, message.vector[name] ?? null);
    }
    if (type === "subscribe") subscribe(shape, position);
    if (type === "unsubscribe") this.relay.unsubscribe(tab, shape);
    if (type === "bye") this.relay.leave(tab);
    if (type === "unsubscribe" || type === "bye") this.host.released();
    if (type === "ping") this.host.ping();
  }

  /** Follow no more what only others have wanted, and want no more. @param {number} now */
  release(now) {
    for (const shape of this.engine.hidden) if (!this.relay.has(shape)) this.unfollow(shape, now);
  }

  /** This tab's application does not follow a shape any more. @param {string} shape @param {number} now */
  unfollow(shape, now) {
    if (this.relay.has(shape)) return this.engine.hide(shape);
    this.engine.unfollow(shape, now);
    this.unstored.end(shape);
  }

  /**
   * Follow a shape, for the application or, without `shown`, for other tabs.
   *
   * @param {string} shape
   * @param {ShapeInfo} info
   * @param {import("./store.js").SavedShape | null} saved
   * @param {number} now
   * @param {boolean} shown
   */
  begin(shape, info, saved, now, shown) {
    // Refused by the server before, and not released yet.
    if (!shown && !this.engine.core.shapes.includes(shape)) this.engine.unfollow(shape, now);
    if (!this.engine.info(shape)) this.unstored.begin(shape, saved?.position ?? null);
    this.engine.follow(shape, info, saved, now, shown);
    this.settle();
  }

  /** A tab has gone. @param {string} tab */
  gone(tab) {
    this.relay.leave(tab);
    this.host.released();
  }

  /**
   * Bring the writes here and those of a follower together.
   *
   * @param {string} tab
   * @param {Map<string, boolean>} keys - Its stored writes, and whether each is answered there.
   */
  #reconcile(tab, keys) {
    const { outbox } = this.engine;
    const wanted = [];
    for (const [key, isAnswered] of keys) {
      if (isAnswered) continue;
      const answer = outbox.queue.get(key)?.answer;
      const outcome = answer ? { answer } : this.#outcomes.get(key);
      if (outcome) this.#post({ to: tab, key, outcome });
      else if (!outbox.queue.get(key)) wanted.push(key);
    }
    if (wanted.length) this.#post({ to: tab, wanted });
    for (const [key, isAnswered] of outbox.keys) {
      if (keys.has(key)) continue;
      const entry = outbox.queue.get(key);
      this.#post({ to: tab, queued: entry?.write, isNew: false, maker: this.#makers.get(key) });
      if (isAnswered) this.#post({ to: tab, key, outcome: { answer: entry?.answer } });
    }
  }

  /** A tab has led until a write had ended. @param {string} key @param {Outcome} outcome @param {number} now */
  #learn(key, outcome, now) {
    this.ended(key, outcome);
    this.host.dequeue(key);
    this.engine.outbox.settledElsewhere(key, outcome, now);
  }

  /** @param {QueuedWrite} write @param {boolean} isNew @param {string} maker @param {number} now */
  #adopt(write, isNew, maker, now) {
    const { outbox } = this.engine;
    const outcome = this.#outcomes.get(write.key);
    if (outcome) return this.#post({ to: maker, key: write.key, outcome });
    if (outbox.queue.get(write.key)) return;
    this.#makers.set(write.key, maker);
    this.#post({ queued: write, isNew, maker });
    outbox.adopt(write, isNew, now);
  }

  /** Writes that were found in the store. @param {QueuedWrite[]} writes @param {number} now */
  restore(writes, now) {
    const { outbox } = this.engine;
    const unknown = writes.filter(({ key }) => !outbox.queue.get(key));
    const others = unknown.filter(({ key }) => !this.#outcomes.has(key));
    // The tab that had led before has not come to remove them.
    if (this.leads) for (const { key } of unknown) if (this.#outcomes.has(key)) this.host.dequeue(key);
    if (this.leads) for (const queued of others) this.#post({ queued, isNew: false });
    outbox.restore(others, now);
    if (this.leads) outbox.lead(true, now);
  }

  /** The leader's connection gets a message. @param {any} message */
  pass(message) {
    if (!this.leads) return;
    this.relay.pass(message);
    this.#relay();
  }

  /** The core has had a message, or holds another shape. */
  settle() {
    if (!this.leads) return;
    this.relay.settle();
    this.#relay();
  }

  /** The connection of this tab has ended: that of each follower begins again, too. */
  cut() {
    if (!this.leads) return;
    this.relay.cut();
    if (this.relay.tabs.length) this.#post({ cut: true });
  }

  /** The status has changed. */
  statusChanged() {
    if (this.leads) this.#post({ status: this.host.status() });
  }

  /** The store has a shape as of a position. @param {string} shape @param {string} position */
  durable(shape, position) {
    this.unstored.durable(shape, position);
    if (this.leads) this.#post({ durable: [shape, position] });
  }

  // --- a follower ---------------------------------------------------------------------------------------------------

  /** The leader says something. @param {Post} post @param {number} now */
  #told({ relayed, cut, status, queued, isNew, maker, key, outcome, wanted, durable }, now) {
    const { core, outbox } = this.engine;
    if (cut) core.reconnect(now);
    if (relayed) {
      const message = this.#link?.attachment.take(relayed);
      if (message) this.#link?.reports.message(message);
    }
    if (status) {
      this.shared = status;
      this.host.changed();
    }
    if (durable) this.unstored.durable(durable[0], durable[1]);
    if (queued && !outbox.queue.get(queued.key) && !this.#outcomes.has(queued.key)) {
      if (maker !== undefined) this.#makers.set(queued.key, maker);
      outbox.adopt(queued, isNew, now);
    }
    if (outcome) {
      this.#remember(key, outcome);
      outbox.settledElsewhere(key, outcome, now);
    }
    for (const name of wanted ?? []) {
      const write = outbox.queue.get(name)?.write;
      const known = this.#outcomes.get(name);
      // What has ended is not to be sent again: the leader may have its event, and would show the write over that.
      if (known) this.#post({ ended: [[name, known]] });
      else if (write) this.#post({ write, isNew: false, maker: this.#makers.get(name) });
    }
  }

  /**
   * A connection of the core to the leader; null if this tab leads.
   *
   * @param {import("./transports.js").Reports} reports
   * @returns {import("./transports.js").Link | null}
   */
  open(reports) {
    if (this.leads) return null;
    const link = (this.#links += 1);
    const current = { attachment: new Attachment(this.engine.core, link), reports };
    this.#link = current;
    this.host.defer(() => this.#link === current && reports.opened());
    return {
      send: (up) => this.#send(up, link),
      close: () => {
        if (this.#link === current) this.#link = null;
        if (!this.leads) this.#post({ up: { type: "bye" }, link });
      },
    };
  }

  /** @param {any} up @param {number} link */
  #send(up, link) {
    const shapes = up.type === "hello" ? up.shapes : up.type === "subscribe" ? [up.shape] : [];
    const info = (/** @type {string} */ shape) => {
      const { collection, id } = this.engine.info(shape) ?? {};
      return [shape, { collection, id }];
    };
    const { token: _, ...message } = up;
    this.#post({ up: message, link, infos: Object.fromEntries(shapes.map(info)) });
  }

  /** Have the leader do something. @param {"start" | "hurry"} command */
  command(command) {
    if (!this.leads) this.#post({ command });
  }

  // --- writes -------------------------------------------------------------------------------------------------------

  /** A write of this tab is stored. @param {QueuedWrite} write */
  wrote(write) {
    this.#makers.set(write.key, this.id);
    if (this.leads) this.#post({ queued: write, isNew: true, maker: this.id });
    else this.#post({ write, isNew: true });
  }

  /** A write has ended here. @param {string} key @param {Outcome} outcome */
  ended(key, outcome) {
    this.#remember(key, outcome);
    if (this.leads) this.#post({ key, outcome });
  }

  /**
   * Return true if a rejection is for this tab's application, because the tab that has made the write is gone.
   *
   * @param {string} key
   */
  inherits(key) {
    const maker = this.#makers.get(key);
    return this.leads && maker !== this.id && !(maker !== undefined && this.relay.tabs.includes(maker));
  }

  /** @param {string} key @param {Outcome} outcome */
  #remember(key, outcome) {
    this.#outcomes.set(key, outcome);
    if (this.#outcomes.size <= REMEMBERED) return;
    for (const oldest of this.#outcomes.keys()) {
      this.#makers.delete(oldest);
      return void this.#outcomes.delete(oldest);
    }
  }
}
