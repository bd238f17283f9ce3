// What keeps the log in order: the jobs of the workers, verifications, repairs and resets.

import { Loaded, Route, Section, Table, Time, bytes, duration, number, useLoaded } from "./dash_parts.js";
import { Verifications } from "./dash_tasks.js";
import { get } from "./http.js";
import { html } from "./ui.js";

const EVERY = 5000; // ms; workers renew their records as often

export function Maintenance({ mayChange }) {
  return html`<${Jobs} /><${Verifications} mayChange=${mayChange} /><${Repairs} />`;
}

const WORK = {
  snapshots: (count) => `${counted(count, "snapshot")} stored`,
  snapshot_documents: (count) => counted(count, "document"),
  snapshot_bytes: bytes,
  removed_snapshots: (count) => `${counted(count, "snapshot")} removed`,
  sealed_events: (count) => `${counted(count, "event")} archived`,
  sealed_bytes: bytes,
  expired_events: (count) => `${counted(count, "event")} no longer kept`,
  removed_segments: (count) => `${counted(count, "segment")} removed`,
  removed_objects: (count) => `${counted(count, "orphan")} removed`,
};

/** What a run of a job has done. */
export const workOf = ({ done }) => Object.entries(done).map(([kind, count]) => (WORK[kind] ?? number)(count)).join(", ");

const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function Jobs() {
  const loaded = useLoaded(() => get("/v1/admin/jobs"), [], EVERY);
  return html`<${Section} title="Jobs" wide><${Loaded} of=${loaded}>${({ jobs }) => html`
    <${Table} label="Jobs" columns=${["Job", "Now", "Last success", "Last work", "Last failure", "Worker"]} rows=${jobs.map(jobRow)} />`}<//><//>`;
}

function jobRow(job) {
  return {
    key: job.name,
    cells: [
      job.name,
      html`<${Now} job=${job} />`,
      job.succeeded ? html`<${Time} at=${job.succeeded.at} /> <span class="muted nowrap">in ${duration(job.succeeded.seconds)}</span>` : html`<span class="muted">none yet</span>`,
      job.worked ? html`<${Time} at=${job.worked.at} /><br />${workOf(job.worked)}` : html`<span class="muted">none yet</span>`,
      job.failed ? html`<${Time} at=${job.failed.at} /> <span class="muted nowrap">after ${duration(job.failed.seconds)}</span><br />${job.failed.reason}` : html`<span class="muted">none</span>`,
      job.worker ? html`<code>${job.worker}</code>` : html`<span class="tag warning">nobody does it</span>`,
    ],
  };
}

function Now({ job }) {
  if (job.running_since) return html`<span class="tag create">runs</span> <span class="muted nowrap">since <${Time} at=${job.running_since} /></span>`;
  if (!job.next_at) return html`<span class="muted">–</span>`;
  const wait = job.next_at - Date.now() / 1000;
  return html`<span class="muted nowrap">${wait > 1 ? `next in ${duration(Math.round(wait))}` : "next is due"}</span>`;
}

function Repairs() {
  const loaded = useLoaded(() => get("/v1/admin/repairs"), []);
  const refresh = html`<button type="button" class="small" onClick=${loaded.reload}>Refresh</button>`;
  return html`<${Section} title="Repairs" wide aside=${refresh}><${Loaded} of=${loaded}>${({ repairs, logs }) => html`
      <${Table} label="Repairs" columns=${["Began", "Reason", "Events", "Collections", "Log"]}
        rows=${repairs.map((repair, index) => repairRow(repair, index, logs[0]?.log))} empty="The log was never repaired: no history was lost." />`}<//><//>
    <${Section} title="Logs" wide><${Loaded} of=${loaded}>${({ logs }) => html`
      <${Table} label="Logs" columns=${["Began", "Reason", "Log", "Ended"]} rows=${logs.map(logRow)} empty="There is no log yet: no worker has run." />`}<//><//>`;
}

function repairRow(repair, index, current) {
  const took = repair.ended === null ? html`<span class="tag warning">not ended</span>` : html`<span class="muted nowrap">in ${duration(repair.ended - repair.began)}</span>`;
  const range = repair.events ? `${number(repair.after + 1)} to ${number(repair.up_to)}` : "";
  const link = range && repair.log === current ? html`<a href=${Route.to("log", [], { up_to: `${repair.log}:${repair.up_to}` })}>${range}</a>` : range;
  return {
    key: index,
    cells: [
      html`<${Time} at=${repair.began} /> ${took}`,
      html`<span class="tag">${repair.kind}</span> ${repair.reason}`,
      html`${number(repair.events)} <span class="muted nowrap">${link}</span>`,
      repair.collections.length ? html`<ul class="plain">${repair.collections.map(({ name, events }) => html`<li key=${name}>${name} <span class="muted">${number(events)}</span></li>`)}</ul>` : html`<span class="muted">none had changed</span>`,
      html`<code>${repair.log}</code>`,
    ],
  };
}

function logRow({ log, number: ordinal, kind, reason, at, previous, head }) {
  return {
    key: log,
    cells: [
      at === null ? "–" : html`<${Time} at=${at} />`,
      html`${kind && html`<span class="tag">${kind}</span> `}${reason}`,
      html`<code>${log}</code> <span class="muted">number ${ordinal}</span>`,
      previous ? html`<code>${previous}</code>${head !== null && html` <span class="muted nowrap">at ${number(head)}</span>`}` : html`<span class="muted">it is the first</span>`,
    ],
  };
}
