// Positions: `k3f9ab2c:128` is the event 128 of a log. The log of a declared shape has a scope: `k3f9ab2c.5f2c81ab`.

/** @typedef {{ log: string, seq: number }} Barrier - A position of all shapes: its log has no scope. */

/** Split a position into its parts. @param {string} text */
export function parsePosition(text) {
  const colon = text.lastIndexOf(":");
  return { log: text.slice(0, colon), seq: Number(text.slice(colon + 1)) };
}

/**
 * The number of events from one position to another one: negative if that is behind it, and NaN, which no comparison
 * holds for, if they are of two logs.
 *
 * @param {string} from
 * @param {string} to
 */
export function distance(from, to) {
  const [own, its] = [from, to].map(parsePosition);
  return own.log === its.log ? its.seq - own.seq : NaN;
}

/**
 * Return true if a position is at or past a barrier, and undefined if it is of another log.
 *
 * @param {string} position
 * @param {Barrier} barrier
 */
export function isPast(position, barrier) {
  const { log, seq } = parsePosition(position);
  return log.split(".", 1)[0] === barrier.log ? seq >= barrier.seq : undefined;
}
