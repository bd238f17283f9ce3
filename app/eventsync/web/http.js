// The HTTP side: reads, and writes with an idempotency key, so that a repeat after a lost answer writes nothing twice.

import { parseJson } from "./json.js";

/** The URL that the API is below, with a slash at its end: the server may be mounted under a path. */
export const BASE = new URL("..", import.meta.url).href;

const ANSWER_TIMEOUT = 30_000; // ms, longer than a server waits for MongoDB

/** The URL of a path of the API. */
const urlOf = (path) => new URL(`.${path}`, BASE);

export class Refusal extends Error {
  /** `problem`: the server's RFC 9457 document. */
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
    this.code = problem.code;
  }
}

/** The path of a document. */
export function pathOf(collection, id) {
  return `/v1/collections/${encodeURIComponent(collection)}/documents/${encodeURIComponent(id)}`;
}

/** GET and parse. Throws `Refusal`, or `TypeError` if the server cannot be reached, or does not answer in time. */
export async function get(path) {
  const request = { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT) };
  const answered = fetch(urlOf(path), request).then(answer);
  return answered.catch((error) => {
    throw error.name === "TimeoutError" ? new TypeError(`no answer in ${ANSWER_TIMEOUT / 1000} s`) : error;
  });
}

/** A request that is no write of a document, with a credential or without, and a body of JSON if it has one. Throws as `get` does. */
export async function post(path, { method = "POST", credential, body } = {}) {
  const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const content = body === undefined ? undefined : JSON.stringify(body);
  return answer(await fetch(urlOf(path), { method, headers, body: content, cache: "no-store" }));
}

/**
 * A document, with the entity tag of its state as `tag`. `If-Match` with the tag also notices a change that did not come
 * through the API, which keeps the version. Throws as `get` does.
 */
export async function getTagged(path) {
  const response = await fetch(urlOf(path), { cache: "no-store" });
  return { ...(await answer(response)), tag: response.headers.get("ETag") };
}

/**
 * A write. `tag`, or else `version`, makes it conditional; `key` becomes the event's `op_id`. Throws as `get` does.
 */
export async function write(method, path, { body, type = "application/json", tag, version, key = newKey() } = {}) {
  const headers = { "Idempotency-Key": key };
  if (body !== undefined) headers["Content-Type"] = type;
  if (tag ?? version !== undefined) headers["If-Match"] = tag ?? `"${version}"`;
  const request = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  return answer(await fetch(urlOf(path), request).catch(() => fetch(urlOf(path), request)));
}

async function answer(response) {
  const text = await response.text();
  if (response.ok) return text ? parseJson(text) : null;
  throw new Refusal(problemOf(response, text));
}

function problemOf(response, text) {
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) return JSON.parse(text);
  return { title: `The server answered ${response.status} ${response.statusText}`, code: "unknown" };
}

/** 128 random bits. `crypto.randomUUID` exists only on pages from loopback or over HTTPS. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
