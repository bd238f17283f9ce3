// Where the log is: its tiers and retention on one bar, the archive, the stored snapshots, and the segments.

import { Loaded, Route, Section, Table, Time, bytes, duration, number, searchOf, useLoaded } from "./dash_parts.js";
import { workOf } from "./dash_maintenance.js";
import { get } from "./http.js";
import { html, useState } from "./ui.js";

const PAGE = 50;
const EVERY = 5000; // ms; a server reads the tiers as often
const SETTINGS = ["hot_events", "hot_age", "retention_events", "retention_age", "retention_bytes", "archive_url"];

export function Storage() {
  const loaded = useLoaded(load, [], EVERY);
  return html`<${Section} title="Tiers" wide><${Loaded} of=${loaded}>${(found) => html`<${Tiers} found=${found} />`}<//><//>
    <${Section} title="Snapshots" wide><${Loaded} of=${loaded}>${({ snapshots }) => html`<${Snapshots} found=${snapshots} />`}<//><//>
    <${Segments} />`;
}

async function load() {
  const names = ["overview", "snapshots", "settings", "jobs"];
  const [overview, snapshots, { settings }, { jobs }] = await Promise.all(names.map((name) => get(`/v1/admin/${name}`)));
  const inForce = Object.fromEntries(settings.filter(({ name }) => SETTINGS.includes(name)).map(({ name, value }) => [name, value]));
  return { overview, snapshots, settings: inForce, archiver: jobs.find(({ name }) => name === "archiving") };
}

function Tiers({ found: { overview, snapshots, settings, archiver } }) {
  const { log, problems } = overview;
  if (!log) return html`<p class="empty">There is no log yet: no worker has run.</p>`;
  const head = Number(log.head.split(":")[1]);
  const parts = [
    { name: "no longer kept", kind: "gone", from: 0, to: log.horizon, size: null },
    { name: "archived", kind: "cold", from: log.horizon, to: Math.max(log.horizon, log.archived_up_to), size: log.cold.bytes },
    { name: "in MongoDB", kind: "hot", from: Math.max(log.horizon, log.archived_up_to), to: head, size: log.hot.bytes },
  ];
  const silent = problems.filter(({ code }) => code === "archive_silent");
  return html`
    ${silent.map(({ what, remedy }) => html`<p class="notice small" role="alert" key=${what}><strong>${what}</strong> ${remedy}</p>`)}
    <div class="tiers" role="img" aria-label=${`The log: ${parts.map(said).join("; ")}`}>
      ${head === 0 && html`<span class="none"></span>`}
      ${parts.filter(({ from, to }) => to > from).map(({ kind, from, to }) => html`<span key=${kind} class=${kind} style=${{ flexGrow: to - from }}></span>`)}
      ${snapshots.snapshots.filter(({ seq }) => head && seq <= head).map(({ id, seq }) => html`<i key=${id} style=${{ left: `${(100 * seq) / head}%` }}></i>`)}
    </div>
    <ul class="tier-keys">${parts.map((part) => html`<li key=${part.kind}><span class=${`swatch ${part.kind}`}></span> ${said(part)}${part.size ? html` <span class="muted">${bytes(part.size)}</span>` : ""}</li>`)}
      <li><span class="swatch mark"></span> snapshots</li></ul>
    <dl class="facts">
      <div><dt>Head</dt><dd><code>${log.head}</code></dd></div>
      <div><dt>Segments</dt><dd>${number(log.cold.segments)}</dd></div>
      <div><dt>Events leave MongoDB</dt><dd>${limits([[settings.hot_events, events], [settings.hot_age, duration]], "never")}</dd></div>
      <div><dt>Events are kept</dt><dd>${limits([[settings.retention_events, events], [settings.retention_age, duration], [settings.retention_bytes, bytes]], "for ever", "up to")}</dd></div>
      <div><dt>Archive</dt><dd>${settings.archive_url ? html`<code>${settings.archive_url}</code>` : "no archive"}</dd></div>
      ${settings.archive_url && html`<div><dt>Archiver</dt><dd><${Archiver} job=${archiver} /></dd></div>`}
    </dl>`;
}

/** Its last run, which looked for events to archive; and, unless that has failed, what it has archived last. */
function Archiver({ job: { worker, succeeded, worked, failed } }) {
  if (failed && !(succeeded?.at > failed.at)) return html`<span class="tag error">failed</span> <${Time} at=${failed.at} />: ${failed.reason}`;
  if (!worker) return html`<span class="tag warning">nobody archives</span>`;
  if (!succeeded) return html`<span class="muted">no run is known yet</span>`;
  return html`ran well at <${Time} at=${succeeded.at} />${worked && html`<br />${workOf(worked)} at <${Time} at=${worked.at} />`}`;
}

const events = (count) => `${number(count)} events`;

function said({ name, from, to }) {
  return `${name}: ${to > from ? `${number(from + 1)} to ${number(to)}` : "none"}`;
}

/** Limits of which the first to be reached counts; 0 is none. */
function limits(given, none, after = "beyond") {
  const some = given.filter(([limit]) => limit).map(([limit, format]) => format(limit));
  return some.length ? `${after} ${some.join(" or ")}` : none;
}

function Snapshots({ found: { snapshots, more } }) {
  const rows = snapshots.map((item) => ({
    key: item.id,
    cells: [
      item.collection,
      html`<code class="nowrap">${item.position}</code>`,
      item.complete ? html`<a href=${Route.to("data", [item.collection], { past: "1", at: Math.ceil(item.time) * 1000 })}><${Time} at=${item.time} /></a>` : html`<span class="tag warning">being written</span>`,
      number(item.documents),
      html`<span class="nowrap">${bytes(item.bytes)} <span class="muted">of ${bytes(item.raw_bytes)}</span></span>`,
    ],
  }));
  return html`<${Table} label="Snapshots" columns=${["Collection", "Position", "As it was at", "Documents", "Size"]} rows=${rows} empty="No snapshot of a collection is stored." />
    ${more && html`<p class="muted foot">There are older ones.</p>`}`;
}

function Segments() {
  const [before, setBefore] = useState("");
  const loaded = useLoaded(() => get(`/v1/admin/segments${searchOf({ limit: PAGE, before })}`), [before], before ? 0 : EVERY);
  return html`<${Section} title="Segments" wide><${Loaded} of=${loaded}>${({ segments, next }) => html`
    <${Table} label="Segments" columns=${["Events", "Number", "First", "Last", "Size"]} rows=${segments.map(segmentRow)}
      empty="No segment is in the archive: events are archived once they fill one." />
    ${(before || next !== null) && html`<div class="pages">
      <button type="button" disabled=${!before} onClick=${() => setBefore("")}>Newest</button>
      <button type="button" disabled=${next === null} onClick=${() => setBefore(next)}>Older</button>
    </div>`}`}<//><//>`;
}

function segmentRow({ first, last, bytes: size, raw_bytes: raw, earliest, latest }) {
  return {
    key: first,
    cells: [
      html`<span class="nowrap">${number(first)} to ${number(last)}</span>`,
      number(last - first + 1),
      html`<${Time} at=${earliest} />`,
      html`<${Time} at=${latest} />`,
      html`<span class="nowrap">${bytes(size)} <span class="muted">of ${bytes(raw)}</span></span>`,
    ],
  };
}
