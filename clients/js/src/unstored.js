// What a tab holds of shapes and no tab is known to have stored: each can become the one that stores, at any moment.

import { joined } from "./persister.js";
import { distance } from "./positions.js";

/** @typedef {import("./store.js").Step} Step */

const LONGEST = 64; // steps of a shape; more are joined, so a store that is full costs memory for rows and no more

export class Unstored {
  /** @type {Map<string, { stand: string | null, steps: Step[] }>} `stand`: where the first step begins. */
  #shapes = new Map();

  /** A shape was loaded from the store, or was not there. @param {string} shape @param {string | null} position */
  begin(shape, position) {
    this.#shapes.set(shape, { stand: position, steps: [] });
  }

  /** @param {string} shape @param {Step} step */
  apply(shape, step) {
    const steps = this.#shapes.get(shape)?.steps;
    if (!steps) return;
    steps.push(step);
    if (steps.length > LONGEST) steps.push(joined(...(/** @type {[Step, Step]} */ (steps.splice(-2)))));
  }

  /** The shape is removed from the store; what follows is a snapshot. @param {string} shape */
  forget(shape) {
    if (this.#shapes.has(shape)) this.begin(shape, null);
  }

  /** The shape is not followed any more. @param {string} shape */
  end(shape) {
    this.#shapes.delete(shape);
  }

  /** The store has a shape as it was at a position. @param {string} shape @param {string} position */
  durable(shape, position) {
    const unstored = this.#shapes.get(shape);
    if (!unstored) return;
    const count = 1 + unstored.steps.findLastIndex((step) => distance(step.position, position) >= 0);
    for (const step of unstored.steps.splice(0, count)) unstored.stand = step.position;
  }

  /** The position at which the next step of each shape begins. @returns {Map<string, string>} */
  get stands() {
    const known = [...this.#shapes].flatMap(([shape, { stand }]) => (stand === null ? [] : [[shape, stand]]));
    return new Map(/** @type {[string, string][]} */ (known));
  }

  /** The steps of each shape as one. @returns {[shape: string, step: Step][]} */
  get steps() {
    return [...this.#shapes].flatMap(([shape, { steps }]) => (steps.length ? [[shape, steps.reduce(joined)]] : []));
  }
}
