// Extended JSON as values of JavaScript, and back: dates, ObjectIds, integers of 64 bits, bytes.
//
//   const db = createClient({ decode: native() });

import { newId } from "./ids.js";

/**
 * How an application sees the values of its documents. Neither function changes what it gets, and what `encode` makes
 * of the result of `decode` is the same value.
 *
 * @typedef {object} Codec
 * @property {(json: any) => any} decode - Extended JSON, as parsed, to what the application sees. What it
 *   throws is reported, and the document stays Extended JSON.
 * @property {(value: any) => any} encode - What the application writes to Extended JSON, which may be in it already.
 */

/** @typedef {"objectId" | "date" | "number" | "bytes"} NativeType */

/** An ObjectId. It is its Extended JSON, too: `{ $oid }`. */
export class ObjectId {
  /** @param {string} [text] - 24 hexadecimal digits; without them, a new ObjectId. */
  constructor(text = newId()) {
    if (!/^[0-9a-f]{24}$/i.test(text)) throw new TypeError(`${text} is not an ObjectId: it has 24 hexadecimal digits`);
    /** @readonly */
    this.$oid = text.toLowerCase();
  }

  /** When it was made, in whole seconds. @returns {Date} */
  get time() {
    return new Date(parseInt(this.$oid.slice(0, 8), 16) * 1000);
  }

  /** The digits, which are the id text of its document. @returns {string} */
  toString() {
    return this.$oid;
  }

  /** Whether it is the same. @param {unknown} other - One of this class or of any, or its text. @returns {boolean} */
  equals(other) {
    return String(other).toLowerCase() === this.$oid || /** @type {any} */ (other)?.$oid === this.$oid;
  }
}

const LATEST = 8.64e15; // ms; a `Date` holds no more
const INT64 = /^-?\d{1,19}$/;
const DOUBLE = /^(NaN|-?(Infinity|\d+(\.\d*)?([eE][+-]?\d+)?))$/;
const DATE = /^\d{4}-\d\d-\d\dT/;

/**
 * What each type wrapper is in JavaScript; undefined if it cannot be that exactly, and stays as it is.
 *
 * @type {Record<string, { type: NativeType, read: (inner: any) => any }>}
 */
const READ = {
  $oid: { type: "objectId", read: (text) => (/^[0-9a-f]{24}$/.test(text) ? new ObjectId(text) : undefined) },
  $date: { type: "date", read: readDate },
  $numberInt: { type: "number", read: readInteger },
  $numberLong: { type: "number", read: readInteger },
  $numberDouble: { type: "number", read: readDouble },
  $binary: { type: "bytes", read: readBytes },
};

/** @param {any} inner */
function readDate(inner) {
  const long = inner?.$numberLong;
  const time = DATE.test(inner) ? Date.parse(inner) : INT64.test(long) ? Number(long) : NaN;
  return Math.abs(time) <= LATEST ? new Date(time) : undefined;
}

/** @param {any} text */
function readDouble(text) {
  return DOUBLE.test(text) ? Number(text) : undefined;
}

/** @param {any} text */
function readInteger(text) {
  if (!INT64.test(text)) return undefined;
  return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
}

/** @param {any} inner */
function readBytes(inner) {
  if (!/^0?0$/.test(inner?.subType) || typeof inner.base64 !== "string") return undefined;
  try {
    return Uint8Array.from(atob(inner.base64), (character) => character.charCodeAt(0));
  } catch {
    return undefined; // an own write may have anything, until the server refuses it
  }
}

/**
 * Values of JavaScript for these types; for all of them without any:
 *
 * - `objectId`: an `ObjectId` of this module;
 * - `date`: a `Date`, of those that it can hold;
 * - `number`: a number, or a `bigint` for an integer beyond 2^53; `NaN` and the infinities;
 * - `bytes`: a `Uint8Array`, for binary values of subtype 0.
 *
 * All other values stay Extended JSON. Both forms can be written, whatever is decoded, and so can the types of the
 * package `bson`. `encode` throws `TypeError` for what has no Extended JSON, such as a `Map` or an invalid date.
 *
 * @param {NativeType[]} types
 * @returns {Codec}
 */
