import assert from "node:assert/strict";
import test from "node:test";

import { guarded, patchFor } from "../../../app/eventsync/web/editor.js";
import { columnsOf, compareIds, searchable, valueAt } from "../../../app/eventsync/web/table.js";

const names = (documents, limit) => columnsOf(documents, limit).map((tokens) => tokens.join("."));

test("objects that look alike become columns of their own", () => {
  const documents = [
    { _id: 1, name: "a", place: { city: "x", geo: { at: [1, 2] } } },
    { _id: 2, name: "b", place: { city: "y", geo: { at: [3, 4] } }, extra: true },
  ];
  assert.deepEqual(names(documents), ["name", "place.city", "place.geo.at", "extra"]);
});

test("objects whose keys are data stay one cell", () => {
  const documents = ["a", "b", "c", "d"].map((key) => ({ tiers: { [key]: 1 }, at: { $date: "2026-11-23T05:22:46Z" } }));
  assert.deepEqual(names(documents), ["tiers", "at"]);
});

test("with too many, the rarest columns are left out", () => {
  assert.deepEqual(names([{ a: 1, b: 1, c: 1 }, { a: 1, c: 1 }], 2), ["a", "c"]);
});

test("integer ids are in the order of numbers", () => {
  assert.deepEqual(["int:10", "b", "int:9", "a", "int:-1"].sort(compareIds), ["a", "b", "int:-1", "int:9", "int:10"]);
});

test("values are found by their own names only", () => {
  assert.equal(valueAt({ a: { b: 1 } }, ["a", "b"]), 1);
  assert.equal(valueAt({ a: null }, ["a", "b"]), undefined);
  assert.equal(valueAt({}, ["constructor"]), undefined);
  assert.equal(valueAt({ at: { $date: "2026" } }, ["at", "$date"]), undefined, "a date has no inside");
});

test("an edit makes the objects that are missing on the way", () => {
  assert.deepEqual(patchFor({ a: { b: 1 } }, ["a", "b"], 2), [{ op: "replace", path: "/a/b", value: 2 }]);
  assert.deepEqual(patchFor({ a: {} }, ["a", "b"], 2), [{ op: "add", path: "/a/b", value: 2 }]);
  assert.deepEqual(patchFor({}, ["a", "b/c", "d"], 2), [{ op: "add", path: "/a", value: { "b/c": { d: 2 } } }]);
  assert.deepEqual(patchFor({ a: null }, ["a"], 2), [{ op: "replace", path: "/a", value: 2 }]);
});

test("an edit replaces only the value that was on the screen", () => {
  const document = { a: { "b/c": null } };
  const patch = patchFor(document, ["a", "b/c"], 2);
  assert.deepEqual(guarded(document, patch), [{ op: "test", path: "/a/b~1c", value: null }, ...patch]);
  const added = patchFor({}, ["a"], 2);
  assert.equal(guarded({}, added), added);
});

test("the filter searches values as they are shown, and no names of fields", () => {
  const document = { _id: 1, title: "Ran", cast: [{ name: "Tatsuya" }], at: { $date: "1985-06-01T00:00:00Z" }, n: { $numberLong: "9" } };
  const text = searchable(document);
  for (const found of ["Ran", "Tatsuya", "1985-06-01", "9"]) assert.ok(text.includes(found), found);
  for (const name of ["title", "cast", "name", "$date", "numberLong", "_id"]) assert.ok(!text.includes(name), name);
});
