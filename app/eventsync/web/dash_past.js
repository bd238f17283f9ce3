// A collection's time machine: its documents as they were at an instant, compared with now, and a restore of them.

import { Pages } from "./dash_clients.js";
import { Sides } from "./dash_document.js";
import { Field, Loaded, Route, Section, Sure, Time, searchOf, useLoaded, valuesOf } from "./dash_parts.js";
import { TaskTable, useTasks } from "./dash_tasks.js";
import { get, pathOf, post } from "./http.js";
import { html, useRef, useState } from "./ui.js";
import { brief } from "./values.js";

const PAGE = 50;
const STEP = 1000; // ms
const RECENT = 5; // seconds; the worker may not have read all changes of the newest ones
const LONGEST = 160; // characters of a document in the list

export function PastView({ collection, query, mayChange }) {
  const history = useLoaded(() => get(`/v1/admin/collections/${encodeURIComponent(collection)}/history`), [collection]);
  return html`<div class="grid">
    <nav class="trail wide" aria-label="Where this is"><a href=${Route.to("data", [collection])}>${collection}</a> / <h1>Time machine</h1></nav>
    <${Loaded} of=${history}>${(known) => known.since_at === null
      ? html`<p class="empty wide">No snapshot of it is stored yet: its past is known from the first one on.</p>`
      : html`<${Machine} collection=${collection} known=${known} asked=${Number(query.at) || 0} mayChange=${mayChange} />`}<//>
  </div>`;
}

function Machine({ collection, known, asked, mayChange }) {
  const [end] = useState(() => Math.floor(Date.now() / STEP - RECENT) * STEP);
  const begin = Math.min(end, Math.ceil(known.since_at + 1) * STEP);
  const [at, setAt] = useState(Math.min(end, Math.max(begin, asked || end)));
  const [shown, setShown] = useState(at); // while the slider moves
  const go = (time) => {
    const within = Math.min(end, Math.max(begin, time));
    setShown(within);
    setAt(within);
    window.history.replaceState(null, "", Route.to("data", [collection], { past: "1", at: within }));
  };
  const field = (event) => {
    event.preventDefault();
    const { when } = valuesOf(event.currentTarget);
    if (when) go(new Date(when).getTime());
  };
  return html`<${Section} title="When" wide aside=${html`<p class="muted">known since <${Time} at=${begin / 1000} /></p>`}>
    <div class="body">
      <label class="slider"><span>As it was at <strong><${Time} at=${shown / 1000} /></strong></span>
        <input type="range" min=${begin} max=${end} step=${STEP} value=${shown} aria-valuetext=${new Date(shown).toISOString()}
          onInput=${(event) => setShown(Number(event.currentTarget.value))} onChange=${(event) => go(Number(event.currentTarget.value))} />
      </label>
    </div>
    <form class="filters" onSubmit=${field}>
      <button type="button" class="small" onClick=${() => go(at - 60 * STEP)}>A minute earlier</button>
      <button type="button" class="small" onClick=${() => go(at + 60 * STEP)}>A minute later</button>
      <${Field} label="Or exactly"><input type="datetime-local" name="when" step="1" /><//>
      <button type="submit">Go</button>
      <a href=${Route.to("log", [], { collection, from: local(at) })}>What has happened since</a>
    </form>
  <//>
  <${Past} key=${at} collection=${collection} at=${at} />
  <${Restores} collection=${collection} at=${at} mayChange=${mayChange} />`;
}

/** A time as a field for local times has it. */
function local(time) {
  const date = new Date(time);
  return new Date(time - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function Past({ collection, at }) {
  const [after, setAfter] = useState("");
  const wanted = { at: new Date(at).toISOString(), limit: PAGE, after };
  const path = `/v1/collections/${encodeURIComponent(collection)}/documents${searchOf(wanted)}`;
  const loaded = useLoaded(() => get(path), [path]);
  return html`<${Section} title="Documents as they were" wide aside=${loaded.value && html`<p class="muted">at <code>${loaded.value.position}</code></p>`}>
    <${Loaded} of=${loaded}>${(found) => html`
      ${found.documents.length ? html`<ul class="events">${found.documents.map((row) => html`<${Row} key=${row.id} collection=${collection} row=${row} />`)}</ul>`
      : html`<p class="empty">${found.next ? "None on this page." : "It had no document that you may see."}</p>`}
      <${Pages} after=${after} next=${found.next} go=${setAfter} />`}<//>
  <//>`;
}

const TAGS = { same: "", changed: "warning", deleted: "error" };

function Row({ collection, row }) {
  const [open, setOpen] = useState(false);
  const text = brief(row.doc);
  return html`<li><details onToggle=${(toggled) => setOpen(toggled.currentTarget.open)}>
    <summary>
      <code class="seq">${row.id}</code>
      <span class=${`tag ${TAGS[row.now]}`}>${row.now === "same" ? "same now" : `${row.now} since`}</span>
      <span class="what mono">${text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text}</span>
      <span class="muted">version ${row.version}</span>
    </summary>
    ${open && html`<${Compared} collection=${collection} row=${row} />`}
  </details></li>`;
}

function Compared({ collection, row }) {
  const loaded = useLoaded(() => (row.now === "deleted" ? Promise.resolve({ doc: null }) : get(pathOf(collection, row.id))), [row.id]);
  return html`<p class="buttons"><a href=${Route.to("data", [collection, row.id])}>The document and its timeline</a></p>
    <${Loaded} of=${loaded}>${({ doc }) => html`<${Sides} before=${row.doc} after=${doc} names=${[`${row.id} then`, `${row.id} now`]} />`}<//>`;
}

function Restores({ collection, at, mayChange }) {
  const form = useRef(null);
  const tasks = useTasks("restore");
  const restore = async () => {
    const { into } = valuesOf(form.current);
    if (!into) return form.current.reportValidity();
    const body = { into, at: new Date(at).toISOString() };
    await post(`/v1/admin/collections/${encodeURIComponent(collection)}/restores`, { body });
    tasks.reload();
  };
  return html`<${Section} title="Restore" wide>
    ${mayChange && html`<form class="filters" ref=${form} onSubmit=${(event) => event.preventDefault()}>
      <${Field} label="Into a new collection"><input name="into" required autocomplete="off" spellcheck="false" placeholder=${`${collection}_restored`} /><//>
      <${Sure} label="Restore" question="Write all documents as they were into it?" danger=${false} run=${restore} />
    </form>`}
    <${Loaded} of=${tasks}>${(found) => html`<${TaskTable} label="Restores" tasks=${found} reload=${tasks.reload} mayChange=${mayChange} empty="No restore was begun lately." />`}<//>
  <//>`;
}
