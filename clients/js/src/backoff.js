// Exponential backoff with full jitter, so that many clients do not return at the same time.

const SHORTEST = 250; // ms, the ceiling of the first delay
const LONGEST = 30_000; // ms, of all others

/**
 * Milliseconds to wait after so many failures in a row, without the last one.
 *
 * @param {number} failures
 * @param {() => number} random
 */
export const backoff = (failures, random) => random() * Math.min(LONGEST, SHORTEST * 2 ** Math.min(failures, 16));