export function native(...types) {
  const chosen = Object.entries(READ).filter(([, { type }]) => !types.length || types.includes(type));
  const readers = new Map(chosen.map(([name, { read }]) => [name, read]));

  /** @param {any} value @returns {any} */
  function decode(value) {
    if (typeof value !== "object" || value === null) return value;
    if (Array.isArray(value)) return mapped(value, decode);
    const names = Object.keys(value);
    if (names.length !== 1 || names[0][0] !== "$") return membersOf(value, names, decode);
    const read = readers.get(names[0])?.(value[names[0]]);
    return read === undefined ? value : read;
  }

  return { decode, encode };
}

/** @param {any} value @returns {any} */
function encode(value) {
  switch (typeof value) {
    case "bigint":
      if (BigInt.asIntN(64, value) !== value) throw new TypeError(`${value} has more than 64 bits`);
      return { $numberLong: `${value}` };
    case "number":
      return encodeNumber(value);
    case "object":
      return value === null ? null : encodeObject(value);
    case "function":
    case "symbol":
      throw new TypeError(`a ${typeof value} has no Extended JSON`);
    default:
      return value;
  }
}

/** @param {number} value */
function encodeNumber(value) {
  if (Object.is(value, -0)) return { $numberDouble: "-0.0" };
  // A long integer in JSON would be one of 64 bits, and this is a double.
  const isPlain = Number.isSafeInteger(value) || (Number.isFinite(value) && !Number.isInteger(value));
  return isPlain ? value : { $numberDouble: `${value}` };
}

/** @param {any} value @returns {any} */
function encodeObject(value) {
  if (Array.isArray(value)) return mapped(value, encode);
  if (value instanceof Date) return encodeDate(value);
  if (value instanceof Uint8Array) return { $binary: { base64: base64Of(value), subType: "00" } };
  if (value instanceof ObjectId) return { $oid: value.$oid };
  // The types of the package `bson` know their own form.
  if (typeof value.toExtendedJSON === "function") return encode(value.toExtendedJSON({ relaxed: false }));
  const prototype = Object.getPrototypeOf(value);
  if (prototype === null || Object.getPrototypeOf(prototype) === null) {
    return membersOf(value, Object.keys(value), encode);
  }
  throw new TypeError(`a ${value.constructor?.name} has no Extended JSON`);
}

/**
 * The form in which the server writes a date: ISO 8601 for the years 1970 to 9999.
 *
 * @param {Date} date
 */
function encodeDate(date) {
  const time = date.getTime();
  if (Number.isNaN(time)) throw new TypeError("an invalid date has no Extended JSON");
  if (time < 0 || date.getUTCFullYear() > 9999) return { $date: { $numberLong: `${time}` } };
  return { $date: date.toISOString().replace(".000Z", "Z") };
}

/** @param {Uint8Array} bytes */
function base64Of(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/**
 * The list of what `map` makes of the items: the same list if it leaves all as they are.
 *
 * @param {any[]} items
 * @param {(value: any) => any} map
 */
function mapped(items, map) {
  const results = items.map((item) => map(item));
  return results.every((item, at) => Object.is(item, items[at])) ? items : results;
}

/**
 * The object of what `map` makes of the members: the same object if it leaves all as they are.
 *
 * @param {any} object
 * @param {string[]} names
 * @param {(value: any) => any} map
 */
function membersOf(object, names, map) {
  let isChanged = false;
  const members = names.map((name) => {
    const value = map(object[name]);
    isChanged ||= !Object.is(value, object[name]);
    return [name, value];
  });
  // Not by assignment, for which `__proto__` would be no key.
  return isChanged ? Object.fromEntries(members) : object;
}
