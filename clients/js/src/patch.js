// RFC 6902 JSON Patch. https://www.rfc-editor.org/rfc/rfc6902
//
// Nothing is changed in place. The result shares untouched parts with the original document, so the state before stays
// complete, and a patch that fails half way has changed nothing.

/**
 * An operation of RFC 6902.
 *
 * @typedef {{ op: string, path: string, from?: string, value?: any }} Operation
 */

export class PatchError extends Error {}

/**
 * Return the document after `patch`. Throws `PatchError` if the patch does not apply.
 *
 * @param {any} document
 * @param {readonly Operation[]} patch
 * @returns {any}
 */
export function applyPatch(document, patch) {
  if (!Array.isArray(patch)) throw new PatchError("a patch is an array of operations");
  return patch.reduce(applyOperation, document);
}

/** @param {any} document @param {Operation} operation @returns {any} */
function applyOperation(document, operation) {
  const tokens = parsePointer(operation.path);
  switch (operation.op) {
    case "add":
      return put(document, tokens, valueOf(operation));
    case "replace":
      read(document, tokens);
      return put(document, tokens, valueOf(operation), 1);
    case "remove":
      return drop(document, tokens);
    case "move":
      return move(document, parsePointer(operation.from), tokens);
    case "copy":
      return put(document, tokens, read(document, parsePointer(operation.from)));
    case "test":
      if (equal(read(document, tokens), valueOf(operation))) return document;
      throw new PatchError(`the test of ${operation.path} failed`);
    default:
      throw new PatchError(`${operation.op} is no operation`);
  }
}

/** @param {any} document @param {string[]} from @param {string[]} to */
function move(document, from, to) {
  const value = read(document, from);
  const inside = to.length > from.length && from.every((token, index) => token === to[index]);
  if (inside) throw new PatchError("a value can't be moved into itself");
  return from.length ? put(drop(document, from), to, value) : document;
}

/** @param {Operation} operation */
function valueOf(operation) {
  if (operation.value === undefined) throw new PatchError(`${operation.op} needs a value`);
  return operation.value;
}

/**
 * The reference tokens of a JSON Pointer (RFC 6901); `""` is the whole document. Throws `PatchError`.
 *
 * @param {string | undefined} pointer
 */
export function parsePointer(pointer) {
  const [start, ...tokens] = typeof pointer === "string" ? pointer.split("/") : ["no text"];
  if (start !== "") throw new PatchError(`${pointer} is no path`);
  return tokens.map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/**
 * The JSON Pointer of reference tokens.
 *
 * @param {readonly (string | number)[]} tokens
 */
export function formatPointer(tokens) {
  return tokens.map((token) => `/${String(token).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * Return the value at `tokens`. Throws `PatchError` if there is none.
 *
 * @param {any} document
 * @param {readonly string[]} tokens
 * @returns {any}
 */
export function read(document, tokens) {
  return tokens.reduce((node, token) => node[existing(node, token)], document);
}

/**
 * `token` as a key or an index of something that `node` has. Own keys only: `__proto__` is a name like any other.
 *
 * @param {any} node
 * @param {string} token
 */
function existing(node, token) {
  if (Array.isArray(node)) return index(token, node.length - 1);
  if (isObject(node) && Object.hasOwn(node, token)) return token;
  throw new PatchError(`there is no ${token}`);
}

/** @param {string} token @param {number} last */
function index(token, last) {
  if (/^(0|[1-9]\d*)$/.test(token) && Number(token) <= last) return Number(token);
  throw new PatchError(`there is no ${token}`);
}

/** @param {any} node @param {string[]} tokens @param {any} value @param {number} replaced - Values: 0 or 1. */
function put(node, tokens, value, replaced = 0) {
  if (!tokens.length) return value;
  return atParent(node, tokens, (parent, token) => {
    if (!Array.isArray(parent)) {
      if (isObject(parent)) return { ...parent, [token]: value };
      throw new PatchError(`there is no place for ${token}`);
    }
    const at = token === "-" && !replaced ? parent.length : index(token, parent.length - replaced);
    return spliced(parent, at, replaced, value);
  });
}

/** @param {any} node @param {string[]} tokens */
function drop(node, tokens) {
  if (!tokens.length) return null;
  return atParent(node, tokens, (parent, token) => {
    const at = existing(parent, token);
    if (Array.isArray(parent)) return spliced(parent, Number(at), 1);
    const { [at]: _, ...rest } = parent;
    return rest;
  });
}

/** @param {any[]} array @param {number} at @param {number} count @param {any[]} values */
function spliced(array, at, count, ...values) {
  const copy = array.slice();
  copy.splice(at, count, ...values);
  return copy;
}

/**
 * Return the document with the parent of the value at `tokens` replaced by `change(parent, last token)`.
 *
 * @param {any} node
 * @param {string[]} tokens
 * @param {(parent: any, token: string) => any} change
 * @returns {any}
 */
function atParent(node, [token, ...rest], change) {
  if (!rest.length) return change(node, token);
  const at = existing(node, token);
  const child = atParent(node[at], rest, change);
  return Array.isArray(node) ? spliced(node, Number(at), 1, child) : { ...node, [at]: child };
}

/**
 * Return true if two JSON values are equal, ignoring the order of keys.
 *
 * @param {any} left
 * @param {any} right
 * @returns {boolean}
 */
export function equal(left, right) {
  if (left === right) return true;
  if (Array.isArray(left)) {
    return Array.isArray(right) && left.length === right.length && left.every((item, at) => equal(item, right[at]));
  }
  if (!isObject(left) || !isObject(right)) return false;
  const keys = Object.keys(left);
  return (
    keys.length === Object.keys(right).length &&
    keys.every((key) => Object.hasOwn(right, key) && equal(left[key], right[key]))
  );
}

/** @param {any} value */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Return the document after a merge patch (RFC 7396). Nothing is changed in place. An Extended JSON wrapper, such as
 * `{"$date": …}`, is a value: it is never merged into.
 *
 * @param {any} document
 * @param {any} patch
 * @returns {any}
 */
export function mergePatch(document, patch) {
  const merged = new Map(isObject(document) ? Object.entries(document) : []);
  for (const [key, value] of Object.entries(patch)) {
    const before = merged.get(key);
    if (value === null) merged.delete(key);
    else merged.set(key, isMergeable(value) ? mergePatch(isMergeable(before) ? before : {}, value) : value);
  }
  // Not by assignment, for which `__proto__` would be no key.
  return Object.fromEntries(merged);
}

/**
 * Return true if a merge patch can change the inside of a value: it is an object, and no Extended JSON wrapper.
 *
 * @param {any} value
 */
export function isMergeable(value) {
  return isObject(value) && !Object.keys(value).some((key) => key.startsWith("$"));
}
