// MongoDB Extended JSON for people: shows a value, and turns typed text into a value of the same type.
// https://github.com/mongodb/specifications/blob/master/source/extended-json.md

import { isUnsafe, parseJson } from "./json.js";

const INTEGER = /^-?\d+$/;

const KINDS = {
  $oid: "id",
  $date: "date",
  $numberInt: "number",
  $numberLong: "long",
  $numberDouble: "number",
  $numberDecimal: "decimal",
  $binary: "binary",
  $timestamp: "timestamp",
  $regularExpression: "pattern",
  $code: "code",
  $symbol: "symbol",
  $dbPointer: "pointer",
  $minKey: "min key",
  $maxKey: "max key",
  $undefined: "undefined",
  $opaque: "opaque",
};

/** `string`, `number`, `boolean`, `null`, `array`, `object`, `missing`, or the name of an Extended JSON type. */
export function kindOf(value) {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value !== "object") return typeof value;
  const wrapper = Object.keys(value).find((key) => Object.hasOwn(KINDS, key));
  return wrapper ? KINDS[wrapper] : "object";
}

export function isScalar(value) {
  return !["array", "object"].includes(kindOf(value));
}

/** Milliseconds of a `{"$date": …}`. */
function millisOf({ $date }) {
  return typeof $date === "string" ? Date.parse($date) : Number($date.$numberLong);
}

function isoOf(value) {
  const date = new Date(millisOf(value));
  return Number.isNaN(date.getTime()) ? null : date.toISOString().replace(".000Z", "Z");
}

function uuidOf(base64) {
  const hex = [...atob(base64)].map((char) => char.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const SHOW = {
  missing: () => "",
  null: () => "null",
  string: (value) => value,
  number: (value) => String(value.$numberInt ?? value.$numberDouble ?? value),
  boolean: String,
  id: (value) => value.$oid,
  date: (value) => isoOf(value)?.replace("T", " ").replace("Z", " UTC") ?? `${millisOf(value)} ms`,
  long: (value) => value.$numberLong,
  decimal: (value) => value.$numberDecimal,
  binary: ({ $binary: { base64, subType } }) =>
    subType === "04" ? uuidOf(base64) : `binary, ${atob(base64).length} bytes`,
  timestamp: ({ $timestamp: { t, i } }) => `${new Date(t * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC, ${i}`,
  pattern: ({ $regularExpression: { pattern, options } }) => `/${pattern}/${options}`,
  code: (value) => value.$code,
  symbol: (value) => value.$symbol,
  array: (value) => `[${value.map(show).join(", ")}]`,
  object: (value) => `{ ${Object.entries(value).map(([key, item]) => `${key}: ${show(item)}`).join(", ")} }`,
};

/** One line of text for any value. */
export function show(value) {
  const kind = kindOf(value);
  return (SHOW[kind] ?? (() => kind))(value);
}

/** The same, of at most `limit` characters. */
export function brief(value, limit = 60) {
  const text = show(value).replaceAll(/\s+/g, " ");
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

const decimals = /^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

const READ = {
  string: (text) => text,
  boolean: (text) => oneOf({ true: true, false: false }, text, "true or false"),
  number: readNumber,
  long: readLong,
  decimal: (text) => ({ $numberDecimal: check(text.trim(), decimals, "a decimal number") }),
  id: (text) => ({ $oid: check(text.trim().toLowerCase(), /^[0-9a-f]{24}$/, "24 hexadecimal digits") }),
  date: readDate,
  null: readAny,
  missing: readAny,
};

/** Return true if a value of this kind can be typed into one line. */
export function isEditable(value) {
  return Object.hasOwn(READ, kindOf(value));
}

/** The text in the input when editing begins. */
export function editText(value) {
  const kind = kindOf(value);
  return kind === "date" ? (isoOf(value) ?? "") : show(value);
}

/** Convert typed text to a value of the type of `previous`. Throws `TypeError` with a message for the user. */
export function readEdit(text, previous) {
  return READ[kindOf(previous)](text);
}

function check(text, pattern, what) {
  if (!pattern.test(text)) throw new TypeError(`This takes ${what}.`);
  return text;
}

function oneOf(choices, text, what) {
  const key = text.trim();
  if (!Object.hasOwn(choices, key)) throw new TypeError(`This takes ${what}.`);
  return choices[key];
}

function readNumber(text) {
  const trimmed = text.trim();
  const special = { NaN: "NaN", Infinity: "Infinity", "-Infinity": "-Infinity" };
  if (Object.hasOwn(special, trimmed)) return { $numberDouble: trimmed };
  check(trimmed, decimals, "a number");
  return isUnsafe(trimmed) ? readLong(trimmed) : Number(trimmed);
}

function readLong(text) {
  const value = BigInt(check(text.trim(), INTEGER, "an integer"));
  if (BigInt.asIntN(64, value) !== value) throw new TypeError("This takes an integer of 64 bits.");
  return { $numberLong: String(value) };
}

function readDate(text) {
  const spelled = text.trim().replace(" UTC", "Z").replace(" ", "T");
  const whole = /^\d{4}-\d\d-\d\d$/.test(spelled) ? `${spelled}T00:00:00Z` : spelled;
  const zoned = /(Z|[+-]\d\d:\d\d)$/.test(whole) ? whole : `${whole}Z`;
  const date = new Date(zoned);
  if (Number.isNaN(date.getTime())) throw new TypeError("This takes a date like 2026-11-23 or 2026-11-23T05:22:46Z.");
  return { $date: date.toISOString().replace(".000Z", "Z") };
}

/** Without a previous type: the value if the text is JSON, else the text itself. */
function readAny(text) {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}
