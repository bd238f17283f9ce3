// The dashboard: the views of an operator, chosen by the address's hash (`#/log?op=delete`).

import { AccessView } from "./dash_access.js";
import { ClientsView } from "./dash_clients.js";
import { DataView } from "./dash_data.js";
import { LogView } from "./dash_log.js";
import { OverviewView } from "./dash_overview.js";
import { Route, Trouble } from "./dash_parts.js";
import { SettingsView } from "./dash_settings.js";
import { $ } from "./dom.js";
import { get } from "./http.js";
import { ask, signInAtStart } from "./session.js";
import { html, render, useEffect, useState } from "./ui.js";

const VIEWS = [
  { name: "overview", title: "Overview", view: OverviewView },
  { name: "data", title: "Data", view: DataView },
  { name: "clients", title: "Clients", view: ClientsView },
  { name: "log", title: "Log", view: LogView },
  { name: "access", title: "Access", view: AccessView },
  { name: "settings", title: "Settings", view: SettingsView },
];

const PAGES = [["try", "Try"], ["docs", "API"]]; // beside the dashboard, wherever it is mounted

/** The views as links; those to other pages follow. */
function Tabs({ current }) {
  const link = ({ name, title }) => html`
    <a key=${name} href=${`#/${name}`} aria-current=${name === current ? "page" : null}>${title}</a>`;
  const other = ([path, title]) => html`<a key=${path} href=${path}>${title}</a>`;
  return html`${VIEWS.map(link)}${PAGES.map(other)}`;
}

function App() {
  const [route, go] = useState(() => Route.of(location.hash));
  const [rights, setRights] = useState(null);
  const [trouble, setTrouble] = useState(null);
  useEffect(() => {
    const changed = () => go(Route.of(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  useEffect(() => {
    signedIn(setRights, setTrouble);
  }, []);
  const found = VIEWS.find(({ name }) => name === route.view) ?? VIEWS[0];
  useEffect(() => {
    document.title = `${found.title} · eventsync`;
    render(html`<${Tabs} current=${found.name} />`, $("tabs"));
  }, [found]);
  if (trouble) return html`<${Trouble} error=${trouble} retry=${() => location.reload()} />`;
  if (!rights) return html`<p class="empty">Connecting …</p>`;
  // Another search begins with its first page.
  const key = found.name === "data" ? found.name : `${found.name} ${JSON.stringify(route.query)}`;
  return html`<${found.view} key=${key} route=${route} mayChange=${rights.may_change} />`;
}

/** Find out what the user may do, and ask for a credential where one is needed. */
async function signedIn(done, failed) {
  try {
    done(await get("/v1/admin/overview"));
  } catch (error) {
    if (error.code === "unauthenticated") return ask("").then(() => signedIn(done, failed));
    failed(error);
  }
}

await signInAtStart();
render(html`<${App} />`, $("main"));
