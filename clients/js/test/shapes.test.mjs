import assert from "node:assert/strict";
import test from "node:test";

import { canonicalShape, isDeclared, parseShape, shapeText, valueText } from "../src/shapes.js";

test("a declared shape differs from a collection and a document", () => {
  assert.deepEqual(["cards", "cards/1", "cards/a?b", "cards?", "cards?a=1", "cards?a=b/c"].map(isDeclared), [false, false, false, true, true, true]);
});

test("a shape is brought into the server's form", () => {
  const forms = {
    "cards?b=2&a=1": "cards?a=1&b=2",
    "cards?a=2&a=1&a=2": "cards?a=1&a=2",
    "cards?a=int%3A7": "cards?a=int:7",
    "cards?a=x/y z": "cards?a=x%2Fy%20z",
    "cards?a=ü!'()*~_.-": "cards?a=%C3%BC%21%27%28%29%2A~_.-",
    "cards?a=str:x&b=str:int:7&c=str:&d=str:..": "cards?a=x&b=str:int:7&c=str:&d=str:..",
    "cards?a=%F0%9F%99%82&a=%EF%BF%BD": "cards?a=%EF%BF%BD&a=%F0%9F%99%82",
    "cards?a=ab&a=a": "cards?a=a&a=ab",
    "cards?": "cards?",
    "cards?a=%": "cards?a=%",
    "cards/x?b&a": "cards/x?b&a",
    "cards/str:x": "cards/x",
    "cards/str:str": "cards/str",
    "cards/str:": "cards/str:",
    "cards/.": "cards/str:.",
    "cards/a\0b": 'cards/ejson:"a\\u0000b"',
    "cards/uuid:0F8FAD5BD9CB469FA16570867728950E": "cards/uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
    'cards/ejson:"str:x"': "cards/str:str:x",
    "cards/ejson:5": "cards/int:5",
    "cards/ejson:5.0": "cards/ejson:5.0",
    "cards/ejson:null": "cards/ejson:null",
    'cards/ejson:{"$oid":"59a47286cfa9a3a73e51e72c"}': "cards/59a47286cfa9a3a73e51e72c",
    "cards/59a47286cfa9a3a73e51e72c": "cards/59a47286cfa9a3a73e51e72c",
    "cards/int:9007199254740993": "cards/int:9007199254740993",
  };
  for (const [text, form] of Object.entries(forms)) assert.equal(canonicalShape(text), form);
});

test("a text that is no id stays, for the server to refuse", () => {
  for (const id of ["", "int:abc", "int:007", "int:1.5", "int:1e3", "uuid:zz", `uuid:${"z".repeat(32)}`, "uuid:0f8f", "ejson:{", "ejson:[1]"]) {
    assert.equal(canonicalShape(`cards/${id}`), `cards/${id}`);
  }
  assert.equal(canonicalShape("cards/\ud800a😀"), "cards/\ufffda😀", "a lone surrogate would make the message unreadable");
});

test("the values come back from the text", () => {
  const values = { board: ["a/b c&=", "int:7"], _x: ["null:"] };
  assert.deepEqual(parseShape(shapeText("my_cards", values)), { name: "my_cards", values });
});

test("a typed value becomes one of the parameter's type", () => {
  const typed = [
    ["7", ["text"], "7"],
    ["7", ["int"], "int:7"],
    ["7", ["text", "int"], "7"],
    ["int:7", ["text", "int"], "int:7"],
    ["7.5", ["number"], "ejson:7.5"],
    ["7.0", ["number"], "int:7"],
    ["true", ["bool"], "bool:true"],
    ["true", ["text"], "true"],
    ["null", ["int", "null"], "null:"],
    ["59A47286CFA9A3A73E51E72C", ["oid"], "59a47286cfa9a3a73e51e72c"],
    ["59a47286cfa9a3a73e51e72c", ["text"], "str:59a47286cfa9a3a73e51e72c"],
    ["59a47286cfa9a3a73e51e72c", ["oid", "text"], "59a47286cfa9a3a73e51e72c"],
    ["0F8FAD5B-D9CB-469F-A165-70867728950E", ["uuid"], "uuid:0f8fad5b-d9cb-469f-a165-70867728950e"],
    ["2026-11-23", ["date"], 'ejson:{"$date":"2026-11-23T00:00:00Z"}'],
    ["seven", ["int"], "seven"],
    ["5", ["any"], "5"],
  ];
  for (const [text, types, value] of typed) assert.equal(valueText(text, types), value, `${text} as ${types}`);
});
