// What `decode` makes of Extended JSON and what is written back: by itself, beside the package `bson`, and in a client.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import test from "node:test";

import * as bson from "bson";

import { createClient, idText } from "../src/client.js";
import { ObjectId, native } from "../src/decode.js";
import { parseJson } from "../src/json.js";
import { randomOf } from "./model.mjs";
import { ScriptedServer, failingOnErrors } from "./scripted.mjs";

const { decode, encode } = native();
const OID = "6553f1a2b3c4d5e6f7a8b9c0";
const bytes = (...values) => Uint8Array.from(values);

/** JSON as the server writes it → what the application sees. */
const SEEN = [
  ['{"$oid":"6553f1a2b3c4d5e6f7a8b9c0"}', new ObjectId(OID)],
  ['{"$date":"2026-12-01T00:00:00Z"}', new Date(Date.UTC(2026, 11, 1))],
  ['{"$date":"1970-01-01T00:00:00.001Z"}', new Date(1)],
  ['{"$date":"9999-12-31T23:59:59.999Z"}', new Date(253402300799999)],
  ['{"$date":{"$numberLong":"-1"}}', new Date(-1)],
  ['{"$date":{"$numberLong":"-62135596800001"}}', new Date(-62135596800001)],
  ['{"$date":{"$numberLong":"8640000000000000"}}', new Date(8.64e15)],
  ["9007199254740993", 9007199254740993n],
  ["-9223372036854775808", -9223372036854775808n],
  ["9223372036854775807", 9223372036854775807n],
  ["9007199254740991", 9007199254740991],
  ["5", 5],
  ["0.1", 0.1],
  ['{"$numberDouble":"NaN"}', NaN],
  ['{"$numberDouble":"Infinity"}', Infinity],
  ['{"$numberDouble":"-Infinity"}', -Infinity],
  ['{"$binary":{"base64":"3q2+7w==","subType":"00"}}', bytes(0xde, 0xad, 0xbe, 0xef)],
  ['{"$binary":{"base64":"","subType":"00"}}', bytes()],
];

/** JSON that stays as it is. */
const KEPT = [
  '{"$date":{"$numberLong":"8640000000000001"}}',
  '{"$date":{"$numberLong":"-9223372036854775808"}}',
  '{"$date":"some time"}',
  '{"$date":"5"}',
  '{"$numberDouble":"five"}',
  '{"$numberLong":"five"}',
  '{"$binary":{"base64":"!","subType":"00"}}',
  '{"$oid":"short"}',
  '{"$binary":{"base64":"c//SZESzTGmQ6OfR38A11A==","subType":"04"}}',
  '{"$binary":{"base64":"AAA=","subType":"80"}}',
  '{"$numberDecimal":"9.90"}',
  '{"$numberDecimal":"NaN"}',
  '{"$timestamp":{"t":1700000000,"i":1}}',
  '{"$regularExpression":{"pattern":"^a/","options":"i"}}',
  '{"$code":"f()"}',
  '{"$minKey":1}',
  '{"$maxKey":1}',
  '{"$opaque":{"type":"05","base64":"AAAAAA=="}}',
  '{"$x":6}',
  '"text"',
  '"Grüße 𝄞 \\u0000"',
  "true",
  "null",
  "[]",
  "{}",
];

for (const [text, value] of SEEN) {
  test(`${text} is seen as a value of JavaScript, and written as it was`, () => {
    const json = parseJson(text);
    assert.deepStrictEqual(decode(json), value);
    assert.equal(decode(json)?.constructor, value?.constructor);
    assert.deepStrictEqual(encode(decode(json)), json);
  });
}

for (const text of KEPT) {
  test(`${text} stays as it is`, () => {
    const json = parseJson(text);
    assert.equal(decode(json), json);
    assert.deepStrictEqual(encode(json), json);
  });
}

