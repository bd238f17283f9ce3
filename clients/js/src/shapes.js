// Declared shapes: `my_orders?owner=7&state=open`, in the canonical form by which the server answers.

import { OBJECT_ID, canonicalId } from "./ids.js";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const PREFIXED = /^(int|uuid|str|ejson|bool|null):/;
const INTEGER = /^(0|-?[1-9]\d*)$/;
const NUMBER = /^-?\d+\.\d+$/;

/**
 * Return true if a shape is a declared one. An id may contain a question mark, and a value a slash.
 *
 * @param {string} shape
 */
export function isDeclared(shape) {
  return shape.split("/", 1)[0].includes("?");
}

/**
 * The name and the values of a declared shape: `{ name, values: { owner: ["7"] } }`.
 *
 * @param {string} shape
 * @returns {{ name: string, values: Record<string, string[]> }}
 */
export function parseShape(shape) {
  const mark = shape.indexOf("?");
  /** @type {Record<string, string[]>} */
  const values = {};
  for (const pair of shape.slice(mark + 1).split("&").filter(Boolean)) {
    const equals = pair.indexOf("=");
    const name = pair.slice(0, equals);
    values[name] = [...(values[name] ?? []), decodeURIComponent(pair.slice(equals + 1))];
  }
  return { name: shape.slice(0, mark), values };
}

/**
 * The text of a declared shape: parameters and values sorted, each value once.
 *
 * @param {string} name
 * @param {Record<string, readonly string[]>} values
 */
export function shapeText(name, values) {
  const pairs = Object.keys(values)
    .sort()
    .flatMap((key) => {
      const sorted = [...new Set(values[key].map(plain))].sort(byCharacters);
      return sorted.map((value) => `${key}=${quoted(value)}`);
    });
  return `${name}?${pairs.join("&")}`;
}

/**
 * The canonical form of any shape; texts that are no shape stay, for the server to refuse.
 *
 * @param {string} shape
 */
export function canonicalShape(shape) {
  const text = shape.replace(/\p{Surrogate}/gu, "\ufffd"); // lone ones, which no server can read
  const slash = text.indexOf("/") + 1;
  if (!isDeclared(text)) return slash ? text.slice(0, slash) + canonicalId(text.slice(slash)) : text;
  try {
    const { name, values } = parseShape(text);
    return shapeText(name, values);
  } catch {
    return text;
  }
}

/**
 * The value without a `str:` that changes nothing.
 *
 * @param {string} value
 */
function plain(value) {
  const rest = value.startsWith("str:") ? value.slice(4) : "";
  return !rest || rest === "." || rest === ".." || PREFIXED.test(rest) || OBJECT_ID.test(rest) ? value : rest;
}

/** @param {string} left @param {string} right */
function byCharacters(left, right) {
  const [a, b] = [left, right].map((text) => [...text].map((character) => character.codePointAt(0) ?? 0));
  const at = a.findIndex((character, index) => character !== b[index]);
  if (at < 0) return a.length - b.length;
  return at < b.length ? a[at] - b[at] : 1;
}

/** @param {string} value */
function quoted(value) {
  const percent = (/** @type {string} */ character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(value).replace(/[!'()*]/g, percent).replaceAll("%3A", ":");
}

/** @type {Record<string, (typed: string) => string | null>} */
const READ = {
  null: (typed) => (typed === "null" ? "null:" : null),
  bool: (typed) => (["true", "false"].includes(typed) ? `bool:${typed}` : null),
  int: (typed) => (INTEGER.test(typed) ? `int:${typed}` : null),
  number: (typed) => READ.int(typed) ?? (NUMBER.test(typed) ? fraction(Number(typed)) : null),
  oid: (typed) => (OBJECT_ID.test(typed.toLowerCase()) ? typed.toLowerCase() : null),
  uuid: (typed) => (UUID.test(typed) ? `uuid:${typed.toLowerCase()}` : null),
  date: (typed) => {
    const date = /^\d{4}-\d\d-\d\d/.test(typed) ? new Date(typed) : null;
    if (!date || Number.isNaN(date.getTime())) return null;
    return `ejson:${JSON.stringify({ $date: date.toISOString().replace(".000Z", "Z") })}`;
  },
};
const fraction = (/** @type {number} */ number) =>
  Number.isInteger(number) ? `int:${number}` : `ejson:${JSON.stringify(number)}`;
const ORDER = ["oid", "uuid", "date", "bool", "null", "int", "number"];

/**
 * The text of a value that a person has typed for a parameter of these types. What names its type stays.
 *
 * @param {string} typed
 * @param {readonly string[]} types
 */
export function valueText(typed, types) {
  if (PREFIXED.test(typed)) return typed;
  if (types.includes("text")) return OBJECT_ID.test(typed) && !types.includes("oid") ? `str:${typed}` : typed;
  const read = ORDER.filter((kind) => types.includes(kind)).map((kind) => READ[kind](typed));
  return read.find((text) => text !== null) ?? typed;
}
