// Reads an OpenAPI document: references, parameters, and the curl command of an operation. Needs no browser.

const HANDSHAKE = [
  "Connection: Upgrade",
  "Upgrade: websocket",
  "Sec-WebSocket-Version: 13",
  "Sec-WebSocket-Key: ZXZlbnRzeW5jLWV4YW1wbGU=",
  "Sec-WebSocket-Protocol: eventsync.v1",
];

/** Resolve a `$ref`; return anything else unchanged. */
export function resolve(document, value) {
  if (!value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((node, token) => node[token], document);
}

/** An operation's parameters, those of its path first. */
export function parametersOf(document, item, method) {
  return [...(item.parameters ?? []), ...(item[method].parameters ?? [])].map((value) => resolve(document, value));
}

/** A shell command that makes the request of the examples. Optional headers and queries are left out. */
export function curlFor(document, origin, path, method) {
  const item = document.paths[path];
  const parameters = parametersOf(document, item, method);
  const { requestBody, responses } = item[method];
  const words = ["curl"];
  if (responses["200"]?.content?.["text/event-stream"]) words.push("-N");
  if (responses["101"]) words.push("-i", "-N", ...HANDSHAKE.flatMap((header) => ["-H", quote(header)]));
  if (method !== "get") words.push("-X", method.toUpperCase());
  const [type, media] = Object.entries(requestBody?.content ?? {})[0] ?? [];
  if (type) words.push("-H", quote(`Content-Type: ${type}`), "-d", quote(JSON.stringify(media.example)));
  words.push(quote(origin + filled(path, parameters) + queryOf(parameters)));
  return words.join(" ");
}

function filled(path, parameters) {
  const named = parameters.filter((parameter) => parameter.in === "path");
  return named.reduce((text, { name, example }) => text.replace(`{${name}}`, encodeURIComponent(example)), path);
}

function queryOf(parameters) {
  const required = parameters.filter((parameter) => parameter.in === "query" && parameter.required);
  const pairs = required.flatMap(({ name, example }) => [example].flat().map((value) => `${name}=${value}`));
  return pairs.length ? `?${pairs.join("&")}` : "";
}

/** Quote a word for a POSIX shell. */
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
