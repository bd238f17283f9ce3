import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { PatchError, applyPatch, equal, formatPointer, mergePatch, parsePointer } from "../src/patch.js";

// The public suite, https://github.com/json-patch/json-patch-tests
for (const name of ["json-patch-spec_tests.json", "json-patch-tests.json"]) {
  const cases = JSON.parse(readFileSync(new URL(`../../../tests/data/${name}`, import.meta.url)));
  for (const [index, { comment, doc, patch, expected, error, disabled }] of cases.entries()) {
    if (disabled || !patch) continue;
    test(`${name} ${index}: ${comment ?? error ?? JSON.stringify(patch)}`, () => {
      const before = structuredClone(doc);
      if (error === undefined) {
        const after = applyPatch(doc, patch);
        if (expected !== undefined) assert.deepEqual(after, expected);
      } else {
        assert.throws(() => applyPatch(doc, patch), PatchError);
      }
      assert.deepEqual(doc, before, "the document before must stay as it was");
    });
  }
}

test("what a patch does not touch is shared, not copied", () => {
  const before = { left: { deep: [1] }, right: 1 };
  assert.equal(applyPatch(before, [{ op: "replace", path: "/right", value: 2 }]).left, before.left);
});

test("a value can't be moved into itself", () => {
  assert.throws(() => applyPatch({ a: { b: 1 } }, [{ op: "move", from: "/a", path: "/a/b" }]), PatchError);
});

test("__proto__ is a name like any other, and never a way out", () => {
  const after = applyPatch(JSON.parse('{"a": 1}'), [{ op: "add", path: "/__proto__", value: { bad: true } }]);
  assert.equal(JSON.stringify(after), '{"a":1,"__proto__":{"bad":true}}');
  assert.equal(after.bad, undefined);
  assert.equal({}.bad, undefined);
  assert.throws(() => applyPatch({}, [{ op: "add", path: "/constructor/x", value: 1 }]), PatchError);
  assert.throws(() => applyPatch({}, [{ op: "add", path: "/__proto__/x", value: 1 }]), PatchError);
});

test("pointers escape and unescape", () => {
  for (const tokens of [[], [""], ["a/b", "m~n"], ["~1"], ["0"]]) assert.deepEqual(parsePointer(formatPointer(tokens)), tokens);
});

test("equality tells types apart and ignores the order of keys", () => {
  assert.ok(equal({ a: 1, b: [1, null] }, { b: [1, null], a: 1 }));
  for (const [left, right] of [[1, "1"], [null, {}], [[], {}], [{ a: undefined }, { b: 1 }], [[1], [1, 2]]]) assert.ok(!equal(left, right));
});

test("merge patches as in RFC 7396, for documents", () => {
  const cases = [
    [{ a: "b" }, { a: "c" }, { a: "c" }], [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }], [{ a: "b" }, { a: null }, {}],
    [{ a: "b", b: "c" }, { a: null }, { b: "c" }], [{ a: ["b"] }, { a: "c" }, { a: "c" }], [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }], [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }], [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ];
  for (const [before, patch, after] of cases) assert.deepEqual(mergePatch(before, patch), after);
});

test("a merge patch replaces Extended JSON as a whole, and knows no special names", () => {
  const date = { $date: "2026-11-23T05:22:46Z" };
  assert.deepEqual(mergePatch({ at: date, in: { x: 1 } }, { at: { $oid: "6553f1a2b3c4d5e6f7a8b9c0" }, in: date }), { at: { $oid: "6553f1a2b3c4d5e6f7a8b9c0" }, in: date });
  assert.deepEqual(mergePatch({ at: date }, { at: { year: 2026 } }), { at: { year: 2026 } });
  const after = mergePatch({ a: 1 }, JSON.parse('{"__proto__": {"bad": true}}'));
  assert.equal(JSON.stringify(after), '{"a":1,"__proto__":{"bad":true}}');
  assert.equal(after.bad, undefined);
});
