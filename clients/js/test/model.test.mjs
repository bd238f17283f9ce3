// Random interleavings of everything that can happen to a client.

import test from "node:test";

import { run } from "./model.mjs";
import { count, interleave } from "./seeds.mjs";

const runs = count(1000);

test(`${runs} interleavings end with the state of the server, and show nothing that was not true`, () => {
  interleave(run, runs);
});
