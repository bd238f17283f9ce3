import assert from "node:assert/strict";
import test from "node:test";

import { compareLines } from "../../../app/eventsync/web/lines.js";

const marks = (lines) => lines.map(({ text, same }) => (same ? " " : "*") + text);

test("lines that both texts have, in order, are the same", () => {
  const [left, right] = compareLines("a\nb\nc\nd", "a\nx\nc\ne\nd");
  assert.deepEqual(marks(left), [" a", "*b", " c", " d"]);
  assert.deepEqual(marks(right), [" a", "*x", " c", "*e", " d"]);
});

test("an empty text has no line", () => {
  const [left, right] = compareLines("", "a\nb");
  assert.deepEqual(left, []);
  assert.deepEqual(marks(right), ["*a", "*b"]);
});

test("long texts are shown without a comparison", () => {
  const long = Array.from({ length: 3000 }, (_, n) => `line ${n}`).join("\n");
  const [left] = compareLines(long, long);
  assert.equal(left.length, 3000);
  assert.ok(left.every(({ same }) => !same));
});
