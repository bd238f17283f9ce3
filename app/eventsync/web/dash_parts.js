// What the views of the dashboard share: addresses, loading and repeating, tables, numbers and times.

import { notify } from "./notices.js";
import { ask } from "./session.js";
import { html, useCallback, useEffect, useRef, useState } from "./ui.js";

/** A view with its path and query, as the hash of the address has them: `#/data/theaters?sort=name`. */
export class Route {
  constructor(view, path, query) {
    this.view = view;
    this.path = path;
    this.query = query;
  }

  static of(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    const [view = "", ...rest] = path.split("/");
    return new Route(view, rest.map(decoded), Object.fromEntries(new URLSearchParams(query)));
  }

  /** The hash of a view. Empty values of the query are left out. */
  static to(view, path = [], query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const search = given.length ? `?${new URLSearchParams(given)}` : "";
    return `#/${[view, ...path.map(encodeURIComponent)].join("/")}${search}`;
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The query of a request: without what is empty. */
export function searchOf(query) {
  return Route.to("", [], query).replace("#/", "");
}

/**
 * Load something, again when `deps` change, and while the page is visible `every` so many milliseconds, or after as many
 * as it says of the value.
 * Returns `{ value, error, busy, reload }`; a value stays while it is loaded again.
 */
export function useLoaded(load, deps, every = 0) {
  const [state, setState] = useState({ value: null, error: null, busy: true });
  const latest = useRef(0);
  const timer = useRef(0);
  const reload = useCallback(async () => {
    const number = ++latest.current;
    clearTimeout(timer.current);
    setState((before) => ({ ...before, busy: true }));
    let next;
    try {
      next = { value: await load(), error: null, busy: false };
    } catch (error) {
      if (number === latest.current && error.code === "unauthenticated") return ask("").then(reload);
      next = { error, busy: false };
    }
    if (number !== latest.current) return;
    setState((before) => ({ value: before.value, ...next }));
    const pause = typeof every === "function" ? every(next.value) : every;
    if (pause) timer.current = setTimeout(() => (document.hidden ? null : reload()), pause);
  }, deps);
  useEffect(() => {
    setState({ value: null, error: null, busy: true });
    reload();
    const shown = () => !document.hidden && every && reload();
    document.addEventListener("visibilitychange", shown);
    return () => {
      latest.current += 1;
      clearTimeout(timer.current);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [reload]);
  return { ...state, reload };
}

/** What went wrong, and a way to try again. */
export function Trouble({ error, retry }) {
  const what = error.code === "forbidden" ? "This is for operators and observers." : error instanceof TypeError ? "The server can't be reached." : "The server refused.";
  return html`<div class="trouble" role="alert">
    <p><strong>${what}</strong> ${error.message}</p>
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;
}

/** Show `children(value)` once something is loaded, or what went wrong. */
export function Loaded({ of, children }) {
  if (of.value === null) return of.error ? html`<${Trouble} error=${of.error} retry=${of.reload} />` : html`<p class="empty" aria-busy="true">Loading …</p>`;
  return html`${of.error && html`<${Trouble} error=${of.error} retry=${of.reload} />`}${children(of.value)}`;
}

export function Section({ title, level = 2, aside = null, children, wide = false }) {
  const id = `s-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  const heading = level === 1 ? html`<h1 id=${id}>${title}</h1>` : html`<h2 id=${id}>${title}</h2>`;
  return html`<section class=${wide ? "panel wide" : "panel"} aria-labelledby=${id}>
    <div class="head">${heading}${aside}</div>${children}
  </section>`;
}

/** A table that scrolls within its panel. `columns`: names; `rows`: cells, of which the first is the row's header. */
export function Table({ label, columns, rows, empty = "Nothing." }) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`<div class="scroll" role="region" aria-label=${`Table: ${label}`} tabindex="0"><table>
    <thead><tr>${columns.map((name) => html`<th scope="col" key=${name}>${name || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
    <tbody>${rows.map(({ key, cells }) => html`<tr key=${key}>${cells.map((cell, number) =>
      number ? html`<td key=${number}>${cell}</td>` : html`<th scope="row" key=${number}>${cell}</th>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** A button that asks before it does something. */
export function Sure({ label, question, run, danger = true }) {
  const [asked, setAsked] = useState(false);
  const [busy, setBusy] = useState(false);
  if (!asked) return html`<button type="button" class=${danger ? "danger small" : "small"} onClick=${() => setAsked(true)}>${label}</button>`;
  const go = async () => {
    setBusy(true);
    await attempt(run);
    setBusy(false);
    setAsked(false);
  };
  return html`<span class="sure" role="group" aria-label=${question}>
    <span>${question}</span>
    <button type="button" class="danger small" disabled=${busy} onClick=${go}>Yes</button>
    <button type="button" class="small" onClick=${() => setAsked(false)}>No</button>
  </span>`;
}

/** Do something, and say why it failed if it does. Returns true if it did not. */
export async function attempt(run) {
  try {
    await run();
    return true;
  } catch (error) {
    const unreachable = error instanceof TypeError;
    notify(unreachable ? "The server can't be reached." : "The server refused.", { detail: error.message, bad: true });
    return false;
  }
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function number(value) {
  return value === null || value === undefined ? "–" : NUMBER.format(value);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${NUMBER.format(value)} ${units[unit]}`;
}

/** Seconds, in the unit that suits them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${NUMBER.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${NUMBER.format(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** A time in this browser's zone, with its instant for machines. `at`: Unix seconds, or RFC 3339. */
export function Time({ at }) {
  const date = new Date(typeof at === "number" ? at * 1000 : at);
  const two = (part) => String(part).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return html`<time datetime=${date.toISOString()} title=${date.toISOString()}>${day} ${clock}</time>`;
}

export function connections(counts) {
  const some = Object.entries(counts).filter(([, count]) => count);
  return some.length ? some.map(([transport, count]) => `${number(count)} ${transport}`).join(", ") : "none";
}

/** A field of a form with its label. */
export function Field({ label, children }) {
  return html`<label class="field"><span>${label}</span>${children}</label>`;
}

/** The values of a form by the names of its fields. */
export function valuesOf(form) {
  return Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()]));
}
