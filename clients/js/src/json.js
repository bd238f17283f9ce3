// JSON as the server writes it: Extended JSON, whose 64-bit integers a JavaScript number may not hold.

const LONG_DIGITS = /\d{16}/;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const INTEGER = /^-?\d+$/;

/**
 * `JSON.parse`, but integers that a JavaScript number cannot hold exactly become `{"$numberLong": "…"}`.
 *
 * @param {string} text
 * @returns {any}
 */
export function parseJson(text) {
  if (!LONG_DIGITS.test(text)) return JSON.parse(text);
  return JSON.parse(text.replace(TOKENS, (token) => (isUnsafe(token) ? `{"$numberLong":"${token}"}` : token)));
}

/**
 * Return true if a token of JSON is an integer that a JavaScript number cannot hold exactly.
 *
 * @param {string} token
 */
export function isUnsafe(token) {
  return token[0] !== '"' && INTEGER.test(token) && !Number.isSafeInteger(Number(token));
}
