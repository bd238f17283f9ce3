// Shows the events as they arrive: newest first, bounded, drawn once a frame.

import { $, h, onFrame } from "./dom.js";
import { brief } from "./values.js";

const LINES = 100;
const FIELDS = 3; // shown of one event
const WINDOW = 5000; // ms over which the rate is taken

export class Feed {
  #list = $("feed");
  #waiting = []; // entries to be drawn
  #arrivals = []; // times of the latest events, for the rate
  #latencies = []; // ms, of the latest live events
  #draw = onFrame(() => this.#flush());

  constructor() {
    setInterval(() => this.#rate(), 1000);
  }

  clear() {
    this.#list.replaceChildren();
    this.#waiting = [];
    this.#arrivals = [];
    this.#latencies = [];
    this.#rate();
    this.#flush();
  }

  /** `changes`: those of a Replica, each with `differences`. `mine(opId)` returns whether this page wrote it. */
  add(changes, { replayed, mine }) {
    const now = Date.now();
    for (const change of changes) {
      const latency = Math.max(0, now - Date.parse(change.event.at));
      this.#waiting.push({ ...change, replayed, mine: mine(change.event.op_id), latency });
      this.#arrivals.push(now);
      if (!replayed) this.#latencies.push(latency);
    }
    this.#waiting.splice(0, this.#waiting.length - LINES);
    this.#latencies.splice(0, this.#latencies.length - LINES);
    this.#draw();
  }

  #flush() {
    this.#list.prepend(...this.#waiting.reverse().map(line));
    this.#waiting = [];
    while (this.#list.childElementCount > LINES) this.#list.lastElementChild.remove();
    $("feed-empty").hidden = this.#list.childElementCount > 0;
  }

  #rate() {
    const since = Date.now() - WINDOW;
    this.#arrivals = this.#arrivals.filter((at) => at > since);
    const rate = (this.#arrivals.length * 1000) / WINDOW;
    const middle = [...this.#latencies].sort((a, b) => a - b)[Math.floor(this.#latencies.length / 2)];
    const median = middle === undefined ? "" : `median ${middle} ms after the commit`;
    $("rate").textContent = rate ? `${rate.toFixed(rate < 10 ? 1 : 0)}/s, ${median || "replayed"}` : median;
  }
}

function line({ event, differences, replayed, mine, latency }) {
  const when = replayed ? "replayed" : `${latency} ms`;
  const title = `Committed ${event.at}${event.by ? ` by ${event.by}` : ""}; version ${event.base} became ${event.version}`;
  return h(
    "li",
    { class: "new", title },
    h(
      "div",
      { class: "line" },
      h("span", { class: "seq" }, String(event.seq)),
      h("span", { class: `tag ${word(event)}`, title: MEANS[word(event)] }, word(event)),
      h("span", { class: "id" }, event.id),
      mine ? h("span", { class: "tag" }, "yours") : null,
      event.external ? h("span", { class: "tag", title: "Not written through the API" }, "external") : null,
      event.txn ? h("span", { class: "tag", title: "Part of a MongoDB transaction" }, `${event.txn.n}/${event.txn.of}`) : null,
      h("span", { class: "when" }, when),
    ),
    ...what(event, differences),
  );
}

/** What an event does to the shape on the screen: its `op`, or `enter` or `leave`. */
function word(event) {
  return event.enter ? "enter" : event.leave ? "leave" : event.op;
}

const MEANS = {
  enter: "The document was there before; this change brought it into the shape",
  leave: "The document is still there; this change took it out of the shape",
};

function what(event, differences) {
  if (event.op === "delete") return [];
  const shown = differences.slice(0, FIELDS).map(field);
  const rest = differences.length - shown.length;
  return rest > 0 ? [...shown, h("div", { class: "what muted" }, `and ${rest} more`)] : shown;
}

function field({ tokens, before, after }) {
  const name = h("span", { class: "field" }, `${tokens.join(".")} `);
  const was = before === undefined ? null : h("del", {}, brief(before, 40));
  const is = after === undefined ? null : h("ins", {}, brief(after, 40));
  return h("div", { class: "what" }, name, was, was && is ? " → " : null, is);
}
