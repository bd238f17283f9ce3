// The overview: problems first, what happens now, the last hour, and the processes.

import { Loaded, Section, Table, Time, bytes, connections, duration, number, useLoaded } from "./dash_parts.js";
import { Plot } from "./dash_plot.js";
import { get } from "./http.js";
import { html, useRef } from "./ui.js";

const EVERY = 5000; // ms; servers renew their records as often
const HOUR = 3600;

/** Load the overview, and of the history only what is not here yet. */
async function load(kept) {
  const newest = kept.current.at(-1)?.at ?? 0;
  const found = await get(`/v1/admin/overview?since=${Math.floor(newest)}`);
  const added = found.history.filter(({ at }) => at > newest);
  const after = Date.now() / 1000 - HOUR;
  kept.current = [...kept.current, ...added].filter(({ at }) => at > after);
  return { ...found, history: kept.current };
}

export function OverviewView() {
  const kept = useRef([]);
  const loaded = useLoaded(() => load(kept), [], EVERY);
  return html`<h1 class="hidden">Overview</h1><${Loaded} of=${loaded}>${(found) => html`<div class="grid">
    <${Problems} problems=${found.problems} since=${loaded.error && found.totals.at} />
    <${Now} found=${found} />
    <${Hour} history=${found.history} />
    <${Servers} servers=${found.servers} answered=${found.answered_by} />
    <${Workers} found=${found} />
    <${Log} log=${found.log} snapshots=${found.snapshots} />
  </div>`}<//>`;
}

/** `since`: when the answer is from that is shown, if there is no newer one. */
function Problems({ problems, since }) {
  if (since) return html`<${Section} title="Problems" wide><p class="empty">Not known. All below is of <${Time} at=${since} />.</p><//>`;
  if (!problems.length) return html`<${Section} title="Problems" wide><p class="fine">No problem is known.</p><//>`;
  return html`<${Section} title="Problems" wide><ul class="problems">${problems.map((problem) => html`
    <li key=${problem.code + problem.what} class=${problem.severity}>
      <span class=${`tag ${problem.severity}`}>${problem.severity}</span>
      <p><strong>${problem.what}</strong><br /><span class="remedy">${problem.remedy}</span></p>
    </li>`)}</ul><//>`;
}

function Stat({ name, value, note = "" }) {
  return html`<div class="stat"><dt>${name}</dt><dd><b>${value}</b>${note && html`<span>${note}</span>`}</dd></div>`;
}

function Now({ found: { totals, lag } }) {
  const open = Object.values(totals.connections).reduce((sum, count) => sum + count, 0);
  return html`<${Section} title="Now" wide><dl class="stats">
    <${Stat} name="Events" value=${number(totals.events_per_second)} note="a second" />
    <${Stat} name="Writes" value=${number(totals.writes_per_second)} note="requests a second" />
    <${Stat} name="Deliveries" value=${number(totals.deliveries_per_second)} note="messages a second" />
    <${Stat} name="Commit to delivery" value=${duration(totals.delivery_p50)} note=${`median; p99 ${duration(totals.delivery_p99)}`} />
    <${Stat} name="Lag" value=${number(lag.events)} note=${`events; complete ${duration(lag.seconds)} ago`} />
    <${Stat} name="Connections" value=${number(open)} note=${connections(totals.connections)} />
  </dl><//>`;
}

function Hour({ history }) {
  const at = history.map((sample) => sample.at);
  const of = (name, scale = 1) => history.map((sample) => (sample[name] === null ? null : sample[name] * scale));
  const open = history.map((sample) => Object.values(sample.connections).reduce((sum, count) => sum + count, 0));
  return html`<${Section} title="The last hour" wide>${history.length < 2
    ? html`<p class="empty">The first samples come within seconds.</p>`
    : html`<div class="plots">
      <${Plot} title="Rates, a second" at=${at} lines=${[
        { label: "events", values: of("events_per_second"), color: "--accent" },
        { label: "writes", values: of("writes_per_second"), color: "--violet" },
        { label: "deliveries", values: of("deliveries_per_second"), color: "--blue" },
      ]} />
      <${Plot} title="Commit to delivery, ms" at=${at} lines=${[
        { label: "median", values: of("delivery_p50", 1000), color: "--accent" },
        { label: "p99", values: of("delivery_p99", 1000), color: "--amber" },
      ]} />
      <${Plot} title="Connections" at=${at} lines=${[{ label: "open", values: open, color: "--blue" }]} />
    </div>`}<//>`;
}

function Servers({ servers, answered }) {
  const rows = servers.map((server) => ({
    key: server.name,
    cells: [
      html`<code>${server.name}</code>${server.name === answered && html` <span class="tag">answers</span>`}`,
      server.live ? "live" : html`<span class="tag error">not live</span>`,
      server.version,
      duration(server.uptime),
      connections(server.connections),
      number(server.lag_events),
    ],
  }));
  return html`<${Section} title="Servers"><${Table} label="Servers" columns=${["Server", "State", "Version", "Up", "Connections", "Lag"]} rows=${rows}
    empty="No server has published its state: MongoDB does not answer." /><//>`;
}

function Workers({ found }) {
  const rows = found.workers.map((worker) => ({
    key: worker.name,
    cells: [html`<code>${worker.name}</code>`, worker.leads ? "leads" : "stands by", worker.version, duration(worker.uptime), duration(worker.lag_seconds)],
  }));
  return html`<${Section} title="Workers"><${Table} label="Workers" columns=${["Worker", "Role", "Version", "Up", "Lag"]} rows=${rows}
    empty="No worker runs: start one with eventsync worker." /><//>`;
}

function Log({ log, snapshots }) {
  if (!log) return html`<${Section} title="Log"><p class="empty">There is no log yet: no worker has run.</p><//>`;
  const rows = snapshots.map((item) => ({
    key: item.collection,
    cells: [item.collection, number(item.seq), bytes(item.bytes), duration(item.age)],
  }));
  return html`<${Section} title="Log" wide>
    <dl class="facts">
      <div><dt>Head</dt><dd><code>${log.head}</code></dd></div>
      <div><dt>Begun because</dt><dd>${log.reason} (number ${log.number})</dd></div>
      <div><dt>In MongoDB</dt><dd>${number(log.hot.events)} events, ${bytes(log.hot.bytes)}</dd></div>
      <div><dt>Archived</dt><dd>${number(log.cold.events)} events, ${bytes(log.cold.bytes)}, ${number(log.cold.segments)} segments</dd></div>
      <div><dt>No longer kept</dt><dd>up to ${number(log.horizon)}</dd></div>
    </dl>
    <${Table} label="Snapshots" columns=${["Newest snapshot", "Seq", "Size", "Age"]} rows=${rows} empty="No snapshot is stored." />
  <//>`;
}
