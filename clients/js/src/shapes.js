// Declared shapes: `my_orders?owner=7&state=open`, in the canonical form by which the server answers.

const OBJECT_ID = /^[0-9a-f]{24}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const PREFIXED = /^(int|uuid|str|ejson|bool|null):/;
const INTEGER = /^(0|-?[1-9]\d*)$/;
const NUMBER = /^-?\d+\.\d+$/;

/** Return true if a shape is a declared one. An id may contain a question mark, and a value a slash. */
export function isDeclared(shape) {
  return shape.split("/", 1)[0].includes("?");
}

/** The name and the values of a declared shape: `{ name, values: { owner: ["7"] } }`. */
export function parseShape(shape) {
  const mark = shape.indexOf("?");
  const values = {};
  for (const pair of shape.slice(mark + 1).split("&").filter(Boolean)) {
    const equals = pair.indexOf("=");
    const name = pair.slice(0, equals);
    values[name] = [...(values[name] ?? []), decodeURIComponent(pair.slice(equals + 1))];
  }
  return { name: shape.slice(0, mark), values };
}

/** The text of a declared shape: parameters and values sorted, each value once. */
export function shapeText(name, values) {
  const pairs = Object.keys(values)
    .sort()
    .flatMap((key) => [...new Set(values[key].map(plain))].sort(byCharacters).map((value) => `${key}=${quoted(value)}`));
  return `${name}?${pairs.join("&")}`;
}

/** The canonical form of any shape; texts that are no shape stay, for the server to refuse. */
export function canonicalShape(shape) {
  if (!isDeclared(shape)) return shape;
  try {
    const { name, values } = parseShape(shape);
    return shapeText(name, values);
  } catch {
    return shape;
  }
}

/** The value without a `str:` that changes nothing. */
function plain(value) {
  const rest = value.startsWith("str:") ? value.slice(4) : "";
  return !rest || rest === "." || rest === ".." || PREFIXED.test(rest) || OBJECT_ID.test(rest) ? value : rest;
}

function byCharacters(left, right) {
  const [a, b] = [[...left], [...right]];
  const at = a.findIndex((character, index) => character !== b[index]);
  if (at < 0) return a.length - b.length;
  return at < b.length ? a[at].codePointAt(0) - b[at].codePointAt(0) : 1;
}

function quoted(value) {
  const percent = (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(value).replace(/[!'()*]/g, percent).replaceAll("%3A", ":");
}

const READ = {
  null: (typed) => (typed === "null" ? "null:" : null),
  bool: (typed) => (["true", "false"].includes(typed) ? `bool:${typed}` : null),
  int: (typed) => (INTEGER.test(typed) ? `int:${typed}` : null),
  number: (typed) => READ.int(typed) ?? (NUMBER.test(typed) ? READ.fraction(Number(typed)) : null),
  fraction: (number) => (Number.isInteger(number) ? `int:${number}` : `ejson:${JSON.stringify(number)}`),
  oid: (typed) => (OBJECT_ID.test(typed.toLowerCase()) ? typed.toLowerCase() : null),
  uuid: (typed) => (UUID.test(typed) ? `uuid:${typed.toLowerCase()}` : null),
  date: (typed) => {
    const date = /^\d{4}-\d\d-\d\d/.test(typed) ? new Date(typed) : null;
    if (!date || Number.isNaN(date.getTime())) return null;
    return `ejson:${JSON.stringify({ $date: date.toISOString().replace(".000Z", "Z") })}`;
  },
};
const ORDER = ["oid", "uuid", "date", "bool", "null", "int", "number"];

/** The text of a value that a person has typed for a parameter of these types. What names its type stays. */
export function valueText(typed, types) {
  if (PREFIXED.test(typed)) return typed;
  if (types.includes("text")) return OBJECT_ID.test(typed) && !types.includes("oid") ? `str:${typed}` : typed;
  const read = ORDER.filter((kind) => types.includes(kind)).map((kind) => READ[kind](typed));
  return read.find((text) => text !== null) ?? typed;
}
