// The rules and shapes in force, refusals, and what a given principal sees of a document and why.

import { Field, Loaded, Section, Table, Time, number, useLoaded, valuesOf } from "./dash_parts.js";
import { get, post } from "./http.js";
import { html, useState } from "./ui.js";

const EVERY = 10_000;

export function AccessView({ mayChange }) {
  const loaded = useLoaded(() => get("/v1/admin/access"), [], EVERY);
  return html`<h1 class="hidden">Access</h1><div class="grid"><${Loaded} of=${loaded}>${(found) => html`
    <${Rules} rules=${found.rules} />
    ${found.rules && mayChange && html`<${Explain} />`}
    <${Shapes} shapes=${found.shapes} />
    <${Refusals} of=${found.refusals} />`}<//></div>`;
}

function Rules({ rules }) {
  if (!rules) return html`<${Section} title="Rules" wide><p class="notice small">No [auth] is applied: everybody who reaches this server may read and change everything.</p><//>`;
  const rows = Object.entries(rules.collections).flatMap(([collection, roles]) =>
    Object.entries(roles).flatMap(([role, table]) =>
      Object.entries(table).map(([name, rule]) => ({
        key: `${collection} ${role} ${name}`,
        cells: [collection, role, name, html`<code>${Array.isArray(rule) ? rule.join(", ") : JSON.stringify(rule)}</code>`],
      })),
    ),
  );
  const roles = Object.entries(rules.roles).map(([role, rule]) => ({ key: role, cells: [role, html`<code>${JSON.stringify(rule)}</code>`] }));
  return html`<${Section} title="Rules" wide aside=${html`<p class="muted">issuers: ${rules.issuers.join(", ") || "none; service keys alone"}</p>`}>
    <${Table} label="Rules" columns=${["Collection", "Role", "Rule", ""]} rows=${rows} empty="No rule allows anything." />
    <${Table} label="Roles" columns=${["Role", "Claims that give it"]} rows=${roles} empty="No role is given by claims." />
  <//>`;
}

function Explain() {
  const [state, setState] = useState({ found: null, why: "" });
  const submit = async (event) => {
    event.preventDefault();
    const { shape, token, claims, roles } = valuesOf(event.currentTarget);
    try {
      const who = token ? { token } : { claims: claims ? JSON.parse(claims) : {}, roles: roles.split(/[\s,]+/).filter(Boolean) };
      setState({ found: await post("/v1/admin/access/explain", { body: { shape, ...who } }), why: "" });
    } catch (error) {
      setState({ found: null, why: error instanceof SyntaxError ? `The claims are no JSON: ${error.message}` : error.message });
    }
  };
  return html`<${Section} title="What a principal sees" wide>
    <form class="filters" onSubmit=${submit}>
      <${Field} label="Document or collection"><input name="shape" required class="mono" placeholder="orders/int:42" autocomplete="off" spellcheck="false" /><//>
      <${Field} label="Token"><input name="token" type="password" autocomplete="off" /><//>
      <${Field} label="or claims"><input name="claims" class="mono" placeholder='{"sub": "ada"}' autocomplete="off" spellcheck="false" /><//>
      <${Field} label="and roles"><input name="roles" placeholder="user" autocomplete="off" /><//>
      <button type="submit">Explain</button>
    </form>
    <p class="why body" role="alert">${state.why}</p>
    ${state.found && html`<${Explanation} found=${state.found} />`}
  <//>`;
}

function Explanation({ found }) {
  const rows = found.because.flatMap(({ role, ...rules }) =>
    Object.entries(rules).map(([name, text]) => ({ key: `${role} ${name}`, cells: [role, name, text] })),
  );
  const reads = found.may_read === true ? "may read it" : found.may_read === false ? "may not read it" : `may read what ${JSON.stringify(found.may_read)} matches`;
  return html`<div class="body" aria-live="polite">
    <p><strong>${found.sub || "nobody"}</strong> (${found.roles.join(", ") || "no role"}) ${reads}. ${found.reason ?? ""}</p>
    ${found.hidden?.length > 0 && html`<p>Hidden: <code>${found.hidden.join(", ")}</code></p>`}
    <${Table} label="Reasons" columns=${["Role", "Rule", ""]} rows=${rows} empty="No rule is for any of these roles." />
    ${"seen" in found && html`<h3>As it is seen</h3>${found.seen === null
      ? html`<p class="empty">Nothing: for this principal it does not exist.</p>`
      : html`<pre tabindex="0" role="region" aria-label="The document as it is seen">${JSON.stringify(found.seen, null, 2)}</pre>`}`}
  </div>`;
}

function Shapes({ shapes }) {
  const rows = shapes.map((shape) => ({
    key: shape.name,
    cells: [shape.name, shape.collection, html`<span class=${shape.state === "refused" ? "tag error" : "tag"} title=${shape.reason ?? ""}>${shape.state}</span>`, html`<code>${JSON.stringify(shape.spec)}</code>`],
  }));
  return html`<${Section} title="Declared shapes" wide><${Table} label="Declared shapes" columns=${["Shape", "Collection", "State", "Definition"]} rows=${rows}
    empty="No shape is declared." /><//>`;
}

function Refusals({ of: { counts, recent, servers, complete } }) {
  const rows = recent.map((line, number_) => ({
    key: `${line.at} ${number_}`,
    cells: [html`<${Time} at=${line.at} />`, line.subject || html`<span class="muted">nobody</span>`, line.reason, html`<code>${line.request}</code>`, html`<code>${line.credential}</code>`, html`<code>${line.server}</code>`],
  }));
  const sums = Object.entries(counts).map(([reason, count]) => `${reason} ${number(count)}`).join(", ");
  return html`<${Section} title="Refusals lately" wide aside=${html`<p class="muted">${servers.length === 1 ? "1 server" : `${number(servers.length)} servers`}: ${sums || "none since the start"}</p>`}>
    ${!complete && html`<p class="notice small">Those of other servers are missing: MongoDB does not answer, or a server of an earlier version runs.</p>`}
    <${Table} label="Refusals" columns=${["When", "Principal", "Reason", "Request", "Credential", "Server"]} rows=${rows} empty="Nothing was refused." /><//>`;
}
