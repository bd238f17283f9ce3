// Runs a core: opens the transports that it wants, asks for tokens, keeps its clock. All else goes to `handle`.

import { TRANSPORTS } from "./transports.js";

/** @typedef {import("./transports.js").TransportName} TransportName */
/** @typedef {import("./transports.js").Link} Link */

/**
 * A core, or an engine around one.
 *
 * @typedef {{ due: number, take(now: number): any[], tick(now: number): void }} Machine
 */

/**
 * What stands between a core and the network: `open` makes a connection by another way, if there is one, `message` gets
 * each message before the core has it, `cut` is called when a connection ends, and `ran` after each input.
 *
 * @typedef {object} Tap
 * @property {(reports: import("./transports.js").Reports) => Link | null} open
 * @property {(message: any) => void} message
 * @property {() => void} cut
 * @property {() => void} ran
 */

const WITH_WEBSOCKET = /** @type {const} */ (["websocket", "websocket", "sse", "websocket", "poll"]);
const WITHOUT = /** @type {const} */ (["sse", "sse", "poll"]);
const PREFERRED = 600_000; // ms, from its first connection, that a transport is tried before a WebSocket is
const UNFIT = [4414, 4426, 4431]; // another transport has a shorter address and shorter headers
const LONGEST_TIMER = 2 ** 31 - 1;

/** The clock of the cores, in milliseconds. */
export const clock = () => performance.now();

export class Connection {
  /** @type {Link | null} Messages of older ones are ignored. */
  #link = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #running = false; // true while outputs are handled
  /** Of the names: only a client that had a WebSocket tries one twice. */
  #next = 1;
  /** @type {{ name: TransportName, until: number } | null} The last good transport, if it was no WebSocket. */
  #good = null;
  /** @type {TransportName} */
  transport = "websocket";
  /** @type {Tap | null} */
  tap = null;

  /**
   * @param {object} options
   * @param {string} options.url
   * @param {import("./core.js").Core} options.core
   * @param {Machine} [options.machine] - What is around the core.
   * @param {import("./requests.js").Tokens} options.tokens
   * @param {TransportName | "auto"} options.transport
   * @param {typeof globalThis.WebSocket} [options.WebSocket]
   * @param {typeof globalThis.fetch} options.fetch
   * @param {(output: any) => void} options.handle
   */
  constructor({ url, core, machine = core, tokens, transport, WebSocket, fetch, handle }) {
    this.url = url;
    this.core = core;
    this.machine = machine;
    this.tokens = tokens;
    this.wanted = transport;
    this.WebSocket = WebSocket;
    this.fetch = fetch;
    this.handle = handle;
  }

  /**
   * Give an input to the core, and do what it wants then.
   *
   * @param {(core: import("./core.js").Core, now: number) => void} input
   */
  do(input) {
    input(this.core, clock());
    this.run();
  }

  /** Do what the machine wants. */
  run() {
    if (this.#running) return; // the loop below takes what was added meanwhile
    this.#running = true;
    try {
      for (let outputs = this.machine.take(clock()); outputs.length; outputs = this.machine.take(clock())) {
        for (const output of outputs) this.#take(output);
      }
    } finally {
      this.#running = false;
    }
    this.tap?.ran();
    this.#plan();
  }

  #plan() {
    clearTimeout(this.#timer);
    const { due } = this.machine;
    if (due === Infinity) return;
    const delay = Math.min(LONGEST_TIMER, Math.max(0, due - clock()));
    this.#timer = setTimeout(() => {
      this.machine.tick(clock());
      this.run();
    }, delay);
  }

  /** @param {any} output */
  #take(output) {
    switch (output.type) {
      case "connect":
        return this.#connect();
      case "disconnect":
        return this.#disconnect();
      case "send":
        return this.#link?.send?.(output.message);
      case "ask":
        return this.#ask(output.why);
      case "status":
        if (this.core.status === "live") this.#choseWell();
    }
    this.handle(output);
  }

  /** @param {import("./lifecycle.js").TokenReason} why */
  #ask(why) {
    this.tokens.fresh(why).then(
      (token) => this.do((core, now) => core.tokenAnswered(token, now)),
      (error) => this.do((core, now) => core.tokenFailed(String(error?.message ?? error), now)),
    );
  }

  /** A proxy without WebSockets lets an event stream through, and any proxy lets single requests through. */
  #choose() {
    if (this.wanted !== "auto") return this.wanted;
    if (this.#good && this.#next === 1 && clock() < this.#good.until) {
      this.#next = 3;
      return this.#good.name;
    }
    const names = this.WebSocket ? WITH_WEBSOCKET : WITHOUT;
    return names[this.#next++ % names.length];
  }

  #choseWell() {
    const { transport: name } = this;
    this.#next = name === "websocket" ? 0 : 1;
    if (!this.#next) this.#good = null;
    else if (this.#good?.name !== name || clock() >= this.#good.until) this.#good = { name, until: clock() + PREFERRED };
  }

  #connect() {
    this.#disconnect();
    const { url, core, WebSocket, fetch } = this;
    const { shapes, vector, token, clientId } = core;
    const asked = { url, shapes, vector, token, clientId, WebSocket, fetch };
    const current = (/** @type {(core: import("./core.js").Core, now: number) => void} */ input) => {
      if (link === this.#link) this.do(input);
    };
    /** @type {Link | null} */
    let link = null;
    try {
      /** @type {import("./transports.js").Reports} */
      const reports = {
        opened: (options) => current((its, now) => its.opened(now, options)),
        message: (message) => {
          if (link === this.#link) this.tap?.message(message);
          current((its, now) => its.receive(message, now));
        },
        closed: ({ code = 0, ...rest }) => {
          const isUnfit = this.wanted === "auto" && UNFIT.includes(code);
          current((its, now) => its.closed({ code: isUnfit ? 0 : code, ...rest }, now));
        },
      };
      link = this.tap?.open(reports) ?? TRANSPORTS[(this.transport = this.#choose())](asked, reports);
      this.#link = link;
    } catch (error) {
      // A URL that is none, or no WebSocket here: trying again does not help, but another transport may.
      const reason = error instanceof Error ? error.message : String(error);
      core.closed({ reason }, clock());
    }
  }

  #disconnect() {
    const link = this.#link;
    this.#link = null;
    link?.close();
    if (link) this.tap?.cut();
  }

  /** Send a message that is not the core's; nothing happens if it cannot be sent. @param {any} message */
  send(message) {
    if (this.core.status !== "connecting") this.#link?.send?.(message);
  }
}