test("values are decoded at any depth, and what has none stays the same object", () => {
  const at = { $date: "1970-01-01T00:00:00.001Z" };
  const json = { only: { at }, list: [{ list: [at] }], reference: { $ref: "cards", $id: { $oid: OID } }, plain: { a: [1, { b: "x" }] } };
  const seen = decode(json);
  const reference = { $ref: "cards", $id: new ObjectId(OID) };
  assert.deepStrictEqual(seen, { only: { at: new Date(1) }, list: [{ list: [new Date(1)] }], reference, plain: json.plain });
  assert.equal(seen.plain, json.plain);
  assert.deepStrictEqual(encode(seen), json);
});

test("numbers that JSON would change are written with their type", () => {
  const written = [-0, 2 ** 53, -(2 ** 63), 1e300, 5n, NaN].map(encode);
  const doubles = ["-0.0", "9007199254740992", "-9223372036854776000", "1e+300"].map((text) => ({ $numberDouble: text }));
  assert.deepStrictEqual(written, [...doubles, { $numberLong: "5" }, { $numberDouble: "NaN" }]);
  assert.deepStrictEqual(decode(written), [-0, 2 ** 53, -(2 ** 63), 1e300, 5, NaN]);
});

test("only the named types are decoded, and all are written", () => {
  const json = { at: { $date: "2026-12-01T00:00:00Z" }, long: { $numberLong: "9007199254740993" } };
  const { long, at } = native("date").decode(json);
  assert.deepStrictEqual([long, at], [json.long, new Date("2026-12-01")]);
  assert.deepStrictEqual(native("date").encode({ long: 9007199254740993n, at }), { long: json.long, at: json.at });
});

test("what has no Extended JSON is refused", () => {
  class Card {}
  for (const value of [new Map(), new Set(), /x/, new Date(NaN), 2n ** 63n, () => {}, Symbol("x"), new Card()]) {
    assert.throws(() => encode({ list: [value] }), TypeError);
  }
  assert.throws(() => new ObjectId("x"), TypeError);
});

test("an ObjectId has its text and its time, and equals others", () => {
  const id = new ObjectId(OID.toUpperCase());
  assert.deepEqual([`${id}`, JSON.stringify(id), idText(id)], [OID, `{"$oid":"${OID}"}`, OID]);
  assert.equal(id.time.toISOString(), "2023-11-14T22:16:02.000Z");
  assert.ok([OID, { $oid: OID }, new ObjectId(OID), new bson.ObjectId(OID)].every((other) => id.equals(other)));
  assert.ok([new ObjectId(), null, undefined, "", {}].every((other) => !id.equals(other)));
});

// --- random documents of all types ------------------------------------------------------------------------------------

const NAMES = ["a", "b", "", "__proto__", "constructor", "toString", "a.b", "a/b", "m~n", "0", "ü"];

/** A random value of `bson`, of one of all types that the server takes. */
function value(random, depth) {
  const below = (count) => Math.floor(random() * count);
  const octets = (count) => Buffer.from(Array.from({ length: count }, () => below(256)));
  const long = () => new bson.Long(below(2 ** 32) | 0, below(2 ** 32) | 0);
  const makers = [
    () => new bson.Int32(below(2 ** 32) | 0),
    long,
    () => bson.Long.fromNumber([2 ** 53, -(2 ** 53), 2 ** 53 + 2][below(3)]),
    () => new bson.Double([NaN, Infinity, -Infinity, 0.5, -1.25, 1e-300, 5e-324, random() - 0.5][below(8)]),
    () => new Date([0, -1, 253402300800000, below(2e12), -8.64e15, 8.64e15][below(6)]),
    () => new bson.ObjectId(octets(12)),
    () => new bson.Binary(octets(below(5))),
    () => new bson.Binary(octets(16), 4),
    () => new bson.Binary(octets(3), 0x80),
    () => bson.Decimal128.fromString(["9.90", "-0", "1E+6144", "NaN", "-Infinity"][below(5)]),
    () => new bson.Timestamp({ t: below(2 ** 31), i: below(100) }),
    () => new bson.BSONRegExp("^a/", "i"),
    () => new bson.Code("f()"),
    () => new bson.Code("f(x)", { x: new Date(below(1e12)) }),
    () => new bson.MinKey(),
    () => new bson.MaxKey(),
    () => new bson.DBRef("cards", new bson.ObjectId(octets(12))),
    () => ["", "text", "𝄞\u0000", "2026-12-01", "$date"][below(5)],
    () => random() < 0.5,
    () => null,
  ];
  if (depth && random() < 0.2) return Array.from({ length: below(4) }, () => value(random, depth - 1));
  if (depth && random() < 0.3) return Object.fromEntries(NAMES.filter(() => random() < 0.3).map((name) => [name, value(random, depth - 1)]));
  return makers[below(makers.length)]();
}

