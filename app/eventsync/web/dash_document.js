// One document: its content, its timeline, any two of its states side by side, and the way back to one of them.

import { Loaded, Route, Section, Sure, Time, attempt, useLoaded, valuesOf } from "./dash_parts.js";
import { differences, sentence } from "./describe.js";
import { Refusal, get, getTagged, pathOf, post, write } from "./http.js";
import { parseJson } from "./json.js";
import { compareLines } from "./lines.js";
import { html, useRef, useState } from "./ui.js";

const PAGE = 200;
const RECENT = 100; // versions whose events are loaded first

export function DocumentView({ collection, id }) {
  const path = pathOf(collection, id);
  const [changes, setChanges] = useState(0);
  const present = useLoaded(() => presentOf(path), [path, changes]);
  const changed = () => setChanges((count) => count + 1);
  return html`<div class="grid">
    <nav class="trail wide" aria-label="Where this is"><a href=${Route.to("data", [collection])}>${collection}</a> / <h1 class="mono">${id}</h1></nav>
    <${Loaded} of=${present}>${(state) => html`
      <${Editor} key=${`${state.tag} ${changes}`} collection=${collection} path=${path} state=${state} changed=${changed} />
      <${Timeline} key=${`${path} ${changes}`} path=${path} state=${state} changed=${changed} />`}<//>
  </div>`;
}

/** The document as it is, with its entity tag; `doc` is null if it does not exist now. */
async function presentOf(path) {
  try {
    return await getTagged(path);
  } catch (error) {
    if (error.code !== "not_found") throw error;
    return { version: 0, doc: null, tag: null };
  }
}

function Editor({ collection, path, state, changed }) {
  const text = useRef(null);
  const [why, setWhy] = useState("");
  const save = async () => {
    setWhy("");
    try {
      await write("PUT", path, { body: parseJson(text.current.value), tag: state.tag });
      changed();
    } catch (error) {
      if (error instanceof SyntaxError) return setWhy(`This is not JSON: ${error.message}`);
      if (!(error instanceof Refusal)) return attempt(() => Promise.reject(error));
      setWhy(error.code === "version_mismatch" ? "Somebody else was faster. Copy what you want to keep, and load it again." : error.message);
    }
  };
  const remove = async () => {
    await write("DELETE", path, { tag: state.tag });
    location.hash = Route.to("data", [collection]);
  };
  if (!state.doc) return html`<${Section} title="Now"><p class="empty">It does not exist now. Its timeline has what it was.</p><//>`;
  return html`<${Section} title="Now" aside=${html`<p class="muted">version ${state.version}</p>`}>
    <div class="body">
      <textarea ref=${text} class="mono" spellcheck="false" autocomplete="off" aria-label="The document as Extended JSON" defaultValue=${JSON.stringify(state.doc, null, 2)}></textarea>
      <p class="why" role="alert">${why}</p>
      <div class="buttons">
        <button type="button" class="primary" onClick=${save}>Save</button>
        <button type="button" onClick=${changed}>Load again</button>
        <${Sure} label="Delete" question="Delete the document?" run=${remove} />
      </div>
    </div>
  <//>`;
}

/** All events after a version, page by page, up to a bound; and the log, for positions. */
async function timelineOf(path, above) {
  const { log } = await post("/v1/barrier", { body: {} });
  const events = [];
  let after = "";
  for (let page = 0; page < 5; page += 1) {
    const found = await get(`${path}/events?after_version=${above}&limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`);
    events.push(...found.events);
    if (!found.next) return { log, events, more: false };
    after = found.next;
  }
  return { log, events, more: true };
}

