// The API reference, drawn from openapi.json.

import { curlFor, parametersOf, resolve } from "./openapi.js";
import { $, h } from "./dom.js";
import { BASE } from "./http.js";

const SERVER = BASE.replace(/\/$/, "");
const METHODS = ["get", "post", "put", "patch", "delete"];

/** Text with `code` and **strong** marks as nodes. */
function marked(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    return part.startsWith("**") ? h("strong", {}, part.slice(2, -2)) : part;
  });
}

function paragraphs(text = "") {
  return text.split("\n\n").filter(Boolean).map((part) => h("p", {}, ...marked(part.replaceAll("\n", " "))));
}

function block(text, kind = "") {
  const copy = h("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  // The clipboard exists only on pages from loopback or over HTTPS.
  return h("div", { class: `block ${kind}` }, navigator.clipboard ? copy : null, h("pre", { tabindex: "0" }, text));
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function table(headings, rows) {
  const head = h("thead", {}, h("tr", {}, ...headings.map((text) => h("th", { scope: "col" }, text))));
  const cells = (row) => row.map((cell) => h("td", {}, ...[cell].flat()));
  return h("div", { class: "wide" }, h("table", {}, head, h("tbody", {}, ...rows.map((row) => h("tr", {}, ...cells(row))))));
}

function typeOf(schema) {
  if (schema.$ref) return h("a", { href: `#schema-${schema.$ref.split("/").pop()}` }, schema.$ref.split("/").pop());
  if (schema.const !== undefined) return h("code", {}, JSON.stringify(schema.const));
  if (schema.type === "array") return h("span", {}, "list of ", typeOf(schema.items));
  return [schema.type ?? "any"].flat().join(" or ");
}

function parameterTable(document, parameters) {
  const rows = parameters.map((parameter) => [
    [h("code", {}, parameter.name), h("div", { class: "muted" }, `${parameter.in}${parameter.required ? ", required" : ""}`)],
    [typeOf(parameter.schema)],
    marked(parameter.description),
  ]);
  return table(["Parameter", "Type", "Meaning"], rows);
}

function examples(content = {}) {
  return Object.entries(content).flatMap(([type, media]) => {
    const several = Object.entries(media.examples ?? {}).map(([name, { value }]) => [name, value]);
    const all = "example" in media ? [[type, media.example]] : several;
    return all.map(([name, value]) => [h("p", { class: "muted mono" }, name), block(pretty(value))]).flat();
  });
}

function response(document, [status, value]) {
  const { description, headers = {}, content } = resolve(document, value);
  const sent = Object.keys(headers);
  const shown = examples(content);
  const about = [...marked(description), sent.length ? h("div", { class: "muted" }, `With ${sent.join(", ")}.`) : null];
  if (shown.length) about.push(h("details", {}, h("summary", {}, "Example"), ...shown));
  return [[h("span", { class: `status ${status < 400 ? "good" : "poor"}` }, status)], about.filter(Boolean)];
}

function operation(document, path, method, item) {
  const { operationId, summary, description, requestBody, responses } = item[method];
  const parameters = parametersOf(document, item, method);
  const name = method.toUpperCase();
  const bodies = examples(requestBody?.content);
  return h(
    "article",
    { id: operationId, "aria-label": summary },
    h("h3", {}, h("span", { class: `tag ${name}` }, name), h("code", {}, path), h("span", { class: "muted" }, summary)),
    ...paragraphs(description),
    block(curlFor(document, SERVER, path, method), "command"),
    ...(parameters.length ? [parameterTable(document, parameters)] : []),
    ...(bodies.length ? [h("h4", {}, "Body"), ...bodies] : []),
    h("h4", {}, "Answers"),
    h("div", { class: "answers" }, table(["Status", "Meaning"], Object.entries(responses).map((entry) => response(document, entry)))),
  );
}

function operationsOf(document, tag) {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]?.tags.includes(tag)).map((method) => ({ path, method, item })),
  );
}

function schemas(document) {
  const articles = Object.entries(document.components.schemas).map(([name, schema]) =>
    h("article", { id: `schema-${name}` }, h("h3", {}, h("code", {}, name)), ...paragraphs(schema.description), block(pretty(schema))),
  );
  return h("section", { id: "schemas" }, h("h2", {}, "Schemas"), ...articles);
}

function contents(document) {
  const link = (href, text) => h("a", { href }, text);
  const groups = document.tags.map(({ name }) => {
    const links = operationsOf(document, name).map(({ method, item }) => link(`#${item[method].operationId}`, item[method].summary));
    return h("div", {}, h("h2", {}, name), ...links);
  });
  $("toc").replaceChildren(
    h("div", {}, link("#introduction", "Introduction"), link("#sync", "How to sync")),
    ...groups,
    h("div", {}, h("h2", {}, "Schemas"), link("#schemas", "All schemas")),
  );
}

function draw(document) {
  const { title, version, summary, description } = document.info;
  const sync = $("how-to-sync").content.cloneNode(true);
  for (const pre of sync.querySelectorAll("pre[data-copy]")) {
    pre.replaceWith(block(pre.textContent.replaceAll("{origin}", SERVER)));
  }
  const sections = document.tags.map(({ name, description: about }) =>
    h("section", {}, h("h2", {}, name), ...paragraphs(about),
      ...operationsOf(document, name).map(({ path, method, item }) => operation(document, path, method, item))),
  );
  const introduction = h("section", { id: "introduction" }, h("h1", {}, `${title} ${version}`), h("p", {}, summary), ...paragraphs(description));
  $("content").replaceChildren(introduction, sync, ...sections, schemas(document));
  contents(document);
  if (location.hash) $(location.hash.slice(1))?.scrollIntoView();
}

try {
  const answer = await fetch(`${BASE}openapi.json`);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  draw(await answer.json());
} catch (error) {
  $("loading").textContent = `The reference can't be drawn: ${error.message}`;
}
