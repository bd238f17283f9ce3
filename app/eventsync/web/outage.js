// Cuts the connection, and proves afterwards that nothing was missed: the events of the outage are counted twice.
//
// The events that the client replayed are compared with those that the log has between the two positions, read over
// plain HTTP: a third transport, which knows nothing of this client.

import { $, h } from "./dom.js";
import { get } from "./http.js";
import { parsePosition } from "./positions.js";

const AUTOMATIC = 3; // s

export class Outage {
  #before = null; // the position when the connection was cut; null without an outage
  #began = 0;
  #resumed = 0;
  #timer = null;
  #replayed = [];
  #refetched = 0;
  #panel = $("outage");

  /** `shape()` is the shape on the screen. */
  constructor(client, shape) {
    this.client = client;
    this.shape = shape;
    $("kill").addEventListener("click", () => (this.#before ? this.resume() : this.kill()));
    $("hold").addEventListener("change", () => this.#before && !this.#resumed && this.#count(AUTOMATIC));
    client.addEventListener("change", ({ detail }) => this.#take(detail));
    client.addEventListener("status", ({ detail }) => this.#status(detail.status));
  }

  kill() {
    const position = this.client.vector[this.shape()];
    if (!position) return;
    this.#before = position;
    this.#began = performance.now();
    this.#resumed = 0;
    this.#replayed = [];
    this.#refetched = 0;
    this.client.stop();
    $("kill").className = "primary";
    this.#count(AUTOMATIC);
  }

  resume() {
    clearTimeout(this.#timer);
    this.#resumed = performance.now();
    this.client.start();
  }

  /** Forget the outage on the screen, after another collection or transport was chosen. */
  forget() {
    clearTimeout(this.#timer);
    this.#before = null;
    this.#panel.hidden = true;
    this.#button();
  }

  #button() {
    $("kill").className = "danger";
    $("kill").textContent = "Kill the connection";
  }

  #count(seconds) {
    clearTimeout(this.#timer);
    const held = $("hold").checked;
    $("kill").textContent = held ? "Resume now" : `Resume now (${seconds} s)`;
    this.#show("", [
      h("h3", {}, "The connection is cut"),
      h("p", {}, `This page stands still at ${this.#before}. Write meanwhile: here, in a second window, or with mongosh.`),
    ]);
    if (held) return;
    this.#timer = setTimeout(() => (seconds > 1 ? this.#count(seconds - 1) : this.resume()), 1000);
  }

  #take({ kind, shape, changes }) {
    if (!this.#resumed || shape !== this.shape()) return;
    if (kind === "events") this.#replayed.push(...changes.map(({ event }) => event.seq));
    if (kind === "snapshot" || kind === "squashed") this.#refetched += changes.length;
  }

  async #status(status) {
    if (status !== "live" || !this.#resumed) return;
    const facts = {
      shape: this.shape(),
      before: this.#before,
      after: this.client.vector[this.shape()],
      replayed: new Set(this.#replayed),
      refetched: this.#refetched,
      took: performance.now() - this.#resumed,
      down: this.#resumed - this.#began,
    };
    this.#before = null;
    this.#resumed = 0;
    this.#button();
    try {
      this.#report(facts, await eventsBetween(facts.shape, facts.before, facts.after));
    } catch (error) {
      this.#show("bad", [h("h3", {}, "Resumed, and not checked"), h("p", {}, error.message)]);
    }
  }

  #report({ before, after, replayed, refetched, took, down }, missed) {
    const lost = missed.filter((seq) => !replayed.has(seq)).length;
    const whole = lost === 0 && refetched === 0;
    const tally = { missed: missed.length, replayed: replayed.size, lost, refetched };
    this.#show(whole ? "over" : "bad", [
      h("h3", {}, whole ? "Resumed: 0 lost, 0 refetched" : "Resumed"),
      h("ul", { class: "tally" }, ...Object.entries(tally).map(([name, count]) => h("li", {}, h("b", {}, String(count)), name))),
      h("dl", {}, h("dt", {}, "before"), h("dd", {}, before), h("dt", {}, "after"), h("dd", {}, after)),
      h("p", {}, `Down for ${(down / 1000).toFixed(1)} s; caught up ${Math.round(took)} ms after resuming. Checked against the log over HTTP.`),
    ]);
  }

  #show(kind, children) {
    this.#panel.className = `outage ${kind}`;
    this.#panel.replaceChildren(...children);
    this.#panel.hidden = false;
  }
}

/** The seqs of a shape's events with `before < seq <= after`, as the log has them. */
export async function eventsBetween(shape, before, after) {
  const end = parsePosition(after).seq;
  const found = [];
  let position = before;
  while (parsePosition(position).seq < end) {
    const query = new URLSearchParams({ shape, position });
    const page = await get(`/v1/sync/log?${query}`);
    found.push(...page.events.map((event) => event.seq).filter((seq) => seq <= end));
    if (page.live) break;
    position = page.to;
  }
  return found;
}
