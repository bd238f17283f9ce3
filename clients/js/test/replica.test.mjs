import assert from "node:assert/strict";
import test from "node:test";

import { Replica } from "../src/replica.js";

const SHAPE = "orders";
const at = (seq, log = "aaaaaaaa") => `${log}:${seq}`;
const row = (id, version = 1, doc = { _id: id }) => ({ id, version, doc });

function snapshot(seq, docs, { part = 0, last = true } = {}) {
  return { type: "snapshot", shape: SHAPE, position: at(seq), part, last, docs };
}

function frame(from, to, ...events) {
  return { type: "events", shape: SHAPE, from: at(from), to: at(to), events };
}

function create(seq, id, doc = { _id: id }) {
  return { seq, id, op: "create", base: 0, version: 1, doc };
}

function update(seq, id, version, patch) {
  return { seq, id, op: "update", base: version - 1, version, patch };
}

/** A replica at `aaaaaaaa:10` with one document. */
function standing() {
  const replica = new Replica();
  replica.hold(SHAPE);
  replica.apply(snapshot(10, [row("a", 1, { _id: "a", n: 1 })]));
  return replica;
}

function content(replica) {
  return Object.fromEntries([...replica.documents(SHAPE)].map(([id, { version, doc }]) => [id, [version, doc]]));
}

test("a snapshot counts once its last part has come", () => {
  const replica = standing();
  assert.equal(replica.apply(snapshot(20, [row("b")], { last: false })), null);
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["a"], { orders: at(10) }]);
  const { kind, changes } = replica.apply(snapshot(20, [row("c")], { part: 1 }));
  assert.equal(kind, "snapshot");
  assert.deepEqual(changes.map(({ id, before, after }) => [id, !!before, !!after]), [["b", false, true], ["c", false, true], ["a", true, false]]);
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["b", "c"], { orders: at(20) }]);
});

test("half a snapshot is forgotten with its connection", () => {
  const replica = standing();
  replica.apply(snapshot(20, [row("b")], { last: false }));
  replica.reconnected();
  replica.apply(snapshot(21, [row("c")]));
  assert.deepEqual(Object.keys(content(replica)), ["c"]);
});

test("events are applied in order, and the position is that of the frame", () => {
  const replica = standing();
  const { changes } = replica.apply(
    frame(8, 14, create(11, "b"), update(12, "a", 2, [{ op: "replace", path: "/n", value: 2 }]), { seq: 14, id: "b", op: "delete", base: 1, version: 2 }),
  );
  assert.deepEqual(content(replica), { a: [2, { _id: "a", n: 2 }] });
  assert.deepEqual(replica.vector, { orders: at(14) });
  assert.deepEqual(changes.map(({ event, before, after }) => [event.seq, before?.version, after?.version]), [[11, undefined, 1], [12, 1, 2], [14, 1, undefined]]);
  assert.equal(changes[1].before.doc.n, 1);
});

test("events that are here already are skipped, and positions never go back", () => {
  const replica = standing();
  const patch = [{ op: "replace", path: "/n", value: 2 }];
  replica.apply(frame(10, 12, update(11, "a", 2, patch)));
  const again = replica.apply(frame(10, 11, update(11, "a", 2, [{ op: "test", path: "/n", value: "never" }])));
  assert.deepEqual([again.kind, again.changes], ["events", []]);
  const mixed = replica.apply(frame(9, 13, update(11, "a", 2, patch), create(13, "b")));
  assert.deepEqual(mixed.changes.map(({ event }) => event.seq), [13]);
  replica.apply({ type: "live", shape: SHAPE, position: at(3) });
  replica.apply({ type: "progress", vector: { orders: at(4) } });
  assert.deepEqual(replica.vector, { orders: at(13) });
});

test("a frame that begins beyond the own position is a hole and changes nothing", () => {
  const replica = standing();
  const before = content(replica);
  assert.equal(replica.apply(frame(11, 12, create(12, "b"))).kind, "hole");
  const elsewhere = { ...frame(0, 12, create(12, "b")), from: at(0, "bbbbbbbb"), to: at(12, "bbbbbbbb") };
  assert.equal(replica.apply(elsewhere).kind, "hole");
  assert.deepEqual([content(replica), replica.vector], [before, { orders: at(10) }]);
});

test("a patch that does not apply gives up the position, never the connection's word", () => {
  const replica = standing();
  const failing = frame(10, 12, update(11, "a", 2, [{ op: "replace", path: "/n", value: 2 }]), update(12, "a", 3, [{ op: "remove", path: "/missing" }]));
  assert.equal(replica.apply(failing).kind, "hole");
  assert.equal(replica.documents(SHAPE).get("a").doc.n, 1, "nothing of the frame is applied");
  assert.deepEqual(replica.vector, {}, "only a snapshot helps");
  assert.equal(replica.apply(frame(10, 12, create(12, "b"))), null);
  replica.apply(snapshot(15, [row("z")]));
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["z"], { orders: at(15) }]);
});

