// Random interleavings of everything that can happen to a client. MODEL_RUNS: how many; MODEL_SEED: the first one.

import test from "node:test";

import { run } from "./model.mjs";

const runs = Number(process.env.MODEL_RUNS ?? 1000);
const first = Number(process.env.MODEL_SEED ?? 0);

test(`${runs} interleavings end with the state of the server, and show nothing that was not true`, () => {
  for (let seed = first; seed < first + runs; seed += 1) {
    try {
      run(seed);
    } catch (error) {
      error.message = `MODEL_SEED=${seed} MODEL_RUNS=1 repeats it: ${error.message}`;
      throw error;
    }
  }
});
