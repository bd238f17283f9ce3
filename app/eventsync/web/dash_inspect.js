// One open session, live: why its client got what it got, and the frames as they pass.

import { Loaded, Route, Section, Table, Time, bytes, duration, number, useLoaded } from "./dash_parts.js";
import { get } from "./http.js";
import { html, useEffect, useRef, useState } from "./ui.js";

const EVERY = 1000; // ms
const SHOWN = 200; // frames that the page keeps
const PATIENCE = 15; // requests for a session that no server lists yet

export function InspectView({ id }) {
  const path = `/v1/admin/clients/${encodeURIComponent(id)}`;
  const known = useLoaded(() => get(path), [path], 5000);
  const seen = useFrames(`${path}/frames`);
  return html`<div class="grid">
    <nav class="trail wide" aria-label="Where this is"><a href=${Route.to("clients")}>Clients</a> / <h1>${known.value?.sub ?? "Session"}</h1></nav>
    ${seen.error && html`<div class="trouble wide" role="alert"><p><strong>It can't be inspected.</strong> ${seen.error}</p></div>`}
    <${Section} title="Session" wide aside=${html`<p class="muted" role="status">${stateOf(seen)}</p>`}>
      ${seen.state === "ended" ? html`<p class="empty">Its connection is closed. A client that comes back has another session: <a href=${Route.to("clients")}>all sessions</a>.</p>`
      : html`<${Loaded} of=${known}>${(session) => html`<${Facts} session=${session} />`}<//>`}
    <//>
    <${Why} shapes=${seen.shapes} />
    <${Frames} seen=${seen} />
  </div>`;
}

/** The notes about a session, asked for every second while the page is visible and not held. */
function useFrames(path) {
  const [seen, set] = useState({ state: "starting", frames: [], shapes: [], missed: 0, leftOut: null, error: "" });
  const [held, hold] = useState(false);
  const next = useRef(0);
  useEffect(() => {
    let timer = 0;
    let over = held;
    let patience = PATIENCE;
    const ask = async () => {
      if (document.hidden) return again();
      try {
        const found = await get(`${path}?after=${next.current}`);
        if (over) return;
        next.current = found.next;
        set((before) => merged(before, found));
        if (found.state === "ended" || found.state === "refused") return;
      } catch (error) {
        patience -= 1;
        if (over) return;
        // Another server lists its sessions at its next report.
        if (error.code !== "not_found" || patience <= 0) set((before) => ({ ...before, error: error.message }));
        if (error.code && error.code !== "not_found" && error.code !== "unavailable") return;
        if (patience <= 0) return;
      }
      again();
    };
    const again = () => (timer = setTimeout(ask, EVERY));
    if (!held) ask();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [path, held]);
  return { ...seen, held, hold };
}

function merged(before, found) {
  const error = found.state === "refused" ? "Its server inspects as many sessions as it may already." : "";
  return {
    state: found.state,
    shapes: found.shapes,
    missed: before.missed + found.missed,
    leftOut: found.left_out,
    frames: [...[...found.frames].reverse(), ...before.frames].slice(0, SHOWN),
    error,
  };
}

function stateOf({ state, held }) {
  if (state === "starting") return "Begins at the next report of its server …";
  return state === "ended" ? "ended" : held ? "held" : "live";
}

function Facts({ session }) {
  return html`<dl class="facts">
    <div><dt>Client</dt><dd>${session.client_id ?? "unnamed"}</dd></div>
    <div><dt>Roles</dt><dd>${session.roles.join(", ") || "none"}</dd></div>
    <div><dt>Transport</dt><dd>${session.transport}</dd></div>
    <div><dt>Since</dt><dd><${Time} at=${session.since} /></dd></div>
    <div><dt>Lag</dt><dd>${number(session.lag_events)} events</dd></div>
    <div><dt>Server</dt><dd><code>${session.server}</code></dd></div>
  </dl>`;
}

const REASONS = {
  no_position: "it came without a position",
  in_window: "the server has all events after its position in memory",
  cheapest: "that is the cheapest exact answer",
  only_exact: "no other answer is exact",
  others_failed: "the others had failed a moment before",
  reset: "its position can't be continued",
};
const RESETS = {
  unknown_log: "it is of another log",
  future: "it is beyond the newest event",
  before_horizon: "the events after it are not all kept",
  damaged: "what is stored is damaged",
  scope_changed: "what the client sees has changed",
};
const SOURCES = { window: "from memory", hot: "from MongoDB", archive: "from the archive" };

function Why({ shapes }) {
  if (!shapes.length) return html`<${Section} title="Why it got what it got" wide><p class="empty">It follows nothing yet.</p><//>`;
  return html`<${Section} title="Why it got what it got" wide>${shapes.map((item) => html`<div class="body" key=${item.shape}>
    <h3 class="mono">${item.shape} <span class="muted">${item.position ?? "has nothing yet"}</span></h3>
    ${item.hidden.length > 0 && html`<p>The rules hide from it: <code>${item.hidden.join(", ")}</code></p>`}
    <ol class="plans">${item.plans.map((plan, number_) => html`<li key=${plan.at}><${Plan} plan=${plan} label=${`${item.shape}, plan ${number_ + 1}`} /></li>`)}</ol>
  </div>`)}<//>`;
}

