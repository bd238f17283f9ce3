import assert from "node:assert/strict";
import test from "node:test";

import { differences, sentence } from "../../../app/eventsync/web/describe.js";

const before = { version: 1, doc: { _id: 1, city: "Edina", tags: ["a", "b"], old: 1 } };

function told(patch, after = before) {
  return differences({ before, after, event: { op: "update", patch } }).map(sentence);
}

test("a patch is described field by field, with what was there", () => {
  const patch = [
    { op: "replace", path: "/city", value: "Mankato" },
    { op: "add", path: "/new/deep", value: { $date: "2026-11-23T05:22:46Z" } },
    { op: "remove", path: "/old" },
    { op: "replace", path: "/a~1b", value: 1 },
  ];
  assert.deepEqual(told(patch), ["city: Edina → Mankato", "new.deep: 2026-11-23 05:22:46 UTC", "old removed, was 1", "a/b: 1"]);
});

test("an insertion into a list replaces nothing", () => {
  assert.deepEqual(told([{ op: "add", path: "/tags/0", value: "z" }]), ["tags.0: z"]);
  assert.deepEqual(told([{ op: "replace", path: "/tags/0", value: "z" }]), ["tags.0: a → z"]);
});

test("a replacement is described by the fields that differ", () => {
  const after = { version: 2, doc: { _id: 1, city: "Edina", tags: ["a"], more: true } };
  assert.deepEqual(differences({ before, after, event: { op: "replace" } }).map(sentence), ["tags: [a, b] → [a]", "old removed, was 1", "more: true"]);
});

test("without the document before, only what came is described", () => {
  assert.deepEqual(differences({ event: { patch: [{ op: "replace", path: "/city", value: "X" }] } }).map(sentence), ["city: X"]);
});