/** The text that the server would send: longs are plain numbers, however long. */
function serverText(document) {
  const canonical = bson.EJSON.stringify(document, { relaxed: false });
  const relaxed = canonical.replace(/\{"\$number(?:Int|Long)":"(-?\d+)"\}/g, "$1").replace(/\{"\$numberDouble":"(-?[\d.]+(?:[eE][+-]?\d+)?)"\}/g, "$1");
  return relaxed.replace(/\{"\$date":(-?\d+)\}/g, (_, millis) => {
    const time = Number(millis);
    const isLong = time < 0 || time > 253402300799999;
    return JSON.stringify({ $date: isLong ? { $numberLong: millis } : new Date(time).toISOString().replace(".000Z", "Z") });
  });
}

test("random documents of all types survive a round trip, with the native forms of everything that has one", () => {
  const natives = { Date: 0, BigInt: 0, Uint8Array: 0, ObjectId: 0 };
  for (let seed = 1; seed <= 1000; seed += 1) {
    const random = randomOf(seed);
    const text = serverText(Object.fromEntries(NAMES.map((name) => [name, value(random, 3)])));
    const json = parseJson(text);
    const seen = decode(json);
    assert.deepStrictEqual(encode(seen), json, `seed ${seed}: ${text}`);
    assert.deepStrictEqual(encode(json), json, `seed ${seed}: ${text}`);
    JSON.stringify(seen, function count(name) {
      const kind = this[name]?.constructor?.name;
      if (kind in natives) natives[kind] += 1;
      return typeof this[name] === "bigint" ? null : this[name] instanceof Uint8Array ? null : this[name];
    });
  }
  assert.ok(Object.values(natives).every((count) => count > 300), JSON.stringify(natives));
});

test("values of the package bson are written with their types", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const random = randomOf(seed);
    const document = { list: [value(random, 2), value(random, 2)], map: value(random, 1) };
    const written = bson.EJSON.parse(JSON.stringify(encode(document)), { relaxed: false });
    assert.deepStrictEqual(Buffer.from(bson.serialize(written)), Buffer.from(bson.serialize(document)), `seed ${seed}`);
  }
});

const VECTORS = new URL("../../vectors/values.json", import.meta.url);
test("the odd values of the vectors survive a round trip", { skip: !existsSync(VECTORS) && "the package is not in its repository" }, () => {
  const { cases } = parseJson(readFileSync(VECTORS, "utf8"));
  for (const { name, steps } of cases) assert.deepStrictEqual(encode(decode(steps)), steps, name);
  const { doc } = cases[0].steps[2].receive.docs[0];
  const { long, nan, date, early, oid, bytes: octets, uuid } = decode(doc);
  assert.deepStrictEqual([long, nan, date, early], [9007199254740993n, NaN, new Date("2026-12-01"), new Date(-62135596800001)]);
  assert.deepStrictEqual([oid, octets, uuid], [new ObjectId(OID), bytes(0xde, 0xad, 0xbe, 0xef), doc.uuid]);
});

// --- in a client ------------------------------------------------------------------------------------------------------

function client(t, server, options) {
  const db = createClient({ ...server.options, linger: 0, ...failingOnErrors(t), ...options });
  t.after(() => db.close());
  return db;
}

const live = (db) => new Promise((resolve) => db.on("status", ({ name }) => name === "live" && resolve()));

