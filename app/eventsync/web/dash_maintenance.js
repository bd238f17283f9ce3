// What keeps the log in order: the jobs of the workers, and verifications.

import { Loaded, Section, Table, Time, bytes, duration, number, useLoaded } from "./dash_parts.js";
import { Verifications } from "./dash_tasks.js";
import { get } from "./http.js";
import { html } from "./ui.js";

const EVERY = 5000; // ms; workers renew their records as often

export function Maintenance({ mayChange }) {
  return html`<${Jobs} /><${Verifications} mayChange=${mayChange} />`;
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
      job.worked ? html`<${Time} at=${job.worked.at} /><br />${Object.entries(job.worked.done).map(([kind, count]) => (WORK[kind] ?? number)(count)).join(", ")}` : html`<span class="muted">none yet</span>`,
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
