// Collections of TanStack DB itself on the shapes of a client, over a scripted transport.

import assert from "node:assert/strict";
import test from "node:test";

import { createCollection, createLiveQueryCollection, eq } from "@tanstack/db";

import { eventsyncCollectionOptions, patchBetween } from "../src/adapters/tanstack-db.js";
import { createClient, idValue, newId } from "../src/client.js";
import { ObjectId, native } from "../src/decode.js";
import { applyPatch, mergePatch } from "../src/patch.js";
import { randomOf } from "./model.mjs";
import { ScriptedServer, failingOnErrors } from "./scripted.mjs";

const CARDS = { a: { n: 1, board: "x" }, b: { n: 2, board: "y" } };

/** A client, a collection that is ready, and what a subscriber of the collection has seen, as `[type, key, n]`. */
async function collected(t, server, { shape = (db) => db.collection("cards"), persisted, ...options } = {}) {
  const db = createClient({ ...server.options, linger: 0, ...failingOnErrors(t), ...options });
  t.after(() => db.close());
  const cards = createCollection(eventsyncCollectionOptions({ shape: shape(db), persisted }));
  await cards.preload();
  const seen = [];
  const note = (changes) => seen.push(...changes.map(({ type, key, value }) => [type, key, value.n]));
  cards.subscribeChanges(note, { includeInitialState: true });
  seen.length = 0;
  return { db, cards, seen };
}

/** The row without what TanStack DB adds to it. */
const plain = (row) => row && Object.fromEntries(Object.entries(row).filter(([name]) => !name.startsWith("$")));
const turn = () => new Promise(setImmediate);
const replace = (path, value) => ({ op: "replace", path, value });

test("live queries and joins follow the documents", async (t) => {
  const server = new ScriptedServer({ cards: CARDS, boards: { x: { name: "X" }, y: { name: "Y" } } });
  const { db, cards } = await collected(t, server);
  const boards = createCollection(eventsyncCollectionOptions({ shape: db.collection("boards") }));
  const named = createLiveQueryCollection((query) =>
    query
      .from({ card: cards })
      .join({ board: boards }, ({ card, board }) => eq(card.board, board._id))
      .select(({ card, board }) => ({ id: card._id, n: card.n, name: board?.name })),
  );
  await named.preload();
  const rows = () => named.toArray.map(({ id, n, name }) => [id, n, name]).sort();
  assert.deepEqual(rows(), [["a", 1, "X"], ["b", 2, "Y"]]);
  server.events("cards", { id: "a", op: "update", version: 2, patch: [replace("/board", "y")] }, { id: "b", op: "delete", version: 2 });
  await turn();
  assert.deepEqual(rows(), [["a", 1, "Y"]]);
  const removed = { id: "a", op: "update", version: 3, patch: [{ op: "remove", path: "/n" }] };
  server.events("cards", removed);
  assert.deepEqual(plain(cards.get("a")), { _id: "a", board: "y" });
});

test("an update is shown at once, persists once the shape has it, and does not flicker", async (t) => {
  for (const isAnsweredFirst of [true, false]) {
    const server = new ScriptedServer({ cards: CARDS });
    const { cards, seen } = await collected(t, server);
    const transaction = cards.update("a", (card) => void (card.n = 5));
    assert.equal(cards.get("a").n, 5);
    const { method, path, body, headers, answer } = await server.requests.next();
    assert.deepEqual([method, path, body], ["PATCH", "/v1/collections/cards/documents/a", { n: 5 }]);
    const event = { id: "a", op: "update", version: 2, patch: [replace("/n", 5)], op_id: headers["Idempotency-Key"] };
    const steps = [() => answer(200, { id: "a", version: 2 }), () => server.events("cards", event)];
    if (!isAnsweredFirst) steps.reverse();
    steps[0]();
    await turn();
    if (isAnsweredFirst) assert.equal(transaction.state, "persisting");
    steps[1]();
    await transaction.isPersisted.promise;
    await turn();
    assert.deepEqual(plain(cards.get("a")), { _id: "a", n: 5, board: "x" });
    assert.deepEqual(seen, seen.map(() => ["update", "a", 5]));
  }
});