test("an update of an unknown document is no update", () => {
  const replica = standing();
  assert.equal(replica.apply(frame(10, 11, update(11, "nobody", 2, []))).kind, "hole");
  assert.deepEqual(replica.vector, {});
});

test("squashed documents are put and removed at once with the last part", () => {
  const replica = standing();
  const squashed = (part, last, docs) => ({ type: "squashed", shape: SHAPE, from: at(9), to: at(30), part, last, docs });
  assert.equal(replica.apply(squashed(0, false, [row("b")])), null);
  assert.deepEqual(Object.keys(content(replica)), ["a"]);
  replica.apply(squashed(1, true, [{ id: "a", deleted: true }]));
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["b"], { orders: at(30) }]);
  assert.equal(replica.apply({ ...squashed(0, true, []), from: at(31), to: at(32) }).kind, "hole");
  const old = replica.apply(squashed(0, true, [{ id: "b", deleted: true }]));
  assert.deepEqual([old.changes, Object.keys(content(replica))], [[], ["b"]], "what is older than the position is not applied");
});

test("half a squash is void when another message begins, or the connection does", () => {
  const squashed = (part, last, docs, to = 30) => ({ type: "squashed", shape: SHAPE, from: at(10), to: at(to), part, last, docs });
  const replica = standing();
  replica.apply(squashed(0, false, [row("b")]));
  replica.reconnected();
  replica.apply(squashed(0, false, [row("c")]));
  replica.apply(squashed(0, true, [row("d")], 31));
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["a", "d"], { orders: at(31) }]);
  replica.apply({ ...squashed(0, false, [row("e")], 40), from: at(31) });
  replica.apply(snapshot(41, [row("f")]));
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["f"], { orders: at(41) }]);
});

test("a squash brings what was deleted and made again, and events continue from its end", () => {
  const replica = standing();
  const docs = [row("a", 5, { _id: "a", n: 5 }), { id: "never", deleted: true }];
  const done = replica.apply({ type: "squashed", shape: SHAPE, from: at(10), to: at(30), part: 0, last: true, docs });
  assert.deepEqual(done.changes.map(({ id, before, after }) => [id, before?.version, after?.version]), [["a", 1, 5]]);
  replica.apply(frame(29, 31, update(31, "a", 6, [{ op: "replace", path: "/n", value: 6 }])));
  assert.deepEqual([content(replica), replica.vector], [{ a: [6, { _id: "a", n: 6 }] }, { orders: at(31) }]);
});

test("a reset keeps the documents to look at, and asks for a snapshot", () => {
  const replica = standing();
  assert.equal(replica.apply({ type: "reset", shape: SHAPE, reason: "unknown_log" }).kind, "reset");
  assert.deepEqual([Object.keys(content(replica)), replica.vector], [["a"], {}]);
});

test("live and progress move positions forward, of the same log only", () => {
  const replica = standing();
  assert.equal(replica.live, false);
  replica.apply({ type: "live", shape: SHAPE, position: at(17) });
  assert.equal(replica.live, true);
  replica.apply({ type: "progress", vector: { orders: at(19), unknown: at(50) } });
  replica.apply({ type: "progress", vector: { orders: at(99, "bbbbbbbb") } });
  assert.deepEqual(replica.vector, { orders: at(19) });
});

test("messages and shapes that it does not know are ignored", () => {
  const replica = standing();
  for (const message of [{ type: "welcome" }, { type: "pong" }, { type: "toString", shape: SHAPE }, { ...snapshot(50, []), shape: "others" }]) {
    assert.equal(replica.apply(message), null);
  }
  replica.forget(SHAPE);
  assert.equal(replica.apply(frame(10, 11, create(11, "b"))), null);
});

test("each step for a store has the rows and the position that they lead to", () => {
  const replica = new Replica();
  replica.hold(SHAPE);
  assert.equal(replica.apply(snapshot(9, [row("x")], { last: false })), null);
  assert.deepEqual(replica.apply(snapshot(10, [row("a")])).step, { position: at(10), put: [["a", { version: 1, doc: { _id: "a" } }]], remove: [], clear: true });
  const { step } = replica.apply(frame(10, 13, create(11, "b"), { seq: 12, id: "b", op: "delete", base: 1, version: 2 }, create(13, "c")));
  assert.deepEqual(step, { position: at(13), put: [["c", { version: 1, doc: { _id: "c" } }]], remove: ["b"], clear: false });
});

test("a shape is held from what was saved, and unchanged rows keep their identity", () => {
  const replica = new Replica();
  const saved = { version: 1, doc: { _id: "a" } };
  replica.hold(SHAPE, { position: at(10), rows: [["a", saved]] });
  assert.deepEqual(replica.vector, { orders: at(10) });
  replica.apply(snapshot(12, [row("a"), row("b")]));
  assert.equal(replica.documents(SHAPE).get("a"), saved);
});
