// The documents of a collection by filter and sort, a page at a time, edited in place.

import { Pages } from "./dash_clients.js";
import { DocumentView } from "./dash_document.js";
import { PastView } from "./dash_past.js";
import { Field, Loaded, Route, Section, Sure, attempt, number, searchOf, useLoaded, valuesOf } from "./dash_parts.js";
import { Verify, useTasks } from "./dash_tasks.js";
import { editCell } from "./editor.js";
import { get, newKey, post } from "./http.js";
import { columnsOf, valueAt } from "./table.js";
import { html, useState } from "./ui.js";
import { brief, isEditable, kindOf } from "./values.js";

const PAGE = 50;
const COLUMNS = 8; // fields that are shown; the document has all

export function DataView({ route, mayChange }) {
  const loaded = useLoaded(() => get("/v1/collections"), []);
  return html`<${Loaded} of=${loaded}>${({ collections }) => {
    const names = collections.map(({ name }) => name);
    const [name = names[0], id] = route.path;
    if (id !== undefined) return html`<${DocumentView} key=${`${name}/${id}`} collection=${name} id=${id} />`;
    if (name !== undefined && route.query.past) return html`<${PastView} key=${`past ${name}`} collection=${name} query=${route.query} mayChange=${mayChange} />`;
    return html`<h1 class="hidden">Data</h1><div class="split">
      <${Collections} names=${names} current=${name} mayChange=${mayChange} reload=${loaded.reload} />
      ${name === undefined ? html`<p class="empty">No collection is tracked yet.</p>` : html`<${Documents} key=${`${name} ${JSON.stringify(route.query)}`} collection=${name} query=${route.query} />`}
    </div>`;
  }}<//>`;
}

function Collections({ names, current, mayChange, reload }) {
  const sizes = useLoaded(() => (mayChange ? get("/v1/admin/collections") : Promise.resolve({ collections: [] })), [names.join()]);
  const known = new Map((sizes.value?.collections ?? []).map((item) => [item.name, item]));
  const others = [...known.values()].filter(({ name }) => !names.includes(name));
  const track = async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const { name } = valuesOf(form);
    if (!name) return;
    const path = `/v1/admin/collections/${encodeURIComponent(name)}`;
    if (!(await attempt(() => post(path, { method: "PUT" })))) return;
    form.reset();
    sizes.reload();
    setTimeout(reload, 2000); // a worker begins within seconds
  };
  return html`<${Section} title="Collections">
    <ul class="choices">${names.map((name) => html`<li key=${name}>
      <a href=${Route.to("data", [name])} aria-current=${name === current ? "true" : null}>${name}</a>
      ${known.has(name) && html`<span class="muted">${number(known.get(name).events)} events</span>`}
    </li>`)}${others.map((item) => html`<li key=${item.name}>
      <span>${item.name}</span><span class=${`tag ${item.state === "refused" ? "error" : ""}`} title=${item.reason ?? ""}>${item.state}</span>
    </li>`)}</ul>
    ${mayChange && html`<form class="filters" onSubmit=${track}>
      <${Field} label="Track a collection"><input name="name" required autocomplete="off" spellcheck="false" /><//>
      <button type="submit">Track</button>
    </form>`}
    ${mayChange && names.includes(current) && html`<${Actions} key=${current} name=${current} item=${known.get(current)} reload=${() => (sizes.reload(), reload())} />`}
  <//>`;
}

function Actions({ name, item, reload }) {
  const path = `/v1/admin/collections/${encodeURIComponent(name)}`;
  const [asked, setAsked] = useState("");
  const tasks = useTasks("verify");
  const snapshot = async () => {
    if (await attempt(() => post(`${path}/snapshots`))) setAsked("Asked for: the overview shows it once a worker has made it.");
  };
  return html`<div class="actions-of">
    <p class="muted">${item?.snapshot ? `Newest stored snapshot at ${number(item.snapshot.seq)}.` : "No snapshot is stored yet."} ${asked}</p>
    <button type="button" class="small" onClick=${snapshot}>Store a snapshot</button>
    <${Verify} collection=${name} tasks=${tasks} mayChange />
    <${Sure} label=${`Untrack ${name}`} question="Stop tracking it? Clients can't follow it then." run=${async () => {
      await post(path, { method: "DELETE" });
      reload();
    }} />
  </div>`;
}

function Documents({ collection, query }) {
  const [after, setAfter] = useState("");
  const wanted = { filter: query.filter, sort: query.sort, limit: PAGE, after };
  const path = `/v1/collections/${encodeURIComponent(collection)}/documents`;
  const loaded = useLoaded(() => get(`${path}${searchOf(wanted)}`), [JSON.stringify(wanted)]);
  const submit = (event) => {
    event.preventDefault();
    setAfter("");
    location.hash = Route.to("data", [collection], valuesOf(event.currentTarget));
  };
  return html`<${Section} title=${collection} aside=${html`<span class="links"><a href=${Route.to("data", [collection], { past: "1" })}>Time machine</a> <button type="button" class="small" onClick=${loaded.reload}>Refresh</button></span>`}>
    <form class="filters" onSubmit=${submit}>
      <${Field} label="Filter"><input name="filter" class="long mono" defaultValue=${query.filter ?? ""} placeholder='{"city": "Springfield"}' autocomplete="off" spellcheck="false" /><//>
      <${Field} label="Sort"><input name="sort" class="mono" defaultValue=${query.sort ?? ""} placeholder="name,-age" autocomplete="off" spellcheck="false" /><//>
      <button type="submit">Find</button>
    </form>
    <${Loaded} of=${loaded}>${(found) => html`
      <${Grid} collection=${collection} documents=${found.documents} reload=${loaded.reload} />
      <${Pages} after=${after} next=${found.next} go=${setAfter} />`}<//>
  <//>`;
}

function Grid({ collection, documents, reload }) {
  if (!documents.length) return html`<p class="empty">No document is found.</p>`;
  const columns = columnsOf(documents.map(({ doc }) => doc), COLUMNS);
  return html`<div class="scroll" role="region" aria-label="Table: documents" tabindex="0"><table class="documents">
    <thead><tr><th scope="col">_id</th>${columns.map((tokens) => html`<th scope="col" key=${tokens.join(".")}>${tokens.join(".")}</th>`)}<th scope="col">version</th></tr></thead>
    <tbody>${documents.map((entry) => html`<tr key=${`${entry.id} ${entry.version}`}>
      <th scope="row"><a class="mono" href=${Route.to("data", [collection, entry.id])}>${entry.id}</a></th>
      ${columns.map((tokens) => html`<${Cell} key=${tokens.join(".")} collection=${collection} entry=${entry} tokens=${tokens} reload=${reload} />`)}
      <td class="version">${entry.version}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

function Cell({ collection, entry, tokens, reload }) {
  const value = valueAt(entry.doc, tokens);
  if (!isEditable(value)) return html`<td data-kind=${kindOf(value)}>${brief(value)}</td>`;
  const edit = (cell) => {
    if (cell.classList.contains("editing")) return;
    editCell(cell, { collection, id: entry.id, entry, tokens, wrote: newKey, done: () => {}, saved: reload });
  };
  const pressed = (event) => {
    if (event.key !== "Enter" || event.target !== event.currentTarget) return;
    event.preventDefault();
    edit(event.currentTarget);
  };
  return html`<td data-kind=${kindOf(value)} data-edit tabindex="0" title="Enter changes it" onClick=${(event) => edit(event.currentTarget)} onKeyDown=${pressed}>${brief(value)}</td>`;
}
