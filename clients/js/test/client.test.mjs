import assert from "node:assert/strict";
import test from "node:test";

import { vectorText } from "../src/client.js";

test("a short vector names its shapes", () => {
  assert.equal(vectorText(["a", "b/c"], { a: "k3f9ab2c:1", "b/c": "k3f9ab2c:2" }), "a=k3f9ab2c%3A1&b%2Fc=k3f9ab2c%3A2");
  assert.equal(vectorText(["a"], {}), "");
});

test("a long one is positions in the order of the shapes", () => {
  const shapes = ["a", "b", "c", "d", "e"].map((name) => name.repeat(300));
  const positions = ["k3f9ab2c:128", "k3f9ab2c:131", undefined, "zzzzzzzz:5", "zzzzzzzz:6"];
  const vector = Object.fromEntries(shapes.map((shape, at) => [shape, positions[at]]).filter(([, position]) => position));
  assert.equal(vectorText(shapes, vector), "k3f9ab2c:128,131,,zzzzzzzz:5,6");
});
