// Ids of documents: the text by which URLs and events name them, and the value that `_id` has.

import { parseJson } from "./json.js";

export const OBJECT_ID = /^[0-9a-f]{24}$/;
const NO_UUID = /^$|^uuid:.*[^\da-f-]/i; // and no text
const AMBIGUOUS = /^(int|uuid|str|ejson):/;

/**
 * Random bytes in hex. `crypto.randomUUID` exists only on pages from loopback or over HTTPS.
 *
 * @param {number} count
 */
export function randomHex(count) {
  return hex(crypto.getRandomValues(new Uint8Array(count)));
}

/** @param {Uint8Array} bytes */
function hex(bytes) {
  return [...bytes].map((byte) => digits(byte, 2)).join("");
}

/** @param {number} number @param {number} length */
function digits(number, length) {
  return number.toString(16).padStart(length, "0");
}

const process = randomHex(5);
let counter = parseInt(randomHex(3), 16);

/** A new ObjectId, as its text: seconds, 5 random bytes of this process, and a counter. @returns {string} */
export function newId() {
  counter = (counter + 1) % 0x1000000;
  return digits(Math.floor(Date.now() / 1000), 8) + process + digits(counter, 6);
}

/**
 * The text of an `_id`, as the server writes it. Throws `TypeError` for types whose text only the server makes.
 *
 * @param {any} value - Extended JSON.
 * @returns {string}
 */
export function idText(value) {
  if (typeof value === "string") return textOf(value);
  if (typeof value === "number" && Number.isSafeInteger(value)) return `int:${value}`;
  if (OBJECT_ID.test(value?.$oid)) return value.$oid;
  const integer = value?.$numberInt ?? value?.$numberLong;
  if (typeof integer === "string" && /^(0|-?[1-9]\d*)$/.test(integer)) return `int:${integer}`;
  const uuid = value?.$uuid ?? uuidOf(value?.$binary);
  if (typeof uuid === "string") return `uuid:${uuid.toLowerCase()}`;
  throw new TypeError("an _id made here is a string, an integer, an ObjectId or a UUID");
}

/** @param {string} value */
function textOf(value) {
  if (value.includes("\u0000")) return `ejson:${JSON.stringify(value)}`;
  const isPlain = value && value !== "." && value !== ".." && !AMBIGUOUS.test(value) && !OBJECT_ID.test(value);
  return isPlain ? value : `str:${value}`;
}

/** @param {any} binary */
function uuidOf(binary) {
  if (binary?.subType !== "04") return undefined;
  const digits = hex(Uint8Array.from(atob(binary.base64), (char) => char.charCodeAt(0)));
  return digits.length === 32 ? digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5") : undefined;
}

/** The `_id` that a text names, in relaxed Extended JSON. @param {string} text @returns {any} */
export function idValue(text) {
  if (OBJECT_ID.test(text)) return { $oid: text };
  const colon = text.indexOf(":");
  const rest = text.slice(colon + 1);
  switch (AMBIGUOUS.exec(text)?.[1]) {
    case "int":
      return Number.isSafeInteger(Number(rest)) ? Number(rest) : { $numberLong: rest };
    case "uuid": {
      const bytes = (rest.replaceAll("-", "").match(/../g) ?? []).map((digits) => parseInt(digits, 16));
      return { $binary: { base64: btoa(String.fromCharCode(...bytes)), subType: "04" } };
    }
    case "str":
      return rest;
    case "ejson":
      return parseJson(rest);
    default:
      return text;
  }
}

/**
 * The text of the same id by which the server answers; text that only the server can read stays.
 *
 * @param {string} text
 */
export function canonicalId(text) {
  try {
    const value = idValue(text);
    const isOther = typeof value === "number" ? !text.endsWith(`:${value}`) : NO_UUID.test(text);
    return isOther ? text : idText(value);
  } catch {
    return text;
  }
}

/**
 * The text of a value of a parameter of a declared shape.
 *
 * @param {any} value - A string is text; a value that names its type, such as `int:7`, stays.
 */
export function parameterText(value) {
  if (typeof value === "boolean") return `bool:${value}`;
  if (value === null) return "null:";
  return typeof value === "string" ? value : idText(value);
}
