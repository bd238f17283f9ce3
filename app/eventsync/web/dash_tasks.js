// Tasks of the servers: restores and verifications, with their progress, their results, and a way to cancel them.

import { Route, Section, Table, Time, attempt, number, useLoaded } from "./dash_parts.js";
import { get, post } from "./http.js";
import { html } from "./ui.js";

const RUNNING = 1500; // ms between two looks while one runs
const IDLE = 10_000;

/** The tasks of a kind, the newest first, kept up to date. */
export function useTasks(kind) {
  const load = async () => (await get("/v1/admin/tasks")).tasks.filter((task) => task.kind === kind);
  return useLoaded(load, [kind], (tasks) => (tasks?.some(isRunning) ? RUNNING : IDLE));
}

const isRunning = (task) => task.state === "running";

export function TaskTable({ label, tasks, reload, mayChange, empty }) {
  return html`<${Table} label=${label} columns=${["Task", "By", "Begun", "State", "Progress and result", ""]}
    rows=${tasks.map((task) => taskRow(task, mayChange, reload))} empty=${empty} />`;
}

function taskRow(task, mayChange, reload) {
  return {
    key: task.id,
    cells: [
      `${task.kind} ${task.target}`,
      task.by,
      html`<${Time} at=${task.began} />`,
      html`<${State} task=${task} />`,
      html`<${Outcome} task=${task} />`,
      isRunning(task) && mayChange ? html`<${Cancel} task=${task} reload=${reload} />` : "",
    ],
  };
}

function State({ task }) {
  if (task.state === "done" && task.kind === "verify") return html`<span class=${`tag ${task.result.whole ? "create" : "error"}`}>${task.result.whole ? "exact" : "differs"}</span>`;
  return html`<span class=${`tag ${task.state === "failed" ? "error" : ""}`}>${task.state}</span>`;
}

function Cancel({ task, reload }) {
  const cancel = () => attempt(async () => {
    await post(`/v1/admin/tasks/${task.id}`, { method: "DELETE" });
    reload();
  });
  return html`<button type="button" class="small" onClick=${cancel}>Cancel</button>`;
}

function Outcome({ task }) {
  if (isRunning(task)) {
    const of = task.total === null ? "" : ` of ${number(Math.max(task.done, task.total))}`;
    return html`<progress key=${task.step} max=${Math.max(1, task.done, task.total ?? 0)} value=${task.total === null ? undefined : task.done} aria-label=${`Progress of ${task.target}`}></progress>
      ${task.step ? `${task.step}, ` : ""}${number(task.done)}${of}`;
  }
  if (!task.result) return task.reason ?? "";
  if (task.kind === "verify") return html`<${Verdict} result=${task.result} />`;
  return `${number(task.result.documents)} documents`;
}

function Verdict({ result: { whole, head, collections, findings, more, note } }) {
  const what = collections === 1 ? "one collection" : `${number(collections)} collections`;
  return html`${whole && html`<span>The log up to <code>${head}</code> gives exactly ${what}.</span>`}
    <ul class="plain findings">${findings.map((each) => html`<li key=${each.collection}>${each.text}${each.shape && html` <a href=${linkTo(each)}>Document</a>`}</li>`)}</ul>
    ${more > 0 && html`<p class="muted">and ${number(more)} more</p>`}${note && html`<p class="muted">${note}</p>`}`;
}

const linkTo = ({ collection, shape }) => Route.to("data", [collection, shape.slice(collection.length + 1)]);

/** A button that begins to verify a collection, or all, and the state of the newest such task. */
export function Verify({ collection, tasks, mayChange }) {
  const path = collection === undefined ? "/v1/admin/verifications" : `/v1/admin/collections/${encodeURIComponent(collection)}/verifications`;
  const begin = () => attempt(async () => {
    await post(path);
    tasks.reload();
  });
  const newest = collection !== undefined && tasks.value?.find(({ target }) => target === collection);
  return html`${mayChange && html`<button type="button" class="small" disabled=${Boolean(newest) && isRunning(newest)} onClick=${begin}>${collection === undefined ? "Verify all collections" : "Verify"}</button>`}
    ${newest && html`<div class="verdict"><${State} task=${newest} /> ${newest.ended !== null && html`<${Time} at=${newest.ended} />`} <${Outcome} task=${newest} />
      ${isRunning(newest) && mayChange && html`<${Cancel} task=${newest} reload=${tasks.reload} />`}</div>`}`;
}

export function Verifications({ mayChange }) {
  const tasks = useTasks("verify");
  return html`<${Section} title="Verifications" wide aside=${html`<${Verify} tasks=${tasks} mayChange=${mayChange} />`}>
    <${TaskTable} label="Verifications" tasks=${tasks.value ?? []} reload=${tasks.reload} mayChange=${mayChange}
      empty="None was begun lately. One proves that the log and its snapshots give exactly the collections." /><//>`;
}
