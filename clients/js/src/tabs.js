// Runs a tab: the Web Lock that says who leads, the channel to the other tabs, and the check that the leader is awake.
//
// The browser gives the lock to the next tab once its holder has gone. A page that is about to be frozen gives it away.
// From one that is busy, or was stopped without a word, a tab takes it that has asked several times and heard nothing,
// and the store refuses the writes of the one that wakes up.

import { randomHex } from "./ids.js";
import { Tab } from "./tab.js";

/** @typedef {import("./client.js").Client<any>} Client */
/** @typedef {import("./lifecycle.js").TokenReason} TokenReason */
/** @typedef {import("./store.js").SharedStore} SharedStore */

/**
 * What tabs need of the browser. Insecure pages and Node.js lack it.
 *
 * @typedef {{ locks: Pick<LockManager, "request">, BroadcastChannel: typeof BroadcastChannel }} Browser
 */

const CHECK = 1000; // ms between two questions to the leader
const MISSED = 3; // questions without an answer, after which it is taken to be frozen
const ANSWER = 2000; // ms for an answer of another tab

/**
 * Have a client share its connection with the other tabs that share its store.
 *
 * @param {Client} client
 * @param {SharedStore} store
 * @param {Browser} [browser]
 */
export function share(client, store, browser) {
  const { navigator, BroadcastChannel, isSecureContext } = globalThis;
  const { locks } = navigator ?? {};
  const found = browser ?? (isSecureContext && locks && BroadcastChannel ? { locks, BroadcastChannel } : null);
  return found && new Tabs(client, store, found);
}

export class Tabs {
  id = randomHex(8);
  /** @type {AbortController | null} The present request for the lead, until it is lost. */
  #campaign = null;
  /** @type {(() => void) | null} Gives the lead away. */
  #resign = null;
  #ended = new AbortController();
  /** @type {Map<string, AbortController>} The tabs that this one, as the leader, has heard of. */
  #watched = new Map();
  #isFrozen = false;
  /** What lasts while the page is not in the back/forward cache: the lock that says so. */
  #stay = new AbortController();
  #missed = 0;
  #refused = 0; // the greatest epoch that the store has named
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #check;
  #calls = 0;
  /** @type {Map<number, (answer: any) => void>} Questions to other tabs. */
  #asking = new Map();

