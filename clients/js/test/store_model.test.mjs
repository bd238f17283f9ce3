// Random interleavings of tabs that store, fold, fail and are killed.

import assert from "node:assert/strict";
import test from "node:test";

import "fake-indexeddb/auto";

import { count } from "./seeds.mjs";
import { run } from "./store_model.mjs";

const runs = count(30);
const first = Number(process.env.MODEL_SEED ?? 0);

test(`${runs} interleavings leave the documents of the stored position, folded or not`, async () => {
  const sums = { faults: 0, kills: 0, fenced: 0, folds: 0 };
  for (let seed = first; seed < first + runs; seed += 1) {
    try {
      const model = await run(seed);
      for (const name of Object.keys(sums)) sums[name] += model[name];
    } catch (error) {
      error.message = `MODEL_SEED=${seed} MODEL_RUNS=1 repeats it: ${error.message}`;
      throw error;
    }
  }
  for (const [name, sum] of Object.entries(sums)) assert.ok(runs < 20 || sum > runs / 2, `${name}: ${sum}`);
});
