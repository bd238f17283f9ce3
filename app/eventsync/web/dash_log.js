// The log: its events, searched backwards by position, time, collection, document, principal and operation; and what
// keeps it in order.

import { Maintenance } from "./dash_maintenance.js";
import { Field, Loaded, Route, Section, Time, number, searchOf, useLoaded, valuesOf } from "./dash_parts.js";
import { Storage } from "./dash_storage.js";
import { differences, sentence } from "./describe.js";
import { get } from "./http.js";
import { html, useState } from "./ui.js";

const PAGE = 50;
const LONGEST = 200; // characters of a description

const PARTS = [["", "Events"], ["storage", "Storage"], ["maintenance", "Maintenance"]];

export function LogView({ route: { path: [part = ""], query }, mayChange }) {
  return html`<h1 class="hidden">Log</h1>
    <nav class="parts" aria-label="Parts of the log">${PARTS.map(([name, title]) => html`
      <a key=${name} href=${Route.to("log", name ? [name] : [])} aria-current=${name === part ? "page" : null}>${title}</a>`)}</nav>
    <div class="grid">${part === "maintenance" ? html`<${Maintenance} mayChange=${mayChange} />`
    : part === "storage" ? html`<${Storage} />` : html`<${Search} query=${query} />`}</div>`;
}

function Search({ query }) {
  const [upTo, setUpTo] = useState("");
  const { from, to, ...others } = query;
  const wanted = { ...others, from: instant(from), to: instant(to), limit: PAGE, ...(upTo && { up_to: upTo }) };
  const search = async () => get(`/v1/admin/log${searchOf({ ...wanted, up_to: await positionOf(wanted.up_to) })}`);
  const loaded = useLoaded(search, [JSON.stringify(wanted)]);
  const submit = (event) => {
    event.preventDefault();
    setUpTo("");
    const values = valuesOf(event.currentTarget);
    const next = Route.to("log", [], values);
    if (location.hash === next) loaded.reload();
    location.hash = next;
  };
  return html`<${Section} title="Events" wide>
    <form class="filters" onSubmit=${submit}>
      <${Field} label="Collection"><input name="collection" defaultValue=${query.collection ?? ""} autocomplete="off" /><//>
      <${Field} label="Document"><input name="id" defaultValue=${query.id ?? ""} autocomplete="off" /><//>
      <${Field} label="By"><input name="by" defaultValue=${query.by ?? ""} autocomplete="off" /><//>
      <${Field} label="Operation"><select name="op">
        ${["", "create", "update", "replace", "delete"].map((op) => html`<option value=${op} selected=${op === (query.op ?? "")}>${op || "any"}</option>`)}
      </select><//>
      <${Field} label="From"><input type="datetime-local" name="from" step="1" defaultValue=${query.from ?? ""} /><//>
      <${Field} label="To"><input type="datetime-local" name="to" step="1" defaultValue=${query.to ?? ""} /><//>
      <${Field} label="Up to position"><input name="up_to" class="mono" defaultValue=${query.up_to ?? ""} placeholder="seq or log:seq" autocomplete="off" /><//>
      <button type="submit">Search</button>
    </form>
    <${Loaded} of=${loaded}>${(found) => html`
      <p class="muted foot">${searched(found)}</p>
      <${Events} events=${found.events} />
      <div class="pages">
        <button type="button" disabled=${!upTo} onClick=${() => setUpTo("")}>Newest</button>
        <button type="button" disabled=${!found.next} onClick=${() => setUpTo(found.next)}>Search further back</button>
      </div>`}<//>
  <//>`;
}

/** The position of a number: of the log in force. Others stay as they are. */
async function positionOf(text) {
  if (!/^[0-9]+$/.test(text ?? "")) return text;
  const { log } = await get("/v1/admin/log?limit=1");
  return `${log}:${text}`;
}

/** The instant of a local time, as a field has it. */
function instant(text) {
  const date = new Date(text ?? "");
  return text && !Number.isNaN(date.getTime()) ? date.toISOString() : "";
}

function searched({ searched: { after, up_to: upTo }, events, next }) {
  const found = events.length === 1 ? "1 event" : `${number(events.length)} events`;
  return `${found} among ${number(after + 1)} to ${number(upTo)}${next ? ", and older ones may follow." : "; that is all."}`;
}

function Events({ events }) {
  if (!events.length) return html`<p class="empty">None in this part of the log.</p>`;
  return html`<ul class="events">${events.map((event) => html`<${Event} key=${event.seq} event=${event} />`)}</ul>`;
}

function Event({ event }) {
  const [open, setOpen] = useState(false);
  const what = described(event);
  return html`<li><details onToggle=${(toggled) => setOpen(toggled.currentTarget.open)}>
    <summary>
      <code class="seq">${event.seq}</code> <span class=${`tag ${event.op}`}>${event.op}</span>
      <span class="mono">${event.collection}/${event.id}</span>
      <span class="what">${what.length > LONGEST ? `${what.slice(0, LONGEST)}…` : what}</span>
      <span class="muted">${event.by ?? "external"} · <${Time} at=${event.at} /></span>
    </summary>
    ${open && html`<p class="buttons"><a href=${Route.to("data", [event.collection, event.id])}>The document and its timeline</a></p>
      <pre tabindex="0" role="region" aria-label=${`Event ${event.seq}`}>${JSON.stringify(event, null, 2)}</pre>`}
  </details></li>`;
}

function described(event) {
  if (event.patch) return differences({ event }).map(sentence).join("; ");
  return event.paths ? event.paths.join(", ") : "";
}
