import assert from "node:assert/strict";
import test from "node:test";

import { brief, editText, isEditable, isScalar, kindOf, readEdit, show } from "../../../app/eventsync/web/values.js";
import { parseJson } from "../../../clients/js/src/json.js";

test("integers that a JavaScript number can't hold stay exact", () => {
  const text = '{"a": 9007199254740993, "b": [-9223372036854775808, 9007199254740991], "c": 12345678901234567.5, "d": "9007199254740993 \\" 9007199254740993", "e": 1e20}';
  assert.deepEqual(parseJson(text), {
    a: { $numberLong: "9007199254740993" },
    b: [{ $numberLong: "-9223372036854775808" }, 9007199254740991],
    c: 12345678901234567.5,
    d: '9007199254740993 " 9007199254740993',
    e: 1e20,
  });
  assert.deepEqual(parseJson('{"n": 1}'), { n: 1 });
  assert.throws(() => parseJson('{"n": 00000000000000001'), SyntaxError);
});

const SHOWN = [
  [undefined, "missing", ""],
  [null, "null", "null"],
  ["text", "string", "text"],
  [1.5, "number", "1.5"],
  [{ $numberDouble: "NaN" }, "number", "NaN"],
  [false, "boolean", "false"],
  [{ $oid: "59a47286cfa9a3a73e51e72c" }, "id", "59a47286cfa9a3a73e51e72c"],
  [{ $date: "2026-11-23T05:22:46Z" }, "date", "2026-11-23 05:22:46 UTC"],
  [{ $date: "2026-11-23T05:22:46.405Z" }, "date", "2026-11-23 05:22:46.405 UTC"],
  [{ $date: { $numberLong: "-86400000" } }, "date", "1969-12-31 00:00:00 UTC"],
  [{ $date: { $numberLong: "9223372036854775807" } }, "date", "9223372036854776000 ms"],
  [{ $numberLong: "9007199254740993" }, "long", "9007199254740993"],
  [{ $numberDecimal: "1.10" }, "decimal", "1.10"],
  [{ $binary: { base64: "AAECAw==", subType: "00" } }, "binary", "binary, 4 bytes"],
  [{ $binary: { base64: "ABEiM0RVZneImaq7zN3u/w==", subType: "04" } }, "binary", "00112233-4455-6677-8899-aabbccddeeff"],
  [{ $timestamp: { t: 1, i: 2 } }, "timestamp", "1970-01-01 00:00:01 UTC, 2"],
  [{ $regularExpression: { pattern: "^a", options: "i" } }, "pattern", "/^a/i"],
  [{ $code: "f()" }, "code", "f()"],
  [{ $minKey: 1 }, "min key", "min key"],
  [[1, { a: null }], "array", "[1, { a: null }]"],
  [{ a: 1, b: "x" }, "object", "{ a: 1, b: x }"],
];

for (const [value, kind, text] of SHOWN) {
  test(`${JSON.stringify(value)} is a ${kind}`, () => {
    assert.equal(kindOf(value), kind);
    assert.equal(show(value), text);
    assert.equal(isScalar(value), kind !== "array" && kind !== "object");
  });
}

test("long values are cut, and lines joined", () => {
  assert.equal(brief("one\n  two", 20), "one two");
  assert.equal(brief("x".repeat(30), 10), `${"x".repeat(9)}…`);
});

test("what is not changed reads back as the same value", () => {
  for (const [value, kind] of SHOWN) {
    if (!isEditable(value) || kind === "missing" || value?.$date?.$numberLong) continue;
    assert.deepEqual(readEdit(editText(value), value), value);
  }
});

test("an edit keeps the type", () => {
  const date = { $date: "2026-11-23T05:22:46Z" };
  assert.deepEqual(readEdit(" 7 ", 6), 7);
  assert.deepEqual(readEdit("7", "6"), "7");
  assert.deepEqual(readEdit("9007199254740993", 6), { $numberLong: "9007199254740993" });
  assert.deepEqual(readEdit("-Infinity", 6), { $numberDouble: "-Infinity" });
  assert.deepEqual(readEdit("8", { $numberLong: "7" }), { $numberLong: "8" });
  assert.deepEqual(readEdit("2.50", { $numberDecimal: "1" }), { $numberDecimal: "2.50" });
  assert.deepEqual(readEdit("true", false), true);
  assert.deepEqual(readEdit("2026-01-02", date), { $date: "2026-01-02T00:00:00Z" });
  assert.deepEqual(readEdit("2026-01-02 03:04:05 UTC", date), { $date: "2026-01-02T03:04:05Z" });
  assert.deepEqual(readEdit("2026-01-02T03:04:05.5+01:00", date), { $date: "2026-01-02T02:04:05.500Z" });
  assert.deepEqual(readEdit("59A47286CFA9A3A73E51E72C", { $oid: "0".repeat(24) }), { $oid: "59a47286cfa9a3a73e51e72c" });
  assert.deepEqual(readEdit("12", null), 12);
  assert.deepEqual(readEdit("plain", undefined), "plain");
});

test("what is not of the type is refused with a sentence", () => {
  const wrong = [
    ["seven", 7], ["", 7], ["0x10", 7], ["1.5", { $numberLong: "1" }], ["9223372036854775808", { $numberLong: "1" }],
    ["9223372036854775808", 7], ["yes", true], ["tomorrow", { $date: "2026-11-23T05:22:46Z" }], ["xyz", { $oid: "0".repeat(24) }],
  ];
  for (const [text, previous] of wrong) assert.throws(() => readEdit(text, previous), { name: "TypeError", message: /^This takes / });
});

test("what one line can't hold is not edited in place", () => {
  for (const value of [[], {}, { $binary: { base64: "", subType: "00" } }, { $minKey: 1 }]) assert.equal(isEditable(value), false);
});
