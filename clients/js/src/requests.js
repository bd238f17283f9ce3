// HTTP requests to the server's API, and the token that they and the connection share.

import { parseJson } from "./json.js";

/** @typedef {import("./outbox.js").Problem} Problem */
/** @typedef {import("./lifecycle.js").TokenReason} TokenReason */

/** A request that the server has refused; `problem` is its RFC 9457 document. */
export class Refusal extends Error {
  /** @param {Problem & { retry_after?: number }} problem @param {number} [retryAfter] */
  constructor(problem, retryAfter) {
    super(problem.detail || problem.title || problem.code);
    this.name = "Refusal";
    /** What the server has answered. @type {Problem & { retry_after?: number }} */
    this.problem = problem;
    /** The stable code of the problem, such as `version_mismatch`. @type {string} */
    this.code = problem.code;
    /** The status of the answer; 0 without one. @type {number} */
    this.status = problem.status;
    /** Seconds after which the same request may succeed, if the server has said so. @type {number | undefined} */
    this.retryAfter = retryAfter;
  }
}

/**
 * The seconds after which to try again, if the server names any.
 *
 * @param {Headers} headers
 * @param {any} [problem]
 */
export function retryAfterOf(headers, problem = {}) {
  const text = headers.get("Retry-After");
  const seconds = problem.retry_after ?? (text === null ? undefined : Number(text));
  return Number.isFinite(seconds) && seconds >= 0 ? seconds : undefined;
}

/** The header that has a token, if there is one. @param {string | null} token @returns {Record<string, string>} */
export function authorization(token) {
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

/**
 * The URL of a path below the server's URL, which may have a path itself.
 *
 * @param {string} url
 * @param {string} path
 */
export function below(url, path) {
  return new URL(path, url.endsWith("/") ? url : `${url}/`);
}

const ASKING = 60_000; // ms that the token function may take

/** Asks the application for tokens: once at a time for each reason. */
export class Tokens {
  /** @type {string | null} */
  #last = null;
  #asked = false;
  /** @type {Map<string, Promise<string | null>>} */
  #asking = new Map();

  /** @param {((why: TokenReason) => string | null | Promise<string | null>) | undefined} ask @param {number} [limit] */
  constructor(ask, limit = ASKING) {
    this.ask = ask;
    this.limit = limit;
  }

  /** The token of the last answer, or the first one. */
  async present() {
    return this.#asked || !this.ask ? this.#last : this.fresh("connect");
  }

  /** @param {TokenReason} why */
  fresh(why) {
    if (!this.ask) return Promise.resolve(null);
    const asking = this.#asking.get(why) ?? this.#answer(this.ask, why).finally(() => this.#asking.delete(why));
    this.#asking.set(why, asking);
    return asking.then((token) => {
      this.#asked = true;
      return (this.#last = token);
    });
  }

  /**
   * @param {(why: TokenReason) => string | null | Promise<string | null>} ask
   * @param {TokenReason} why
   * @returns {Promise<string | null>}
   */
  async #answer(ask, why) {
    return Promise.race([
      ask(why),
      new Promise((_, reject) => {
        AbortSignal.timeout(this.limit).onabort = () => reject(new Error("the token function does not answer"));
      }),
    ]);
  }
}

const TIMEOUT = 30_000; // ms; the server answers within request_timeout (12 s) of the last byte

export class Http {
  /** @param {{ url: string, fetch: typeof globalThis.fetch, tokens: Tokens }} options */
  constructor({ url, fetch, tokens }) {
    this.url = url;
    this.fetch = fetch;
    this.tokens = tokens;
  }

  /**
   * Send a request. Returns the parsed answer. Throws `Refusal`, or whatever `fetch` throws if there is no answer.
   *
   * @param {string} method
   * @param {string} path - Below the server's URL.
   * @param {{ query?: Record<string, any>, body?: any, headers?: Record<string, string> }} [rest]
   * @returns {Promise<any>}
   */
  async request(method, path, { query = {}, body, headers = {} } = {}) {
    const address = below(this.url, path);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) address.searchParams.set(name, `${value}`);
    }
    const text = body === undefined ? undefined : JSON.stringify(body);
    const send = async (/** @type {string | null} */ token) => {
      const signal = AbortSignal.timeout(TIMEOUT);
      const all = { ...headers, ...authorization(token) };
      const answer = await this.fetch(address, { method, headers: all, body: text, cache: "no-store", signal });
      return { answer, text: await answer.text() };
    };
    const token = await this.tokens.present();
    let done = await send(token);
    if (done.answer.status === 401 && this.tokens.ask) {
      const other = await this.tokens.fresh("refused");
      if (other !== token) done = await send(other);
    }
    const { answer } = done;
    if (answer.ok) return done.text ? withTag(parseJson(done.text), answer) : null;
    const problem = problemOf(answer, done.text);
    throw new Refusal(problem, retryAfterOf(answer.headers, problem));
  }
}

/** An answer, which is an object, with its entity tag. @param {any} body @param {Response} answer */
function withTag(body, answer) {
  const etag = answer.headers.get("ETag");
  return etag === null ? body : { ...body, etag };
}

const FOREIGN = "http_error"; // the code of what has none, so it is not the server's but a proxy's

/** The problem of a refusal, also of one by a proxy. @param {Response} answer @param {string} text @returns {Problem} */
export function problemOf({ status, statusText }, text) {
  /** @type {any} */
  let problem = null;
  try {
    problem = JSON.parse(text);
  } catch {} // a page
  if (typeof problem?.code === "string") return { ...problem, status };
  return { code: FOREIGN, title: `The server answered ${status} ${statusText}`, status };
}

/**
 * Return true if the same request may succeed later. What a proxy says in place of the server decides nothing, but that
 * a request is too large.
 *
 * @param {Problem} problem
 */
export function isTemporary({ status, code }) {
  return status >= 500 || [408, 425, 429].includes(status) || (code === FOREIGN && status !== 413);
}

/** The path of a document, or of the documents of a collection. @param {string} collection @param {string} [id] */
export function pathOf(collection, id) {
  const documents = `v1/collections/${encodeURIComponent(collection)}/documents`;
  return id === undefined ? documents : `${documents}/${encodeURIComponent(id)}`;
}