test("a client shows and writes native values, and a confirmed write keeps the identity of its document", async (t) => {
  const at = { $date: "2026-12-01T00:00:00Z" };
  const server = new ScriptedServer({ cards: { a: { at, n: 1 }, b: { at } } });
  const db = client(t, server, { decode: native() });
  const cards = db.collection("cards");
  const notices = [];
  cards.subscribe(({ changes }) => notices.push(...changes));
  const confirmed = cards.changes();
  await live(db);
  assert.deepStrictEqual(cards.list, [{ _id: "a", at: new Date("2026-12-01"), n: 1 }, { _id: "b", at: new Date("2026-12-01") }]);
  assert.equal((await confirmed.next()).value.after, cards.documents.get("a"));
  const [, b] = cards.list;

  const { done, key } = await cards.patch("a", { at: new Date(1), big: 2n ** 60n });
  assert.deepStrictEqual(cards.get("a"), { _id: "a", at: new Date(1), n: 1, big: 2n ** 60n });
  const shown = cards.get("a");
  const request = await server.requests.next();
  const wire = { at: { $date: "1970-01-01T00:00:00.001Z" }, big: { $numberLong: "1152921504606846976" } };
  assert.deepEqual(request.body, wire);
  request.answer(200, { id: "a", version: 2, doc: { _id: "a", n: 1, ...wire } });
  assert.deepStrictEqual((await done).doc, shown);
  const patch = [{ op: "replace", path: "/at", value: wire.at }, { op: "add", path: "/big", value: wire.big }];
  server.events("cards", { id: "a", op: "update", version: 2, patch, op_id: key });
  assert.deepEqual([cards.documents.get("a").version, cards.documents.get("a").pending], [2, undefined]);
  assert.equal(cards.get("a"), shown);
  assert.equal(cards.get("b"), b);
  const last = notices.at(-1);
  assert.deepStrictEqual([last.before.doc, last.after.doc, last.after.version], [shown, shown, 2]);

  await cards.patch("a", [{ op: "replace", path: "/at", value: new Date(0) }]);
  assert.deepEqual((await server.requests.next()).body, [{ op: "replace", path: "/at", value: { $date: "1970-01-01T00:00:00Z" } }]);
  const { id } = await cards.insert({ _id: new ObjectId(OID), raw: bytes(1) });
  assert.equal(id, OID);
  assert.deepEqual((await server.requests.next()).body, { _id: { $oid: OID }, raw: { $binary: { base64: "AQ==", subType: "00" } } });
  await assert.rejects(cards.insert({ at: new Map() }), TypeError);

  const past = cards.at("a", 1);
  (await server.requests.next(({ method }) => method === "GET")).answer(200, { id: "a", version: 1, doc: { _id: "a", at } });
  assert.deepStrictEqual((await past).doc.at, new Date("2026-12-01"));
});

test("a shape's parameters and its `matches` take native values", async (t) => {
  const server = new ScriptedServer();
  const db = client(t, server, { decode: native() });
  const seen = [];
  const matches = ({ due }) => (seen.push(due), due > new Date(0));
  const mine = db.shape("mine", { owner: new ObjectId(OID), board: 7n }, { collection: "cards", matches });
  assert.equal(mine.text, `mine?board=int:7&owner=${OID}`);
  mine.subscribe(() => {});
  await live(db);
  await mine.insert({ _id: "a", due: new Date(5) });
  await mine.insert({ _id: "b", due: new Date(-5) });
  assert.deepStrictEqual([[...mine.documents.keys()], seen], [["a"], [new Date(5), new Date(-5)]]);
});

test("without `decode`, integers beyond 2^53 survive a round trip, and a bigint is refused", async (t) => {
  const server = new ScriptedServer();
  const db = client(t, server);
  const cards = db.collection("cards");
  cards.subscribe(() => {});
  await live(db);
  const event = '{"seq":2,"collection":"cards","id":"a","op":"create","base":0,"version":1,"doc":{"_id":"a","n":-9223372036854775807}}';
  server.send(`{"type":"events","shape":"cards","from":"k:1","to":"k:2","events":[${event}]}`);
  assert.deepEqual(cards.get("a"), { _id: "a", n: { $numberLong: "-9223372036854775807" } });
  await cards.replace("b", { ...cards.get("a"), _id: "b" });
  assert.deepEqual((await server.requests.next()).body, { _id: "b", n: { $numberLong: "-9223372036854775807" } });
  await assert.rejects(cards.patch("a", { n: 1n }), TypeError);
  assert.equal(db.status.pending, 1);
});
