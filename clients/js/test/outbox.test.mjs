import assert from "node:assert/strict";
import test from "node:test";

import { Outbox } from "../src/outbox.js";
import { overlay } from "../src/view.js";

const write = (key, changes = {}) => ({ key, order: Number(key), at: 0, collection: "c", id: "a", method: "PATCH", body: { n: Number(key) }, ...changes });

/** An outbox that follows one shape, whose position and rows a test sets. */
function standing({ shape = "c", position = "k:5", rows = {}, wallClock = () => 0 } = {}) {
  const outbox = new Outbox({ random: () => 0, wallClock });
  const held = { position, rows };
  outbox.follow(shape, { collection: "c", position: () => held.position, row: (id) => held.rows[id] });
  outbox.start(0);
  const all = [];
  const taken = (type) => {
    all.push(...outbox.take());
    return all.filter((output) => output.type === type).map((output) => output.write?.key ?? output.key ?? true);
  };
  const add = (item) => (outbox.add(item), outbox.stored(item.key, 0));
  return { outbox, held, taken, add, all };
}

test("a write is sent once it is stored, one at a time of a document, others side by side", () => {
  const { outbox, taken, add } = standing();
  outbox.add(write("1"));
  assert.deepEqual([taken("enqueue"), taken("request"), outbox.shown("c", "a").length], [["1"], [], 1]);
  outbox.stored("1", 0);
  add(write("2"));
  add(write("3", { id: "b" }));
  assert.deepEqual(taken("request"), ["1", "3"]);
  outbox.answered("1", { id: "a", version: 2 }, 0);
  assert.deepEqual(taken("request"), ["1", "3", "2"]);
});

test("at most six requests are under way", () => {
  const { taken, add, outbox } = standing();
  for (let key = 1; key <= 9; key += 1) add(write(`${key}`, { id: `${key}` }));
  assert.equal(taken("request").length, 6);
  outbox.answered("3", { id: "3", version: 1 }, 0);
  assert.equal(taken("request").length, 7);
});

test("an event settles a write whose answer was lost, and it is not sent again", () => {
  const { outbox, taken, add } = standing();
  add(write("1"));
  outbox.eventsApplied("c", [{ op_id: "1", version: 2, id: "a" }], 10);
  assert.deepEqual([outbox.size, outbox.shown("c", "a"), taken("done"), taken("dequeue")], [0, [], ["1"], ["1"]]);
  outbox.lost("1", 10);
  outbox.tick(60_000);
  assert.deepEqual(taken("request"), ["1"]);
});

test("a problem that comes after the event is none", () => {
  const { outbox, taken, add } = standing();
  outbox.follow("c/a", { collection: "c", id: "a", position: () => "k:1", row: () => undefined });
  add(write("1"));
  outbox.eventsApplied("c", [{ op_id: "1", version: 2, id: "a" }], 10);
  assert.equal(outbox.size, 1, "the other shape lacks it");
  outbox.refused("1", { status: 403, code: "forbidden" }, undefined, 10);
  assert.deepEqual([taken("rejected"), outbox.size], [[], 1]);
});

for (const [status, code, retryAfter] of [[500, "internal"], [503, "unavailable", 2], [429, "rate_limited", 2], [409, "conflict", 1], [408, "request_timeout"], [401, "unauthenticated"]]) {
  test(`${status} ${code} is tried again with the same key`, () => {
    const { outbox, taken, add } = standing();
    outbox.random = () => 0.5;
    add(write("1"));
    outbox.refused("1", { status, code }, retryAfter, 0);
    assert.deepEqual([taken("rejected"), taken("request")], [[], ["1"]]);
    assert.equal(outbox.due, (retryAfter ?? 0) * 1000 + 125);
    outbox.tick(outbox.due);
    assert.deepEqual(taken("request"), ["1", "1"]);
  });
}