test("a row is inserted and deleted through the client", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { cards } = await collected(t, server);
  const id = newId();
  const inserted = cards.insert({ _id: idValue(id), n: 3 });
  assert.equal(cards.size, 3);
  const post = await server.requests.next();
  assert.deepEqual([post.method, post.body], ["POST", { _id: { $oid: id }, n: 3 }]);
  post.answer(201, { id, version: 1 });
  server.events("cards", { id, op: "create", version: 1, doc: post.body, op_id: post.headers["Idempotency-Key"] });
  await inserted.isPersisted.promise;
  assert.equal(cards.get(id).n, 3);
  const deleted = cards.delete(id);
  assert.equal(cards.has(id), false);
  const { method, path, headers, answer } = await server.requests.next();
  assert.deepEqual([method, path], ["DELETE", `/v1/collections/cards/documents/${id}`]);
  answer(200, { id, version: 2 });
  server.events("cards", { id, op: "delete", version: 2, op_id: headers["Idempotency-Key"] });
  await deleted.isPersisted.promise;
  assert.deepEqual([cards.has(id), cards.size], [false, 2]);
  assert.throws(() => cards.insert({ n: 4 }), /a row needs an _id/);
});

test("a refused write rolls back, and tells why", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { cards, seen } = await collected(t, server);
  const transaction = cards.update("a", (card) => void (card.n = 5));
  (await server.requests.next()).answer(403, { code: "forbidden", detail: "not yours" });
  await assert.rejects(transaction.isPersisted.promise, { message: "not yours" });
  await turn();
  assert.equal(cards.get("a").n, 1);
  assert.deepEqual(seen.filter(([, , n], at) => n !== seen[at - 1]?.[2]), [["update", "a", 5], ["update", "a", 1]]);
});

test("with `queued` a transaction persists once it is stored, and the client takes a refusal back", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const rejections = [];
  const { cards } = await collected(t, server, { persisted: "queued", onRejected: ({ problem }) => rejections.push(problem.code) });
  const transaction = cards.update("a", (card) => void (card.n = 5));
  await transaction.isPersisted.promise;
  await turn();
  assert.equal(cards.get("a").n, 5);
  server.events("cards", { id: "a", op: "update", version: 2, patch: [replace("/board", "z")] });
  await turn();
  assert.deepEqual(plain(cards.get("a")), { _id: "a", n: 5, board: "z" });
  (await server.requests.next()).answer(403, { code: "forbidden" });
  await turn();
  assert.deepEqual([plain(cards.get("a")), rejections], [{ _id: "a", n: 1, board: "z" }, ["forbidden"]]);
});

test("own writes that were made beside the collection are rows of it, too", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { db, cards } = await collected(t, server);
  await db.collection("cards").insert({ _id: "c", n: 3 });
  assert.equal(cards.get("c").n, 3);
  (await server.requests.next()).answer(422, { code: "invalid" });
  await turn();
  assert.equal(cards.has("c"), false);
});

test("rows have native values, and keys are id texts of any kind", async (t) => {
  const at = { $date: "2026-12-01T00:00:00Z" };
  const server = new ScriptedServer({ cards: { "ejson:5.5": { _id: 5.5, at }, "int:7": { _id: 7 }, "str:.": { _id: "." } } });
  const { cards } = await collected(t, server, { decode: native() });
  assert.deepEqual([...cards.keys()].sort(), ["ejson:5.5", "int:7", "str:."]);
  cards.update("ejson:5.5", (card) => void (card.at = new Date(1)));
  const { path, body } = await server.requests.next();
  assert.deepEqual([decodeURIComponent(path.split("/").at(-1)), body], ["ejson:5.5", { at: { $date: "1970-01-01T00:00:00.001Z" } }]);
  assert.deepEqual(cards.get("ejson:5.5").at, new Date(1));
  const _id = new ObjectId();
  cards.insert({ _id, at: new Date(2) });
  assert.deepEqual((await server.requests.next()).body, { _id: { $oid: `${_id}` }, at: { $date: "1970-01-01T00:00:00.002Z" } });
  assert.equal(cards.get(`${_id}`)._id, _id);
});

test("a shape that is followed already is there at once, and a copied row is written without what TanStack DB adds", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { db, cards } = await collected(t, server);
  const second = createCollection(eventsyncCollectionOptions({ shape: db.collection("cards"), id: "second" }));
  const ready = second.preload();
  assert.deepEqual([second.size, second.status], [2, "ready"]);
  await ready;
  const copy = { ...cards.get("a"), _id: "c" };
  assert.ok(Object.keys(copy).some((name) => name.startsWith("$")));
  second.insert(copy);
  assert.deepEqual((await server.requests.next()).body, { _id: "c", n: 1, board: "x" });
});