function Plan({ plan, label }) {
  const answer = plan.answer === "events" ? "Events" : plan.answer === "squashed" ? "The documents that have changed" : "A snapshot";
  return html`<p><${Time} at=${plan.at} /> <strong>${answer}</strong>${plan.source ? ` ${SOURCES[plan.source]}` : ""}${plan.from ? html` after <code>${plan.from}</code>` : ""},
    because ${REASONS[plan.reason]}${plan.reset ? `: ${RESETS[plan.reset] ?? plan.reset}` : ""}.${plan.avoided.length > 0 ? ` Tried before, without success: ${plan.avoided.join(", ")}.` : ""}</p>
    ${plan.costs && html`<${Costs} plan=${plan} label=${label} />`}`;
}

function Costs({ plan, label }) {
  const most = Math.max(...Object.values(plan.costs));
  const rows = Object.entries(plan.costs).map(([name, cost]) => ({
    key: name,
    cells: [
      name === plan.answer ? html`<strong>${name}</strong>` : name,
      html`<meter min="0" max=${most} value=${cost} aria-label=${`Cost of ${name}`}></meter> <span class="nowrap">${duration(cost / 1e6)}</span>`,
      plan.possible.includes(name) ? "" : html`<span class="tag">not exact</span>`,
    ],
  }));
  const { behind, collection, stored_snapshot: stored } = plan;
  return html`<p class="muted">It was ${number(behind.log_events)} events of the log behind, of which ${number(behind.events)} of the shape (${bytes(behind.bytes)}), in about ${number(behind.documents)} documents. The shape has ${number(collection.documents)} documents (${bytes(collection.bytes)}); ${stored ? `a newer snapshot is stored at ${number(stored.seq)}` : "no newer snapshot is stored"}.</p>
    <${Table} label=${`costs of ${label}`} columns=${["Answer", "Estimated cost", "Exact"]} rows=${rows} />`;
}

function Frames({ seen }) {
  const { frames, missed, leftOut, held, hold } = seen;
  const aside = html`<button type="button" class="small" aria-pressed=${held} onClick=${() => hold(!held)}>${held ? "Continue" : "Hold"}</button>`;
  const lost = leftOut?.messages ? `${number(leftOut.messages)} messages with ${number(leftOut.events)} events (${bytes(leftOut.bytes)}) came too fast to be shown. ` : "";
  return html`<${Section} title="Frames" wide aside=${aside}>
    ${(lost || missed > 0) && html`<p class="notice small">${lost}${missed > 0 ? `${number(missed)} were dropped before this page asked for them.` : ""}</p>`}
    <${Table} label="Frames" columns=${["Frame", "When", "Kind", "Shape", "From → to", "Events", "Size", "Removed by rules"]}
      rows=${frames.map(frameRow)} empty="Nothing has passed since this page was opened." />
  <//>`;
}

function frameRow(frame) {
  const isIn = frame.direction === "in";
  const removed = Object.entries(frame.removed?.fields ?? {}).map(([name, count]) => (count > 1 ? `${name} ×${count}` : name));
  return {
    key: frame.n,
    cells: [
      number(frame.n),
      html`<${Time} at=${frame.at} />`,
      html`<span class=${isIn ? "tag in" : `tag ${frame.kind === "reset" || frame.kind === "error" ? "error" : ""}`}>${isIn ? "← " : ""}${frame.kind}</span>`,
      frame.shape ? html`<span class="mono">${frame.shape}</span>` : "",
      frame.kind === "plan" ? `${frame.why.answer}: ${REASONS[frame.why.reason]}` : span(frame),
      frame.kind === "events" ? number(frame.events) : frame.part === undefined ? "" : `part ${frame.part + 1}${frame.last ? ", the last" : ""}`,
      frame.bytes ? bytes(frame.bytes) : "",
      removed.length ? html`<code>${removed.join(", ")}</code>` : "",
    ],
  };
}

function span({ from, to }) {
  if (!to) return "";
  return html`<span class="mono">${from ? `${from.split(":")[1]} → ` : ""}${from ? to.split(":")[1] : to}</span>`;
}