for (const [status, code] of [[403, "forbidden"], [404, "not_found"], [412, "version_mismatch"], [422, "patch_failed"], [400, "malformed"], [409, "conflict"], [413, "too_large"]]) {
  test(`${status} ${code} takes the write back`, () => {
    const { outbox, taken, add } = standing();
    add(write("1"));
    outbox.refused("1", { status, code }, undefined, 0);
    assert.deepEqual([taken("rejected"), taken("dequeue"), outbox.shown("c", "a"), outbox.size], [["1"], ["1"], [], 0]);
  });
}

test("while the server cannot be reached nothing else is sent, until a connection says that it can", () => {
  const { outbox, taken, add } = standing();
  outbox.random = () => 0.5;
  add(write("1"));
  outbox.lost("1", 0);
  add(write("2", { id: "b" }));
  assert.deepEqual(taken("request"), ["1"]);
  assert.equal(outbox.due, 125);
  outbox.hurry(1);
  assert.deepEqual(taken("request"), ["1", "1", "2"]);
});

test("an answer that came after the event's rows settles by version; without rows only by equality", () => {
  const { outbox, held, add } = standing();
  add(write("1"));
  held.rows.a = { version: 7, doc: { _id: "a", n: 9 } };
  outbox.answered("1", { id: "a", version: 7, doc: { _id: "a", n: 1 } }, 0);
  assert.equal(outbox.size, 1, "another life of the document may have had this version");
  outbox.rowsReplaced("c", 0);
  assert.equal(outbox.size, 0);
});

test("a write that changed nothing has no event, and settles by equality", () => {
  const { outbox, held, add } = standing();
  held.rows.a = { version: 7, doc: { _id: "a", n: 1 } };
  add(write("1"));
  outbox.answered("1", { id: "a", version: 7, doc: { n: 1, _id: "a" } }, 0);
  assert.equal(outbox.size, 0);
});

test("a document that enters a shape comes with what was written outside of it", () => {
  const { outbox, held, add } = standing();
  add(write("1"));
  outbox.answered("1", { id: "a", version: 7 }, 0);
  held.rows.a = { version: 8, doc: {} };
  outbox.eventsApplied("c", [{ op_id: "other", version: 8, id: "b", enter: true }], 0);
  assert.equal(outbox.size, 1, "that is another document");
  outbox.eventsApplied("c", [{ op_id: "other", version: 8, id: "a", enter: true }], 0);
  assert.equal(outbox.size, 0);
});

test("rows that came before the write was sent say nothing of it", () => {
  const { outbox, held, add } = standing();
  outbox.add(write("1"));
  held.rows.a = { version: 9, doc: {} };
  outbox.rowsReplaced("c", 0);
  outbox.stored("1", 0);
  outbox.answered("1", { id: "a", version: 2 }, 0);
  assert.equal(outbox.size, 1);
});

test("a barrier settles what no event does, once the shape has reached it", () => {
  const { outbox, held, taken, add } = standing();
  add(write("1", { method: "DELETE", body: undefined }));
  outbox.answered("1", { id: "a", version: 8 }, 0);
  assert.equal(outbox.due, 2000);
  outbox.tick(2000);
  assert.deepEqual(taken("barrier"), [true]);
  outbox.barrierReached({ log: "k", seq: 9 }, 2010);
  assert.equal(outbox.size, 1);
  held.position = "k:8";
  outbox.moved("c", 2020);
  assert.equal(outbox.size, 1);
  held.position = "k.5f2c81ab:9";
  outbox.moved("c", 2030);
  assert.equal(outbox.size, 0);
});

test("a barrier covers only what was answered before it was asked for", () => {
  const { outbox, held, add } = standing();
  add(write("1"));
  add(write("2", { id: "b" }));
  outbox.answered("1", { id: "a", version: 8 }, 0);
  outbox.tick(2000);
  outbox.answered("2", { id: "b", version: 8 }, 2001);
  held.position = "k:9";
  outbox.barrierReached({ log: "k", seq: 9 }, 2010);
  assert.deepEqual([outbox.shown("c", "a").length, outbox.shown("c", "b").length], [0, 1]);
});

