// The three ways to the server's messages: WebSocket, an event stream read by `fetch`, and long polls. Each opens a
// connection of the core and reports to it; `close` ends it, and nothing is reported after that.

import { parseJson } from "./json.js";
import { parsePosition } from "./positions.js";
import { authorization, below, isTemporary, problemOf, retryAfterOf } from "./requests.js";

/**
 * What a connection is opened for.
 *
 * @typedef {object} Asked
 * @property {string} url
 * @property {string[]} shapes
 * @property {Record<string, string>} vector
 * @property {string | null} token
 * @property {string} [clientId]
 * @property {typeof globalThis.WebSocket} [WebSocket]
 * @property {typeof globalThis.fetch} fetch
 */

/**
 * What a transport reports. `retryAfter`: milliseconds that the server asks a client to stay away.
 *
 * @typedef {object} Reports
 * @property {(options?: { oneWay?: boolean }) => void} opened
 * @property {(message: any) => void} message
 * @property {(ending: { code?: number, reason?: string, retryAfter?: number }) => void} closed
 */

/** @typedef {{ send?: (message: any) => void, close: () => void }} Link */
/** @typedef {"websocket" | "sse" | "poll"} TransportName */

/** @type {Record<TransportName, (asked: Asked, reports: Reports) => Link>} */
export const TRANSPORTS = { websocket, sse, poll };

/** @param {Asked} asked @param {Reports} reports @returns {Link} */
function websocket({ url, WebSocket }, { opened, message, closed }) {
  const address = below(url, "v1/sync");
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new (/** @type {typeof globalThis.WebSocket} */ (WebSocket))(address, "eventsync.v1");
  socket.onopen = () => opened();
  socket.onmessage = ({ data }) => message(parseJson(data));
  socket.onclose = ({ code, reason }) => closed({ code, reason });
  socket.onerror = () => {}; // a close always follows
  return { send: (text) => socket.send(JSON.stringify(text)), close: () => socket.close() };
}

/** @param {Asked} asked @param {Reports} reports @returns {Link} */
function sse(asked, { opened, message, closed }) {
  const { url, shapes, vector, clientId, token, fetch } = asked;
  const address = below(url, "v1/sync/sse");
  for (const shape of shapes) address.searchParams.append("shape", shape);
  address.searchParams.set("vector", vectorText(shapes, vector));
  if (clientId) address.searchParams.set("client_id", clientId);
  const ending = new AbortController();
  /** @type {number | undefined} */
  let retryAfter;
  const read = async () => {
    const headers = { Accept: "text/event-stream", ...authorization(token) };
    const answer = await fetch(address, { headers, signal: ending.signal, cache: "no-store" });
    if (!answer.ok || !answer.body) {
      const { reason, message: text, isFinal, retryAfter: wait = 0 } = await refusalOf(answer);
      return closed({ reason: reason ?? text, code: isFinal ? 4000 + answer.status : 0, retryAfter: wait * 1000 });
    }
    opened({ oneWay: true });
    let first = true;
    for await (const event of eventsOf(linesOf(answer.body))) {
      // The time of the first lines is for browsers, which have no backoff of their own; that of the last is for all.
      if (event.retry !== undefined && !first) retryAfter = event.retry;
      if (event.data === undefined) continue;
      first = false;
      message(parseJson(event.data));
      if (ending.signal.aborted) return;
    }
    closed({ retryAfter });
  };
  read().catch((error) => ending.signal.aborted || closed({ reason: String(error.message ?? error), retryAfter }));
  return { close: () => ending.abort() };
}

/**
 * What a refused request means. `isFinal`: the same one would be refused again. `retryAfter`: in seconds.
 *
 * @param {Response} answer
 */
async function refusalOf(answer) {
  const problem = problemOf(answer, await answer.text());
  const { code, detail, title, reason } = /** @type {Record<string, any>} */ (problem);
  const isFinal = !isTemporary(problem);
  return { code, reason, message: detail ?? title, isFinal, retryAfter: retryAfterOf(answer.headers, problem) };
}

/**
 * The lines of a stream of text.
 *
 * @param {ReadableStream<Uint8Array>} body
 */
