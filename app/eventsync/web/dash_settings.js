// The settings of the server that answers: their values, sources, defaults and meanings.

import { Field, Loaded, Section, Table, useLoaded } from "./dash_parts.js";
import { get } from "./http.js";
import { html, useState } from "./ui.js";

export function SettingsView() {
  const loaded = useLoaded(() => get("/v1/admin/settings"), []);
  const [text, setText] = useState("");
  const [changed, setChanged] = useState(false);
  return html`<h1 class="hidden">Settings</h1><div class="grid"><${Loaded} of=${loaded}>${(found) => html`
    <${Section} title="Settings" wide aside=${html`<p class="muted">of ${found.answered_by}</p>`}>
      <div class="filters">
        <${Field} label="Search"><input type="search" value=${text} onInput=${(event) => setText(event.currentTarget.value)} autocomplete="off" /><//>
        <label class="check"><input type="checkbox" checked=${changed} onChange=${(event) => setChanged(event.currentTarget.checked)} /> Only those that are set</label>
      </div>
      <${Table} label="Settings" columns=${["Setting", "Value", "From", "Default", "Meaning"]} rows=${rowsOf(found.settings, text, changed)} empty="No setting matches." />
    <//>`}<//></div>`;
}

function rowsOf(settings, text, changed) {
  const wanted = text.trim().toLowerCase();
  return settings
    .filter(({ name, env, description, source }) => (!changed || source !== "default") && `${name} ${env} ${description}`.toLowerCase().includes(wanted))
    .map((item) => ({
      key: item.name,
      cells: [
        html`<code title=${item.env}>${item.name}</code>`,
        html`<code>${shown(item.value)}</code>`,
        html`<span class=${item.source === "default" ? "muted" : "tag update"}>${item.source}</span>`,
        html`<code class="muted">${shown(item.default)}</code>`,
        item.description,
      ],
    }));
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  return Array.isArray(value) ? value.join(", ") || "–" : String(value);
}