test("the shape is followed while the collection is in use", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { db, cards } = await collected(t, server);
  await server.said.next(({ type }) => type === "hello");
  await cards.cleanup();
  await server.said.next(({ type }) => type === "closed");
  assert.equal(db.collection("cards").isFollowed, false);
  await cards.preload();
  assert.deepEqual(cards.toArray.map(({ n }) => n).sort(), [1, 2]);
});

test("a collection whose shape is refused says so", async (t) => {
  const server = new ScriptedServer();
  server.refused.add("cards");
  const db = createClient({ ...server.options, linger: 0 });
  t.after(() => db.close());
  const cards = createCollection(eventsyncCollectionOptions({ shape: db.collection("cards") }));
  await assert.rejects(cards.preload(), /cards is not yours/);
  assert.equal(cards.status, "error");
});

test("a write, its event, its answer and writes of others in any order never show an older state again", async (t) => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = randomOf(seed);
    const server = new ScriptedServer({ cards: { a: { n: 0, others: 0 } } });
    const { db, cards } = await collected(t, server, { persisted: ["confirmed", "queued"][seed % 2] });
    const states = [];
    cards.subscribeChanges((changes) => states.push(...changes.map(({ value: { n, others } }) => [n, others])));
    let version = 1;
    let others = 0;
    for (let n = 1; n <= 4; n += 1) {
      const transaction = cards.update("a", (card) => void (card.n = n));
      const { headers, answer } = await server.requests.next();
      let written;
      const steps = [
        () => {
          written = version += 1;
          server.events("cards", { id: "a", op: "update", version, patch: [replace("/n", n)], op_id: headers["Idempotency-Key"] });
        },
        () => server.events("cards", { id: "a", op: "update", version: (version += 1), patch: [replace("/others", (others += 1))] }),
        () => answer(200, { id: "a", version: written ?? version + 1 }),
      ];
      for (let order = steps.map((step) => [random(), step]).sort(([left], [right]) => left - right); order.length; ) {
        order.shift()[1]();
        if (random() < 0.5) await turn();
      }
      await transaction.isPersisted.promise;
    }
    await turn();
    assert.deepEqual(plain(cards.get("a")), { _id: "a", n: 4, others: 4 }, `seed ${seed}`);
    for (const [at, state] of states.entries()) {
      const before = states[at - 1] ?? [0, 0];
      assert.ok(state.every((value, index) => value >= before[index]), `seed ${seed}: ${JSON.stringify(states)}`);
    }
    await db.close();
  }
});

test("the patch between two documents leads from one to the other, and spares what it does not change", () => {
  const NAMES = ["a", "b", "c", "$oid", "x/y", "__proto__"];
  const value = (random, depth) => {
    const choice = random();
    if (depth && choice < 0.4) {
      const names = NAMES.filter((name) => random() < 0.5 && (depth < 3 || name[0] !== "$"));
      return Object.fromEntries(names.map((name) => [name, value(random, depth - 1)]));
    }
    if (depth && choice < 0.5) return [value(random, depth - 1), value(random, depth - 1)];
    return [null, 0, 1, "", "x", true, {}][Math.floor(random() * 7)];
  };
  const apply = (doc, patch) => (Array.isArray(patch) ? applyPatch(doc, patch) : mergePatch(doc, patch));
  let merges = 0;
  for (let seed = 1; seed <= 3000; seed += 1) {
    const random = randomOf(seed);
    const [before, after] = [1, 2].map(() => Object.fromEntries(["a", "b", "c"].map((name) => [name, value(random, 3)])));
    const patch = patchBetween(before, after);
    assert.deepStrictEqual(apply(before, patch), after, `seed ${seed}`);
    merges += Array.isArray(patch) ? 0 : 1;
  }
  assert.ok(merges > 300 && merges < 2900, `${merges}`);
  assert.deepEqual(patchBetween({ a: { x: 1, y: 2 }, b: 1, c: 1 }, { a: { x: 1, y: 3 }, b: 1 }), { a: { y: 3 }, c: null });
  assert.deepEqual(patchBetween({ a: 1 }, { a: null }), [{ op: "add", path: "/a", value: null }]);
  assert.deepEqual(patchBetween({ at: { $date: "x" } }, { at: { $date: "y" } }), { at: { $date: "y" } });
  assert.deepEqual(patchBetween({ a: 1 }, { a: 1 }), {});
});