async function* linesOf(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  /** @type {string[]} */
  let parts = []; // of a line that has not ended
  try {
    for (let isDone = false; !isDone; ) {
      const { done, value } = await reader.read();
      isDone = done;
      const [rest, ...lines] = decoder.decode(value, { stream: !done }).split("\n");
      parts.push(rest);
      for (const line of lines) {
        yield parts.join("");
        parts = [line];
      }
    }
    if (parts.some(Boolean)) yield parts.join("");
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/**
 * The events of a stream, and its `retry` lines, each as it comes: the last one has no blank line after it.
 *
 * @param {AsyncIterable<string>} lines
 * @returns {AsyncGenerator<{ data?: string, retry?: number }>}
 */
export async function* eventsOf(lines) {
  /** @type {string[]} */
  let data = [];
  for await (const line of lines) {
    const [, field, value] = /** @type {RegExpExecArray} */ (/^([^:\r]*):? ?(.*?)\r?$/s.exec(line));
    if (field === "data") data.push(value);
    else if (field === "retry" && /^\d+$/.test(value)) yield { retry: Number(value) };
    else if (!line.trim() && data.length) {
      yield { data: data.join("\n") };
      data = [];
    }
  }
}

const LONG = 1024; // characters of a vector that names its shapes

/**
 * A state vector for a URL that names the shapes already; a long one has only their positions, in that order.
 *
 * @param {string[]} shapes
 * @param {Record<string, string>} vector
 */
export function vectorText(shapes, vector) {
  const long = new URLSearchParams(vector).toString();
  if (long.length <= LONG) return long;
  /** @type {string | null} */
  let before = null; // the log of the previous position, which is not repeated
  const item = (/** @type {string} */ shape) => {
    if (!vector[shape]) return "";
    const { log, seq } = parsePosition(vector[shape]);
    const text = log === before ? `${seq}` : vector[shape];
    before = log;
    return text;
  };
  return shapes.map(item).join(",");
}

const WAIT = 20; // s that a poll of one shape waits for news
const SHORT_WAIT = 1; // s, where a loop asks for several shapes in turn
const LOOPS = 3; // a browser has six connections for a server, and writes need some
const PAGE = 1000; // events
const PART = 1000; // documents

/** @param {Asked} asked @param {Reports} reports @returns {Link} */
function poll({ url, shapes, vector, token, fetch }, { opened, message, closed }) {
  const ending = new AbortController();
  const { signal } = ending;
  const headers = { Accept: "*/*", ...authorization(token) };
  /** @type {Map<string, string>} */
  const positions = new Map(Object.entries(vector));
  /** @type {Set<string>} */
  const live = new Set();

  /** @param {string} path @param {Record<string, string>} query */
  async function get(path, query) {
    const address = below(url, path);
    address.search = new URLSearchParams(query).toString();
    return fetch(address, { headers, signal, cache: "no-store" });
  }

  /**
   * Ask for what follows in a shape. Returns false if it is refused.
   *
   * @param {string} shape
   * @param {number} wait
   * @returns {Promise<boolean>}
   */
  async function next(shape, wait) {
    const position = positions.get(shape);
    if (!position) return snapshot(shape);
    const query = { shape, position, limit: `${PAGE}`, ...(live.has(shape) && { wait: `${wait}` }) };
    const answer = await get("v1/sync/log", query);
    if (!answer.ok) return refused(shape, answer);
    const page = parseJson(await answer.text());
    positions.set(shape, page.to);
    if (page.events.length) message({ type: "events", shape, from: page.from, to: page.to, events: page.events });
    else message({ type: "progress", vector: { [shape]: page.to } });
    if (page.live && !live.has(shape)) {
      live.add(shape);
      message({ type: "live", shape, position: page.to });
    }
    return true;
  }

  /** @param {string} shape */
  async function snapshot(shape) {
    const answer = await get("v1/sync/snapshot", { shape });
    if (!answer.ok || !answer.body) return refused(shape, answer);
    /** @type {string | null} */
    let position = null;
    let part = 0;
    let docs = [];
    for await (const line of linesOf(answer.body)) {
      if (!line.trim()) continue;
      const row = parseJson(line);
      if (position === null) position = row.position;
      else docs.push(row);
      if (docs.length < PART) continue;
      message({ type: "snapshot", shape, position, part, last: false, docs });
      docs = [];
      part += 1;
    }
    if (position === null) throw new Error("the snapshot is empty");
    positions.set(shape, position);
    message({ type: "snapshot", shape, position, part, last: true, docs });
    return true;
  }

  /** @param {string} shape @param {Response} answer */
  async function refused(shape, answer) {
    const { code, reason, message: text, isFinal, retryAfter } = await refusalOf(answer);
    if (answer.status === 409 && code === "reset") {
      positions.delete(shape);
      live.delete(shape);
      message({ type: "reset", shape, reason });
      return true;
    }
    if (answer.status === 401 && isFinal) {
      end({ code: 4401, reason, retryAfter: (retryAfter ?? 0) * 1000 });
      return false;
    }
    message({ type: "error", code, message: text, shape, ...(!isFinal && { retry_after: retryAfter ?? 1 }) });
    return false;
  }

  /** @param {{ code?: number, reason?: string, retryAfter?: number }} how */
  function end(how) {
    if (signal.aborted) return;
    ending.abort();
    closed(how);
  }

  /** @param {string[]} mine */
  async function loop(mine) {
    while (mine.length && !signal.aborted) {
      for (const shape of [...mine]) {
        const isServed = await next(shape, mine.length > 1 ? SHORT_WAIT : WAIT);
        if (!isServed) mine.splice(mine.indexOf(shape), 1);
      }
    }
  }

  // Not before the caller has the link: a transport never reports while it is being opened.
  queueMicrotask(() => {
    if (signal.aborted) return;
    opened({ oneWay: true });
    message({ type: "welcome", heartbeat: WAIT });
    for (let index = 0; index < LOOPS; index += 1) {
      const mine = shapes.filter((_, at) => at % LOOPS === index);
      loop(mine).catch((error) => end({ reason: String(error.message ?? error) }));
    }
  });
  return { close: () => ending.abort() };
}