test("a barrier of another log than the shape's is asked for again, not at once", () => {
  const { outbox, held, taken, add } = standing();
  add(write("1"));
  outbox.answered("1", { id: "a", version: 8 }, 0);
  outbox.tick(2000);
  outbox.barrierReached({ log: "new", seq: 3 }, 2010);
  held.position = "k:9";
  outbox.moved("c", 2020);
  assert.deepEqual([outbox.size, taken("barrier").length], [1, 1]);
  outbox.tick(4010);
  assert.equal(taken("barrier").length, 2);
  held.position = "new:3";
  outbox.barrierReached({ log: "new", seq: 3 }, 4020);
  assert.equal(outbox.size, 0);
});

test("a barrier that fails is asked for again after the time that the server names", () => {
  const { outbox, taken, add } = standing();
  add(write("1"));
  outbox.answered("1", { id: "a", version: 8 }, 0);
  outbox.tick(2000);
  outbox.barrierFailed(5, 2000);
  outbox.tick(6999);
  assert.equal(taken("barrier").length, 1);
  assert.equal(outbox.due, 7000);
  outbox.tick(7000);
  assert.equal(taken("barrier").length, 2);
});

test("writes of a former process are sent again, and what the store has may have them", () => {
  const { outbox, held, taken } = standing();
  held.rows.a = { version: 7, doc: {} };
  outbox.restore([write("1")], 0);
  assert.deepEqual(taken("request"), ["1"]);
  outbox.answered("1", { id: "a", version: 6, repeated: true }, 0);
  assert.equal(outbox.size, 0);
});

test("a write that may be older than its key is sent with its version, or not at all", () => {
  const { outbox, all, taken } = standing({ wallClock: () => 24 * 3600_000 });
  outbox.stop();
  outbox.restore([write("1", { base: 4 }), write("2", { id: "b" }), write("3", { id: "d", method: "POST" })], 0);
  outbox.start(0);
  assert.deepEqual([taken("request"), taken("rejected")], [["1", "3"], ["2"]]);
  assert.deepEqual(all.filter(({ type }) => type === "request").map(({ ifMatch }) => ifMatch), ['"4"', undefined]);
});

test("only what was never sent can be cancelled", () => {
  const { outbox, taken, add } = standing();
  outbox.add(write("1"));
  outbox.cancel("1", { status: 0, code: "store_failed" });
  add(write("2"));
  outbox.cancel("2", { status: 0, code: "store_failed" });
  assert.deepEqual([taken("rejected"), outbox.size], [["1"], 1]);
});

test("a shape that is not followed any more holds no write back", () => {
  const { outbox, add } = standing();
  add(write("1"));
  outbox.answered("1", { id: "a", version: 8 }, 0);
  outbox.unfollow("c");
  assert.equal(outbox.size, 0);
});

test("writes are laid over a document in order", () => {
  const row = { version: 3, doc: { _id: "a", n: 1, list: [] } };
  const over = (base, ...writes) => overlay(base, writes);
  assert.equal(over(row), row);
  assert.deepEqual(over(row, { method: "PATCH", body: { n: 2 } }, { method: "PATCH", body: [{ op: "add", path: "/list/-", value: 1 }] }), { version: 3, doc: { _id: "a", n: 2, list: [1] }, pending: true });
  assert.equal(over(row, { method: "PATCH", body: [{ op: "remove", path: "/none" }] }), row, "what does not apply is left to the server");
  assert.equal(over(undefined, { method: "PATCH", body: { n: 2 } }), undefined);
  assert.equal(over(row, { method: "DELETE" }), undefined);
  assert.deepEqual(over(undefined, { method: "POST", body: { _id: "a" } }), { version: 0, doc: { _id: "a" }, pending: true });
  assert.equal(over(row, { method: "POST", body: { _id: "a" } }), row, "the server refuses it");
  assert.deepEqual(over(row, { method: "DELETE" }, { method: "PUT", body: { _id: "a", n: 5 } }), { version: 3, doc: { _id: "a", n: 5 }, pending: true });
  assert.equal(overlay(undefined, [{ method: "POST", body: { _id: "a" } }], () => false), undefined);
});