  /** @param {Client} client @param {SharedStore} store @param {Browser} browser */
  constructor(client, store, { locks, BroadcastChannel }) {
    this.client = client;
    this.store = store;
    this.name = `eventsync ${store.group}`;
    this.locks = locks;
    this.BroadcastChannel = BroadcastChannel;
    this.tab = new Tab(this.id, client.engine, {
      hold: (shape, info) => void this.#hold(shape, info).catch((error) => client.report(error)),
      status: () => client.status,
      changed: () => client.statusChanged(),
      overtaken: (epoch) => this.fenced(epoch),
      released: () => setTimeout(() => client.do((_, now) => this.tab.release(now)), client.options.linger),
      start: () => client.resume(),
      hurry: () => client.hurry(),
      dequeue: (key) => client.persister.then((open) => open.dequeue(key)),
      defer: (action) => queueMicrotask(() => client.do(action)),
      ping: () => client.connection.send({ type: "ping" }),
    });
    client.persister.follow();
    client.http.tokens.ask = (why) => this.#token(why);
    this.channel = this.#join();
    // A frozen page still gets messages, so it would seem to be awake, but neither answers of the server nor timers.
    const { document } = globalThis;
    document?.addEventListener("freeze", () => this.#freeze(true), this.#ended);
    document?.addEventListener("resume", () => this.#freeze(false), this.#ended);
  }

  #join() {
    const { signal } = (this.#stay = new AbortController());
    // Held while this tab is here: the leader learns by it that a tab has gone.
    const stay = new Promise((resolve) => signal.addEventListener("abort", resolve));
    this.locks.request(`${this.name} ${this.id}`, { signal }, () => stay).catch(() => {});
    const channel = new this.BroadcastChannel(this.name);
    channel.onmessage = ({ data }) => this.#receive(data);
    return channel;
  }

  /** Let go of all that other tabs may wait for, so that the browser keeps the page in its back/forward cache. */
  hide() {
    this.stop();
    this.post();
    this.#stay.abort();
    this.channel.close();
  }

  /** Take part again after `hide`, as a tab that has heard nothing. */
  show() {
    if (this.#ended.signal.aborted) return;
    this.channel = this.#join();
    this.client.do((_, now) => this.tab.follow(now));
  }

  /** @param {boolean} isFrozen */
  #freeze(isFrozen) {
    this.#isFrozen = isFrozen;
    if (isFrozen) this.stop();
    else this.client.resume();
  }

  /** Take part: lead as soon as no other tab does. */
  start() {
    if (this.#stay.signal.aborted || this.#campaign || this.#isFrozen) return;
    this.#request(false);
    this.#plan();
  }

  /**
   * Let another tab lead, once what was received is stored.
   *
   * @param {() => boolean} isWanted - False if not any more.
   */
  async pause(isWanted) {
    const late = new Promise((resolve) => setTimeout(resolve, CHECK));
    if (this.tab.leads) await Promise.race([this.client.persister.settled(), late]);
    if (isWanted()) this.stop();
  }

  /** Lead no more, and do not wait to. */
  stop() {
    clearTimeout(this.#check);
    this.#lose();
  }

  /** Leave the other tabs. */
  end() {
    this.hide();
    this.#ended.abort();
  }

  /** Post what the tab has to say. */
  post() {
    for (const post of this.tab.take()) this.#send(post);
  }

  /** The status of all tabs. @param {import("./client.js").Connected} own - That of the connection here. */
  status(own) {
    const { shared } = this.tab;
    if (!shared || this.tab.leads || own.name === "failed") return own;
    const isBehind = shared.name === "live" && own.name !== "live" && this.client.engine.core.shapes.length > 0;
    return isBehind ? { ...shared, name: /** @type {const} */ ("syncing") } : shared;
  }

  /** The store has refused this tab: another one leads. @param {number} epoch */
  fenced(epoch) {
    this.#refused = Math.max(this.#refused, epoch);
    this.#lose();
    this.start();
  }

  // --- between the core and the network, a `Tap` -------------------------------------------------------------------

  /** @param {import("./transports.js").Reports} reports */
  open(reports) {
    return this.tab.open(reports);
  }

  /** @param {any} message */
  message(message) {
    this.tab.pass(message);
    this.post();
  }

  cut() {
    this.tab.cut();
  }

  ran() {
    this.tab.settle();
    this.post();
  }

  // --- the lead -----------------------------------------------------------------------------------------------------

  /** @param {boolean} steal */
  async #request(steal) {
    this.#campaign?.abort();
    const campaign = (this.#campaign = new AbortController());
    const granted = async () => {
      if (this.#campaign !== campaign) return;
      const resigned = new Promise((resolve) => (this.#resign = () => resolve(undefined)));
      this.#lead();
      await resigned;
    };
    try {
      await this.locks.request(this.name, steal ? { steal } : { signal: campaign.signal }, granted);
    } catch (error) {
      if (this.#campaign !== campaign) return;
      // Another tab has taken the lock away; or this page may not use locks, as a frame without an origin.
      if (/** @type {any} */ (error).name !== "AbortError") return this.#lead();
      this.fenced(0);
    }
  }

  #lead() {
    clearTimeout(this.#check);
    for (const done of this.#asking.values()) done(undefined); // it was this leader's predecessor that was asked
    const { client, store, tab } = this;
    const epoch = 1 + Math.max(Date.now(), tab.epoch, this.#refused) + Math.random(); // no two tabs have the same
    const { stands, steps } = tab.unstored;
    client.persister.lead(() => store.lead(epoch, stands));
    for (const [shape, step] of steps) client.persister.apply(shape, step);
    client.do((_, now) => tab.lead(epoch, now));
    client.resume();
    // The writes that were stored when no tab led.
    store.queue().catch((error) => (client.report(error), [])).then((writes) => {
      client.do((_, now) => tab.leads && tab.epoch === epoch && tab.restore(writes, now));
    });
  }

  #lose() {
    const [campaign, resign] = [this.#campaign, this.#resign];
    this.#campaign = this.#resign = null;
    campaign?.abort();
    for (const watching of this.#watched.values()) watching.abort();
    this.#watched.clear();
    if (this.tab.leads) {
      this.client.persister.follow();
      this.client.do((_, now) => this.tab.follow(now));
    }
    resign?.();
  }

  /** Ask whether the leader is awake. Questions are counted and not the time: this page may have been frozen, too. */
  #plan() {
    clearTimeout(this.#check);
    this.#check = setTimeout(() => {
      if (this.#missed >= MISSED) {
        this.#missed = 0;
        this.#request(true);
      } else {
        this.#missed += 1;
        this.#send({ from: this.id, ping: true });
      }
      this.#plan();
    }, CHECK * (1 + Math.random() / 4)); // so that no two tabs take the lock at the same time
  }

  // --- the channel --------------------------------------------------------------------------------------------------

  /** @param {any} post */
  #send(post) {
    if (!this.#stay.signal.aborted) this.channel.postMessage(post);
  }

  /** @param {any} post */
  #receive(post) {
    const { from, to, epoch, ping, question, call } = post;
    if (epoch >= this.tab.epoch) this.#missed = 0;
    else if (this.tab.leads) this.#watch(from);
    if (question) return void this.#answer(post);
    if (call !== undefined) return to === this.id && this.#asking.get(call)?.(post.answer);
    if (ping && this.tab.leads) this.#send({ from: this.id, epoch: this.tab.epoch });
    // The timers of a page in the background are slow: what is due is done when another tab asks.
    this.client.do((engine, now) => (ping ? this.tab.leads && engine.tick(now) : this.tab.receive(post, now)));
  }

  /** @param {string} tab */
  #watch(tab) {
    if (this.#watched.has(tab)) return;
    const watching = new AbortController();
    this.#watched.set(tab, watching);
    const gone = () => {
      this.#watched.delete(tab);
      this.client.do(() => this.tab.gone(tab));
    };
    this.locks.request(`${this.name} ${tab}`, { signal: watching.signal }, gone).catch(() => {});
  }

  /** @param {string} shape @param {import("./engine.js").ShapeInfo} info */
  async #hold(shape, info) {
    const saved = await this.store.load(shape);
    if (!this.tab.leads || !this.tab.relay.has(shape)) return;
    this.client.do((_, now) => this.tab.begin(shape, info, saved, now, false));
    this.client.resume();
  }

  // --- questions ----------------------------------------------------------------------------------------------------

  /** Resolves once everything that was received so far is stored. */
  async flush() {
    if (!this.tab.leads) await this.#ask("flush");
    else await this.client.persister.settled();
  }

  /** The token of the leader's application, or of another tab's if that one has none. @param {TokenReason} why */
  async #token(why) {
    const ask = this.client.options.token;
    if (!this.tab.leads) {
      const token = await this.#ask("token", why);
      return token === undefined ? ((await ask?.(why)) ?? null) : token;
    }
    const [own] = await Promise.allSettled([ask?.(why)]);
    if (own.status === "fulfilled" && typeof own.value === "string") return own.value;
    const token = this.tab.askable ? await this.#ask("token", why) : undefined;
    if (token === undefined && own.status === "rejected") throw own.reason;
    return token ?? null;
  }

  /**
   * Ask the leader, or as the leader all others. Resolves with the first answer, or with `undefined`.
   *
   * @param {string} question
   * @param {any} [value]
   * @returns {Promise<any>}
   */
  #ask(question, value) {
    const call = (this.#calls += 1);
    const { leads, epoch } = this.tab;
    return new Promise((resolve) => {
      const done = (/** @type {any} */ answer) => {
        clearTimeout(timer);
        this.#asking.delete(call);
        resolve(answer);
      };
      const timer = setTimeout(done, ANSWER);
      this.#asking.set(call, done);
      this.#send({ from: this.id, ...(leads && { epoch }), question, value, call });
    });
  }

  /** @param {any} post */
  async #answer({ from, epoch, question, value, call }) {
    const { leads } = this.tab;
    if ((epoch === undefined) !== leads) return; // it is the leader's to answer, or the others'
    const answer = await this.#known(question, value).catch(() => undefined);
    if (answer !== undefined) this.#send({ from: this.id, to: from, call, answer });
  }

  /** @param {string} question @param {any} value @returns {Promise<any>} */
  async #known(question, value) {
    const { options, http, persister } = this.client;
    if (question === "flush") return (await persister.settled(), true);
    if (!this.tab.leads) return (await options.token?.(value)) ?? undefined;
    return value === "connect" ? http.tokens.present() : http.tokens.fresh(value);
  }
}