function Timeline({ path, state, changed }) {
  const [above, setAbove] = useState(Math.max(0, state.version - RECENT));
  const [chosen, choose] = useState({ left: null, right: null });
  const loaded = useLoaded(() => timelineOf(path, above), [path, above]);
  const look = (event) => {
    event.preventDefault();
    const { at } = valuesOf(event.currentTarget);
    if (at) choose({ ...chosen, left: `at=${encodeURIComponent(new Date(at).toISOString())}` });
  };
  return html`<${Section} title="Timeline">
    <${Loaded} of=${loaded}>${({ log, events, more }) => html`
      <form class="filters" onSubmit=${look}>
        <label class="field"><span>As it was at</span><input type="datetime-local" name="at" step="1" required /></label>
        <button type="submit">Show left</button>
      </form>
      ${more && html`<p class="notice small">It has more events; these are the first after version ${above}.</p>`}
      <div class="scroll" role="region" aria-label="Table: events of the document" tabindex="0"><table class="timeline">
        <thead><tr><th scope="col">Event</th><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">Left</th><th scope="col">Right</th></tr></thead>
        <tbody>${[...events].reverse().map((event) => html`<${Row} key=${event.seq} event=${event} point=${`position=${encodeURIComponent(`${log}:${event.seq}`)}`} chosen=${chosen} choose=${choose} />`)}</tbody>
      </table></div>
      ${!events.length && html`<p class="empty">No event of it is kept.</p>`}
      ${above > 0 && html`<div class="pages"><button type="button" onClick=${() => setAbove(0)}>From the beginning</button></div>`}`}<//>
  <//>
  <${Comparison} path=${path} state=${state} chosen=${chosen} changed=${changed} />`;
}

function Row({ event, point, chosen, choose }) {
  const what = event.patch ? differences({ event }).map(sentence).join("; ") : event.op;
  const radio = (side) => html`<td><input type="radio" name=${side} checked=${chosen[side] === point} aria-label=${`Event ${event.seq} on the ${side}`} onChange=${() => choose({ ...chosen, [side]: point })} /></td>`;
  return html`<tr>
    <th scope="row"><span class=${`tag ${event.op}`}>${event.op}</span> <code>${event.seq}</code></th>
    <td><${Time} at=${event.at} /></td>
    <td>${event.by ?? html`<span class="muted">external</span>`}</td>
    <td class="what">${what.length > 300 ? `${what.slice(0, 300)}…` : what}</td>
    ${radio("left")}${radio("right")}
  </tr>`;
}

/** The document at a point of its history; null if it did not exist there. */
async function at(path, point) {
  try {
    return await get(`${path}?${point}`);
  } catch (error) {
    if (error.code === "not_found") return null;
    throw error;
  }
}

function Comparison({ path, state, chosen: { left, right }, changed }) {
  const loaded = useLoaded(
    async () => (left ? { before: await at(path, left), after: right ? await at(path, right) : state } : null),
    [path, left, right],
  );
  if (!left) return html`<${Section} title="Side by side" wide><p class="empty">Choose an event in the column Left, to see the document as it was then beside what it is now. Right chooses another one.</p><//>`;
  const restore = async () => {
    await write("PUT", path, { body: loaded.value.before.doc, tag: state.tag ?? undefined });
    changed();
  };
  const before = loaded.value?.before;
  return html`<${Section} title="Side by side" wide aside=${before?.doc && html`<${Sure} label="Restore the left one" question="Write it as the new state?" danger=${false} run=${restore} />`}>
    <${Loaded} of=${loaded}>${(found) => found && html`<${Sides} before=${found.before?.doc} after=${found.after?.doc} />`}<//>
  <//>`;
}

/** Two states of a document side by side; a missing one is null. */
export function Sides({ before, after, names = ["Left", "Right"] }) {
  const [left, right] = compareLines(before ? JSON.stringify(before, null, 2) : "", after ? JSON.stringify(after, null, 2) : "");
  const line = ({ text, same }, kind, n) => html`<${same ? "span" : kind} key=${n}>${text}<//>`;
  const side = (name, lines, kind) => html`<div><h3>${name}</h3>${lines.length
    ? html`<pre tabindex="0" role="region" aria-label=${name}>${lines.map((each, n) => line(each, kind, n))}</pre>`
    : html`<p class="empty">It did not exist.</p>`}</div>`;
  return html`<div class="sides">${side(names[0], left, "del")}${side(names[1], right, "ins")}</div>`;
}
