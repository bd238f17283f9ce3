// Runs clients/vectors, whose README says what the members mean, over the core.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import test from "node:test";

import { Core } from "../src/core.js";
import { parseJson } from "../src/json.js";
import { equal } from "../src/patch.js";

const FOLDER = new URL("../../vectors/", import.meta.url);
const FILES = existsSync(FOLDER) ? readdirSync(FOLDER).filter((name) => name.endsWith(".json")).sort() : [];

test("there are vectors", () => assert.ok(FILES.length > 10, `${FILES}`));

for (const name of FILES) {
  for (const item of parseJson(readFileSync(new URL(name, FOLDER), "utf8")).cases) test(`${name}: ${item.name}`, () => new Run(item).all());
}

class Run {
  constructor(item) {
    this.item = item;
    this.now = 1_000_000;
    this.core = new Core({ clientId: item.client_id, hasToken: item.token === true });
    this.sent = [];
    this.changes = [];
    this.asked = [];
    this.acknowledged = [];
    this.refused = undefined;
    this.connects = 0;
  }

  all() {
    const { shapes, vector = {}, documents = {}, steps } = this.item;
    for (const shape of shapes) this.follow(shape, vector[shape], documents[shape]);
    this.do((core) => core.start(this.now));
    for (const [index, step] of steps.entries()) {
      this.where = `step ${index}: ${JSON.stringify(step).slice(0, 200)}`;
      this.step(step);
    }
  }

  follow(shape, position, rows = {}) {
    const saved = position ? { position, rows: Object.entries(rows) } : null;
    this.do((core) => core.follow(shape, saved, this.now));
  }

  step({ open, token, receive, close, lost, wait, follow, reach, expect }) {
    if (token !== undefined) this.answer(token);
    if (open !== undefined) this.open(open);
    if (receive) this.do((core) => core.receive(receive, this.now));
    if (close) this.do((core) => core.closed(close, this.now));
    if (lost) this.do((core) => core.closed({}, this.now));
    if (reach) this.do((core) => core.reach(reach, this.now));
    if (wait) this.runTo(this.now + wait);
    if (follow) {
      for (const shape of this.core.shapes) if (!follow.includes(shape)) this.do((core) => core.unfollow(shape, this.now));
      for (const shape of follow) this.follow(shape);
    }
    if (expect) this.check(expect);
  }

  answer(token) {
    if (this.core.status === "waiting") this.runTo(this.core.reconnectAt);
    this.do((core) => core.tokenAnswered(token, this.now));
  }

  open(how) {
    if (this.core.status === "waiting") this.runTo(this.core.reconnectAt);
    assert.equal(this.connects, 1, `${this.where}: it connects`);
    this.connects = 0;
    this.do((core) => core.opened(this.now, { oneWay: how === "one-way" }));
  }

  /** Let the clock run, like a timer that is late. */
  runTo(end) {
    this.now = end;
    this.do((core) => core.tick(end));
  }

  do(action) {
    action(this.core);
    for (const output of this.core.take()) this.take(output);
  }

  take(output) {
    if (output.type === "send") this.sent.push(output.message);
    if (output.type === "changes") this.changes.push(...output.changes);
    if (output.type === "acknowledge") this.acknowledged.push(output.vector);
    if (output.type === "ask") this.asked.push(output.why);
    if (output.type === "refused") this.refused = output.error;
    if (output.type === "connect") this.connects += 1;
    if (output.type === "disconnect") this.connects = 0;
    if (output.type === "apply") this.do((core) => core.durable(output.shape, output.step.position, this.now));
  }

  check(expect) {
    const { core, where } = this;
    const same = (value, wanted, what) =>
      assert.ok(equal(value, wanted), `${where}\n${what}: ${JSON.stringify(value)}\nwanted: ${JSON.stringify(wanted)}`);
    const known = ["status", "reason", "sent", "vector", "documents", "acknowledged", "changes", "refused", "reconnect", "asked", "stale"];
    for (const name of Object.keys(expect)) assert.ok(known.includes(name), `${where}: ${name} is not known`);
    if ("status" in expect) same(core.status, expect.status, "status");
    if ("reason" in expect) assert.ok(core.reason.includes(expect.reason), `${where}: ${core.reason}`);
    if ("sent" in expect) same(this.sent.splice(0), expect.sent, "sent");
    if ("vector" in expect) same(core.vector, expect.vector, "vector");
    if ("stale" in expect) same(core.stale, expect.stale, "stale");
    if ("acknowledged" in expect) same(this.acknowledged.splice(0), expect.acknowledged, "acknowledged");
    if ("asked" in expect) same(this.asked.splice(0), expect.asked, "asked");
    for (const [shape, wanted] of Object.entries(expect.documents ?? {})) {
      const held = core.shapes.includes(shape) ? Object.fromEntries(core.documents(shape)) : null;
      same(held, wanted, `documents of ${shape}`);
    }
    if ("changes" in expect) this.checkChanges(expect.changes, same);
    if ("refused" in expect) {
      for (const [name, value] of Object.entries(expect.refused)) same(this.refused?.[name], value, `refused.${name}`);
      this.refused = undefined;
    }
    if (expect.reconnect === null) assert.equal(core.reconnectAt, Infinity, where);
    else if (expect.reconnect) {
      const delay = core.reconnectAt - this.now;
      const [least, most] = expect.reconnect.after;
      assert.ok(delay >= least && delay <= most, `${where}: ${delay}`);
    }
  }

  checkChanges(wanted, same) {
    const found = this.changes.splice(0);
    same(found.map(({ id }) => id), wanted.map(({ id }) => id), "ids of changes");
    for (const [index, members] of wanted.entries()) {
      const { event, before = null, after = null, ...rest } = found[index];
      const whole = { ...rest, before, after, enter: event?.enter ?? false, leave: event?.leave ?? false };
      for (const [name, value] of Object.entries(members)) same(whole[name], value, `changes[${index}].${name}`);
    }
  }
}
