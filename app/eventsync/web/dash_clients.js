// The open sessions of all servers, and the clients whose positions are stored.

import { InspectView } from "./dash_inspect.js";
import { Field, Loaded, Route, Section, Sure, Table, Time, duration, number, searchOf, useLoaded, valuesOf } from "./dash_parts.js";
import { get, post } from "./http.js";
import { html, useState } from "./ui.js";

const EVERY = 5000;
const PAGE = 50;

export function ClientsView({ route, mayChange }) {
  const [id] = route.path;
  if (id) return html`<${InspectView} key=${id} id=${id} />`;
  return html`<h1 class="hidden">Clients</h1><div class="grid">
    <${Sessions} query=${route.query} mayChange=${mayChange} />
    <${Stored} mayChange=${mayChange} />
  </div>`;
}

function Sessions({ query, mayChange }) {
  const [after, setAfter] = useState("");
  const wanted = { sub: query.sub, transport: query.transport, shape: query.shape, limit: PAGE, after };
  const loaded = useLoaded(() => get(`/v1/admin/clients${searchOf(wanted)}`), [JSON.stringify(wanted)], EVERY);
  const submit = (event) => {
    event.preventDefault();
    setAfter("");
    location.hash = Route.to("clients", [], valuesOf(event.currentTarget));
  };
  return html`<${Section} title="Open sessions" wide>
    <form class="filters" onSubmit=${submit}>
      <${Field} label="Principal"><input name="sub" defaultValue=${query.sub ?? ""} autocomplete="off" /><//>
      <${Field} label="Shape"><input name="shape" defaultValue=${query.shape ?? ""} autocomplete="off" /><//>
      <${Field} label="Transport"><select name="transport" defaultValue=${query.transport ?? ""}>
        ${["", "websocket", "sse"].map((name) => html`<option value=${name} selected=${name === (query.transport ?? "")}>${name || "any"}</option>`)}
      </select><//>
      <button type="submit">Filter</button>
    </form>
    <${Loaded} of=${loaded}>${(found) => html`
      ${!found.complete && html`<p class="notice small">${incomplete(found.servers)}</p>`}
      <${Table} label="Open sessions" columns=${["Principal", "Client", "Transport", "Since", "Lag", "Shapes", "Server", "Live", ""]}
        rows=${found.clients.map((session) => sessionRow(session, mayChange, loaded.reload))} empty="No session is open." />
      <${Pages} after=${after} next=${found.next} go=${setAfter} />`}<//>
  <//>`;
}

function incomplete(servers) {
  const missing = servers.filter(({ connections, listed }) => listed < connections);
  return `Not all sessions are listed here yet: ${missing.map((each) => `${each.listed} of ${each.connections} of ${each.server}`).join(", ")}.`;
}

function sessionRow(session, mayChange, reload) {
  const close = async () => {
    await post(`/v1/admin/clients/${encodeURIComponent(session.id)}`, { method: "DELETE" });
    reload();
  };
  return {
    key: session.id,
    cells: [
      html`${session.sub}${session.roles.map((role) => html` <span class="tag" key=${role}>${role}</span>`)}`,
      session.client_id ?? html`<span class="muted">unnamed</span>`,
      session.transport,
      html`<${Time} at=${session.since} />`,
      number(session.lag_events),
      html`<${Shapes} of=${session} />`,
      html`<code>${session.server}</code>`,
      html`<a href=${Route.to("clients", [session.id])} aria-label=${`Inspect the session of ${session.sub}`}>Inspect</a>`,
      mayChange ? html`<${Sure} label="Disconnect" question="Close it? The client resumes." run=${close} />` : "",
    ],
  };
}

function Shapes({ of }) {
  const [first] = of.shapes;
  const line = ({ shape, position }) => html`<span class="mono">${shape} <span class="muted">${position ?? "has nothing yet"}</span></span>`;
  if (of.shapes.length + of.more_shapes < 2) return first ? line(first) : html`<span class="muted">none</span>`;
  return html`<details><summary>${of.shapes.length + of.more_shapes} shapes</summary>
    <ul class="plain">${of.shapes.map((item) => html`<li key=${item.shape}>${line(item)}</li>`)}</ul>
    ${of.more_shapes > 0 && html`<p class="muted">and ${of.more_shapes} more</p>`}</details>`;
}

function Stored({ mayChange }) {
  const [after, setAfter] = useState("");
  const loaded = useLoaded(() => get(`/v1/state-vectors${searchOf({ limit: PAGE, after })}`), [after]);
  return html`<${Section} title="Stored clients" wide aside=${html`<button type="button" class="small" onClick=${loaded.reload}>Refresh</button>`}>
    <${Loaded} of=${loaded}>${(found) => html`
      <${Table} label="Stored clients" columns=${["Client", "Transport", "Seen", "Shapes", "Lag", ""]}
        rows=${found.clients.map((client) => storedRow(client, mayChange, loaded.reload))}
        empty="No client has named itself: nothing has to be remembered." />
      <${Pages} after=${after} next=${found.next} go=${setAfter} />`}<//>
  <//>`;
}

function storedRow(client, mayChange, reload) {
  const forget = async () => {
    await post(`/v1/state-vectors/${encodeURIComponent(client.client_id)}`, { method: "DELETE" });
    reload();
  };
  const lags = Object.values(client.lag).filter(Boolean);
  const events = lags.length ? Math.max(...lags.map((lag) => lag.events)) : null;
  const seconds = lags.length ? Math.max(...lags.map((lag) => lag.seconds ?? 0)) : null;
  return {
    key: client.client_id,
    cells: [
      html`<code>${client.client_id}</code>`,
      client.transport,
      html`<${Time} at=${client.seen} />`,
      html`<ul class="plain">${Object.entries(client.vector).map(([shape, position]) => html`<li key=${shape} class="mono">${shape} <span class="muted">${position}</span></li>`)}</ul>`,
      events === null ? "–" : `${number(events)} events${events ? `, ${duration(seconds)}` : ""}`,
      mayChange ? html`<${Sure} label="Forget" question="Forget its positions?" run=${forget} />` : "",
    ],
  };
}

/** Ways to the first and the next page of a listing. */
export function Pages({ after, next, go }) {
  if (!after && !next) return null;
  return html`<div class="pages">
    <button type="button" disabled=${!after} onClick=${() => go("")}>First page</button>
    <button type="button" disabled=${!next} onClick=${() => go(next)}>Next page</button>
  </div>`;
}
