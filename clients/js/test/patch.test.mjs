import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { PatchError, applyPatch, equal, formatPointer, parsePointer } from "../src/patch.js";

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
