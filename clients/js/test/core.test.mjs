// What clients/vectors does not say of the core: what is left of one connection when the next one begins.

import assert from "node:assert/strict";
import test from "node:test";

import { Core } from "../src/core.js";

const SAVED = { position: "k:5", rows: [["a", { version: 1, doc: { _id: "a" } }]] };

/** A core that is connected; `said` returns what it has wanted since the last call, by type or as it was sent. */
function connected(options = {}) {
  const core = new Core({ random: () => 0.5, clientId: "me" });
  const said = () => core.take().map(({ type, message, shape }) => message ?? (shape === undefined ? type : `${type} ${shape}`));
  core.follow("c", SAVED, 0);
  core.start(0);
  core.opened(0, options);
  core.receive({ type: "welcome", heartbeat: 10 }, 0);
  said();
  return { core, said };
}

const snapshot = (part, last) => ({ type: "snapshot", shape: "c", position: "k:9", part, last, docs: [{ id: `${part}`, version: 1, doc: {} }] });

test("a client that is started twice connects once", () => {
  const { core, said } = connected();
  core.start(1);
  assert.deepEqual(said(), []);
});

test("a new connection is not live, and continues no answer, no subscription and no acknowledgement of the one before", () => {
  const { core, said } = connected();
  core.receive({ type: "live", shape: "c", position: "k:5" }, 0);
  core.receive(snapshot(0, false), 0);
  core.follow("d", null, 0);
  core.receive({ type: "error", code: "busy", message: "later", shape: "d", retry_after: 1 }, 0);
  core.tick(1000);
  assert.deepEqual(said().filter(({ type }) => type === "ack"), [{ type: "ack", vector: { c: "k:5" } }]);
  core.reconnect(1000);
  assert.deepEqual([core.isLive("c"), core.due], [false, 21_000]);
  core.opened(1000);
  core.receive({ type: "welcome", heartbeat: 10 }, 1000);
  core.receive(snapshot(1, true), 1000);
  assert.deepEqual([core.position("c"), core.documents("c").size, core.status], ["k:5", 1, "syncing"]);
  said();
  core.tick(2000);
  assert.deepEqual(said(), [{ type: "ack", vector: { c: "k:5" } }]);
});

test("a request of one way that has not named all shapes is made again", () => {
  const { core, said } = connected({ oneWay: true });
  core.reconnect(0);
  core.follow("d", null, 0);
  said();
  core.opened(0, { oneWay: true });
  assert.deepEqual(said(), ["disconnect", "status", "connect"]);
});
