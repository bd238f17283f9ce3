// A model of everything around the engine: a server with its log, a network that loses messages and answers, a store
// that is behind, and an application. `run(seed)` drives them by one random interleaving and checks after each input
// that what the application sees of a shape is a state that was true, plus its own writes that are not in that state.

import assert from "node:assert/strict";

import { Engine } from "../src/engine.js";
import { equal } from "../src/patch.js";
import { distance, parsePosition } from "../src/positions.js";
import { overlay } from "../src/view.js";

export const COLLECTION = "c";
export const SHAPES = {
  c: { info: { collection: COLLECTION }, scope: "", has: () => true },
  "c/a": { info: { collection: COLLECTION, id: "a" }, scope: "", has: (id) => id === "a" },
  "mine?m=int:1": {
    info: { collection: COLLECTION, matches: (doc) => doc.m === 1 },
    scope: ".5f2c81ab",
    has: (_id, doc) => doc.m === 1,
  },
};

/** Random numbers that a seed repeats (mulberry32). */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The patch of an event: it does not lead to the same state where it is applied to another one. */
function patchOf(before, after, body) {
  if (Array.isArray(body)) return body;
  return Object.keys(after).flatMap((key) => {
    if (equal(before[key], after[key])) return [];
    const change = { op: key in before ? "replace" : "add", path: `/${key}`, value: after[key] };
    return key in before ? [{ op: "test", path: `/${key}`, value: before[key] }, change] : [change];
  });
}

/** The server: its documents, its log, the state after each event, and the answers to keys. */
export class Server {
  log = "aaaaaaaa";
  documents = new Map();
  events = []; // { seq, id, before, after, event }
  states = [new Map()]; // by seq
  births = [new Map()]; // by seq: id → the seq that created the document
  answers = new Map();
  refusals = new Map(); // key → problem, so that a late repeat of a refused request does not succeed
  appliedAt = new Map(); // key → seq

  begin() {
    for (const id of ["a", "b"]) this.write({ method: "PUT", id, body: { _id: id, m: 1, list: [] } });
  }

  get head() {
    return this.events.length;
  }

  /** Another log begins, with the documents as they are. */
  renew(name) {
    this.log = name;
    this.events = [];
    this.states = [new Map(this.documents)];
    this.births = [new Map(this.births.at(-1))];
    this.appliedAt = new Map([...this.appliedAt.keys()].map((key) => [key, 0]));
  }

  /** Write as somebody, and return a problem or the answer. */
  write({ method, id, body, key, ifMatch }) {
    const kept = key && this.answers.get(key);
    if (kept) return { answer: { ...kept, repeated: true } };
    const before = this.documents.get(id);
    const problem = (status, code) => this.refuse(key, { status, code });
    if (this.refusals.has(key)) return { problem: this.refusals.get(key) };
    if (method === "POST" && before) return problem(409, "conflict");
    if ((method === "PATCH" || method === "DELETE") && !before) return problem(404, "not_found");
    if (ifMatch !== undefined && ifMatch !== `"${before?.version}"`) return problem(412, "version_mismatch");
    let doc;
    if (method === "PATCH") {
      const next = overlay(before, [{ method, body }])?.doc;
      if (next === undefined) return problem(422, "patch_failed");
      doc = next;
    } else if (method !== "DELETE") {
      doc = body;
    }
    const version = (before?.version ?? 0) + 1;
    const answer = { id, version, doc };
    if (key) this.answers.set(key, { id, version });
    if (before && doc && equal(before.doc, doc)) {
      if (key) this.appliedAt.set(key, this.head);
      return { answer: { ...answer, version: before.version } };
    }
    const after = doc && { version, doc };
    const op = !after ? "delete" : !before ? "create" : method === "PUT" ? "replace" : "update";
    const event = { seq: this.head + 1, collection: COLLECTION, id, op, base: version - 1, version, ...(key && { op_id: key }) };
    if (op === "update") event.patch = patchOf(before.doc, doc, body);
    else if (doc) event.doc = doc;
    this.events.push({ seq: event.seq, id, before, after, event });
    if (after) this.documents.set(id, after);
    else this.documents.delete(id);
    this.states.push(new Map(this.documents));
    const births = new Map(this.births.at(-1));
    if (op === "create") births.set(id, event.seq + this.log);
    this.births.push(births);
    if (key) this.appliedAt.set(key, event.seq);
    return { answer };
  }

  /** Answer a request by a problem, and so its repeats. */
  refuse(key, problem) {
    if (key) this.refusals.set(key, problem);
    return { problem };
  }

  /** The documents of a shape after an event. */
  rows(shape, seq = this.head) {
    return new Map([...this.states[seq]].filter(([id, { doc }]) => SHAPES[shape].has(id, doc)));
  }

  /** The events of a shape with `after < seq <= upTo`, as its clients get them. */
  eventsOf(shape, after, upTo = this.head) {
    const { has } = SHAPES[shape];
    return this.events.slice(after, upTo).flatMap(({ id, before, after: next, event }) => {
      const [was, is] = [before && has(id, before.doc), next && has(id, next.doc)];
      if (was && is) return [event];
      if (is) return [{ ...event, op: "create", doc: next.doc, patch: undefined, ...(before && { enter: true }) }];
      return was ? [{ ...event, op: "delete", patch: undefined, doc: undefined, ...(next && { leave: true }) }] : [];
    });
  }

  position(shape, seq = this.head) {
    return `${this.log}${SHAPES[shape].scope}:${seq}`;
  }
}

export class Run {
  /** `world`: what several runs share, each of them one of its tabs. */
  constructor(seed, world = null) {
    this.world = world;
    this.now = 1_000_000;
    this.random = world?.random ?? randomOf(seed);
    this.server = world?.server ?? new Server();
    this.disk = world?.disk ?? { shapes: new Map(), queue: new Map() };
    this.made = new Map(); // key → write, of all that the application has made and that were not taken back
    this.told = new Set(); // keys of the writes that the application knows to be queued
    this.count = 0;
    this.destroyed = new Set(); // ids of documents that somebody else has replaced or deleted
    this.best = new Map(); // shape and id → the largest own number that was shown
    if (!world) this.server.begin();
    this.begin();
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  chance(share) {
    return this.random() < share;
  }

  // --- the process: an engine over what is on the disk ---------------------------------------------------------------

  /** The member of documents that only this application writes. */
  get name() {
    return "me";
  }

  begin() {
    this.engine = new Engine({ clientId: "model", random: this.random, wallClock: () => this.now });
    this.pipe = null; // messages under way on the connection, with its subscriptions
    this.requests = [];
    this.responses = [];
    this.barriers = [];
    this.pending = []; // what the store has not done yet
    this.answered = new Set(); // keys
    this.arrived = new Set(); // shape and key of the events that this engine has got
    this.seen = new Map(Object.keys(SHAPES).map((shape) => [shape, new Map()]));
    for (const [shape, { info }] of Object.entries(SHAPES)) {
      const saved = this.disk.shapes.get(shape);
      this.engine.follow(shape, info, saved ? { position: saved.position, rows: [...saved.rows] } : null, this.now);
    }
    this.engine.outbox.restore([...this.disk.queue.values()], this.now);
    this.engine.start(this.now);
    this.best.clear();
    this.drain();
  }

  /** The process is killed, and what the store has not done is lost. */
  crash() {
    for (const key of this.made.keys()) {
      if (this.disk.queue.has(key)) continue;
      // What was reported as queued is on the disk, until it is in all shapes.
      const written = this.server.appliedAt.get(key);
      assert.ok(!this.told.has(key) || written !== undefined, `${key} was reported as queued, and is lost`);
      this.made.delete(key);
    }
    this.begin();
  }

  drain() {
    for (const output of this.engine.take(this.now)) this.take(output);
    this.check();
  }

  take(output) {
    switch (output.type) {
      case "connect":
        this.pipe = { opened: false, up: [], down: [], subscriptions: new Map() };
        break;
      case "disconnect":
        this.pipe = null;
        break;
      case "send":
        if (output.message.type === "ack") this.acknowledge(output.message.vector);
        else this.pipe?.up.push(output.message);
        break;
      case "apply":
      case "forget":
      case "enqueue":
      case "dequeue":
        this.pending.push(output);
        break;
      case "request":
        assert.ok(this.disk.queue.has(output.write.key), "sent before it is stored");
        assert.equal(output.ifMatch, output.write.ifMatch, "the condition of a write");
        // One whose event was faster than its answer is done.
        assert.ok(!this.requests.some(({ write }) => write.id === output.write.id && !this.answered.has(write.key)), "two at a time");
        this.requests.push(output);
        break;
      case "barrier":
        this.barriers.push({ log: this.server.log, seq: this.server.head }); // it may be as old as the question
        break;
      case "done":
        this.answered.add(output.write.key);
        break;
      case "confirmed":
        for (const { event } of output.changes) if (event?.op_id) this.arrived.add(`${output.shape} ${event.op_id}`);
        break;
      case "rejected":
        ok([403, 404, 409, 412, 422].includes(output.problem.status), () => `rejected by ${output.problem.status}`);
        ok(!this.server.answers.has(output.write.key), () => `rejected, and written: ${output.write.key}`);
        this.made.delete(output.write.key);
        this.best.clear();
        break;
      case "view":
        this.view(output);
    }
  }

  /** What is acknowledged is on the disk, and the server has brought it: else it closes the connection. */
  acknowledge(vector) {
    for (const [shape, position] of Object.entries(vector)) {
      const places = [this.disk.shapes.get(shape)?.position, this.engine.core.position(shape)];
      for (const place of places) ok(place && distance(position, place) >= 0, () => `acknowledged at ${place}: ${shape} ${position}`);
    }
  }

  /** What the application holds by the changes alone is what the view has. */
  view({ shape, changes }) {
    const seen = this.seen.get(shape);
    for (const { id, before, after } of changes) {
      assert.equal(seen.get(id), before, "the state before a change");
      if (after) seen.set(id, after);
      else seen.delete(id);
    }
  }

  // --- steps --------------------------------------------------------------------------------------------------------

  step() {
    const steps = [
      [10, () => this.ownWrite()],
      [8, () => this.othersWrite()],
      [14, () => this.serverReads()],
      [14, () => this.serverSends()],
      [26, () => this.clientReceives()],
      [12, () => this.serverWrites()],
      [12, () => this.answerArrives()],
      [8, () => this.storeWorks()],
      [5, () => this.timePasses()],
      [3, () => this.barrierIsAnswered()],
      [2, () => this.cut()],
      [0.4, () => this.crash()],
      [0.5, () => this.renewLog()],
    ];
    let at = this.random() * steps.reduce((sum, [weight]) => sum + weight, 0);
    const chosen = steps.find(([weight]) => (at -= weight) < 0) ?? steps[0];
    chosen[1]();
    this.drain();
  }

  randomWrite(who) {
    const id = this.pick(["a", "a", "b", "d"]);
    const n = (this.count += 1);
    const m = this.chance(0.3) ? { m: this.pick([1, 2]) } : {};
    const whole = { _id: id, m: this.pick([1, 1, 2]), list: [], [who]: n };
    const kinds = [
      { method: "PATCH", body: { [who]: n, ...m } },
      { method: "PATCH", body: { [who]: n, ...m } },
      { method: "PATCH", body: [{ op: "add", path: "/list/-", value: `${who}${n}` }] },
      { method: "PUT", body: whole },
      { method: "POST", body: whole },
      { method: "DELETE" },
    ];
    return { id, ...this.pick(kinds) };
  }

  ownWrite() {
    const { engine } = this;
    if (engine.outbox.size > 6) return;
    const write = { ...this.randomWrite(this.name), key: `key ${this.count}`, order: this.count, at: this.now, collection: COLLECTION };
    const base = engine.baseOf(COLLECTION, write.id);
    if (base !== undefined) write.base = base;
    if (this.chance(0.1) && base !== undefined && write.method !== "POST") write.ifMatch = `"${base}"`;
    this.made.set(write.key, write);
    engine.outbox.add(write);
  }

  othersWrite() {
    const write = this.randomWrite("other");
    const { problem } = this.server.write(write);
    if (!problem && write.method !== "PATCH") this.destroyed.add(write.id);
  }

  /** The server reads one message of the client, and answers what it asks for. */
  serverReads() {
    const { pipe, server } = this;
    if (!pipe) return;
    if (!pipe.opened) {
      pipe.opened = true;
      this.engine.core.opened(this.now);
      return;
    }
    const message = pipe.up.shift();
    if (message?.type !== "hello") return assert.ok(message === undefined, "only hello is expected");
    pipe.down.push({ type: "welcome", session: "s", client_id: "c", protocol: 1, heartbeat: 60, vector: {} });
    for (const shape of message.shapes) this.answer(shape, message.vector[shape], server);
  }

  answer(shape, position, server) {
    const { down, subscriptions } = this.pipe;
    const own = position === undefined ? null : parsePosition(position);
    const known = own && `${own.log}` === `${server.log}${SHAPES[shape].scope}` && own.seq <= server.head;
    if (own && !known) down.push({ type: "reset", shape, reason: "unknown_log" });
    const to = server.position(shape);
    const rows = [...server.rows(shape)].map(([id, row]) => ({ id, ...row }));
    const kind = known ? this.pick(["events", "events", "squashed", "snapshot"]) : "snapshot";
    if (kind === "events") {
      const events = server.eventsOf(shape, own.seq);
      if (events.length) down.push({ type: "events", shape, from: position, to, events });
    } else if (kind === "squashed") {
      const ids = new Set(server.events.slice(own.seq).map(({ id }) => id));
      const docs = [...ids].map((id) => rows.find((row) => row.id === id) ?? { id, deleted: true });
      this.parts({ type: "squashed", shape, from: position, to }, docs);
    } else {
      this.parts({ type: "snapshot", shape, position: to }, rows);
    }
    down.push({ type: "live", shape, position: to });
    subscriptions.set(shape, server.head);
  }

  parts(message, docs) {
    const half = this.chance(0.5) ? docs.length : Math.ceil(docs.length / 2);
    const last = half === docs.length;
    this.pipe.down.push({ ...message, part: 0, last, docs: docs.slice(0, half) });
    if (!last) this.pipe.down.push({ ...message, part: 1, last: true, docs: docs.slice(half) });
  }

  /** The server sends what is new in one shape, or that nothing is. */
  serverSends() {
    const { pipe, server } = this;
    if (!pipe?.subscriptions.size) return;
    const shape = this.pick([...pipe.subscriptions.keys()]);
    const from = pipe.subscriptions.get(shape);
    const upTo = this.chance(0.5) ? server.head : Math.min(server.head, from + 1);
    const events = server.eventsOf(shape, from, upTo);
    const end = server.position(shape, upTo);
    // The same bytes serve every client: a frame may begin before what this one has.
    const early = this.chance(0.2) ? Math.max(0, from - 3) : from;
    const frame = { type: "events", shape, from: server.position(shape, early), to: end, events: server.eventsOf(shape, early, upTo) };
    if (events.length) pipe.down.push(frame);
    else if (this.chance(0.5)) pipe.down.push({ type: "progress", vector: { [shape]: end } });
    else return;
    pipe.subscriptions.set(shape, upTo);
  }

  clientReceives() {
    const message = this.pipe?.down.shift();
    if (message) this.engine.core.receive(message, this.now);
  }

  /** The server carries out a request, or it never arrives. */
  serverWrites() {
    if (!this.requests.length) return;
    const { write, ifMatch } = this.requests.splice(Math.floor(this.random() * this.requests.length), 1)[0];
    const lot = this.random();
    const response = { key: write.key };
    if (lot < 0.05) response.lost = true;
    else if (lot < 0.1) Object.assign(response, this.unknown(write, ifMatch));
    else if (lot < 0.15) Object.assign(response, { problem: { status: 503, code: "unavailable" }, retryAfter: 0.1 });
    else if (lot < 0.2 && !this.server.answers.has(write.key)) Object.assign(response, this.server.refuse(write.key, { status: 403, code: "forbidden" }));
    else {
      Object.assign(response, this.server.write({ ...write, ifMatch }));
      if (this.chance(0.15)) Object.assign(response, { lost: true });
    }
    this.responses.push(response);
  }

  /** A request that was carried out, and is answered by 503 as if that were not known. */
  unknown(write, ifMatch) {
    const { problem } = this.server.write({ ...write, ifMatch });
    return { problem: problem ?? { status: 503, code: "unavailable" } };
  }

  answerArrives() {
    if (!this.responses.length) return;
    const { key, lost, problem, retryAfter, answer } = this.responses.splice(Math.floor(this.random() * this.responses.length), 1)[0];
    const { outbox } = this.engine;
    if (lost) outbox.lost(key, this.now);
    else if (problem) outbox.refused(key, problem, retryAfter, this.now);
    else outbox.answered(key, answer, this.now);
  }

  barrierIsAnswered() {
    if (!this.barriers.length) return;
    const barrier = this.barriers.pop();
    const { outbox } = this.engine;
    if (this.chance(0.3)) outbox.barrierFailed(undefined, this.now);
    else outbox.barrierReached(barrier, this.now);
  }

  storeWorks() {
    const output = this.pending.shift();
    if (!output) return;
    const { shapes, queue } = this.disk;
    if (output.type === "enqueue") {
      queue.set(output.write.key, output.write);
      if (this.made.has(output.write.key)) this.told.add(output.write.key);
      this.engine.outbox.stored(output.write.key, this.now);
    } else if (output.type === "dequeue") {
      queue.delete(output.key);
    } else if (output.type === "forget") {
      shapes.delete(output.shape);
    } else {
      const { position, put, remove, clear } = output.step;
      const rows = new Map(clear ? [] : (shapes.get(output.shape)?.rows ?? []));
      for (const id of remove) rows.delete(id);
      for (const [id, row] of put) rows.set(id, row);
      shapes.set(output.shape, { position, rows });
      this.engine.core.durable(output.shape, position, this.now);
    }
  }

  timePasses() {
    const { due } = this.engine;
    this.now = due < Infinity && this.chance(0.7) ? Math.max(this.now, due) : this.now + this.random() * 1000;
    this.engine.tick(this.now);
  }

  cut() {
    if (!this.pipe) return;
    this.pipe = null;
    this.engine.core.closed({}, this.now);
  }

  renewLog() {
    this.server.renew(`log${String(this.count).padStart(5, "0")}`);
    this.best.clear();
    this.cut();
  }

  // --- what must hold -----------------------------------------------------------------------------------------------

  check() {
    const { engine, server } = this;
    for (const shape of this.seen.keys()) {
      const position = engine.core.position(shape);
      const confirmed = engine.core.documents(shape);
      const view = engine.view(shape);
      const seen = this.seen.get(shape);
      ok(seen.size === view.rows.size && [...seen].every(([id, row]) => view.rows.get(id) === row), () => "the changes and the view");
      const own = position && parsePosition(position);
      const current = own && own.log === `${server.log}${SHAPES[shape].scope}`;
      if (current) ok(sameRows(confirmed, server.rows(shape, own.seq)), () => `${shape} at ${position} is no state that was true`);
      const ids = new Set([...confirmed.keys(), ...view.rows.keys(), ...[...this.made.values()].map(({ id }) => id)]);
      for (const id of ids) this.checkDocument(shape, id, current ? own.seq : null);
    }
  }

  checkDocument(shape, id, seq) {
    const { engine, server } = this;
    const { info } = SHAPES[shape];
    const row = engine.core.documents(shape).get(id);
    if (info.id !== undefined && info.id !== id) return ok(!engine.view(shape).rows.has(id), () => `${id} in ${shape}`);
    const shown = engine.outbox.shown(shape, id);
    let expected = overlay(row, shown);
    if (expected?.pending && info.matches && !info.matches(expected.doc)) expected = undefined;
    const seen = engine.view(shape).rows.get(id);
    ok(equal(seen, expected), () => `${shape} ${id}: ${JSON.stringify({ seen, expected })}`);
    if (seq === null) return;
    for (const { key } of shown) {
      ok(!this.arrived.has(`${shape} ${key}`), () => `${shape} ${id} shows ${key} twice: its event is here`);
    }
    for (const [key, write] of this.made) {
      if (write.id !== id) continue;
      const at = server.appliedAt.get(key);
      const sameLife = at === undefined || server.births[at].get(id) === server.births[seq].get(id);
      const missing = (at === undefined || at > seq) && sameLife && !shown.some((other) => other.key === key);
      const doubled = at <= seq && sameLife && row && this.answered.has(key) && write.method !== "DELETE" && this.isEvent(key) && shown.includes(write);
      ok(!doubled, () => `${shape} ${id} at ${seq} shows ${key} twice: it is at ${at}, and answered`);
      ok(!missing, () => `${shape} ${id} at ${seq} lacks ${JSON.stringify(write)}, which is at ${at}`);
    }
    if (seen) this.checkFlicker(`${shape} ${id}`, id, seen.doc[this.name] ?? 0);
  }

  /** True if a write has changed something. */
  isEvent(key) {
    return this.server.events.some(({ event }) => event.op_id === key);
  }

  /** The numbers that only this client writes never go back, unless a document was replaced or a write taken back. */
  checkFlicker(name, id, number) {
    const best = this.best.get(name) ?? 0;
    this.best.set(name, number);
    if (number >= best || this.destroyed.has(id) || [...this.made.values()].some((write) => write.id === id && write.method !== "PATCH")) return;
    assert.fail(`${name} flickers: ${number} after ${best}`);
  }

  /** No more faults: everything arrives. */
  settle() {
    for (let turn = 0; turn < 400; turn += 1) {
      while (this.pending.length) this.storeWorks();
      this.drain();
      while (this.pipe && (!this.pipe.opened || this.pipe.up.length)) {
        this.serverReads();
        this.drain();
      }
      for (const shape of this.pipe?.subscriptions.keys() ?? []) {
        const from = this.pipe.subscriptions.get(shape);
        const events = this.server.eventsOf(shape, from);
        const [start, end] = [this.server.position(shape, from), this.server.position(shape)];
        if (events.length) this.pipe.down.push({ type: "events", shape, from: start, to: end, events });
        else this.pipe.down.push({ type: "progress", vector: { [shape]: end } });
        this.pipe.subscriptions.set(shape, this.server.head);
      }
      while (this.pipe?.down.length) {
        this.clientReceives();
        this.drain();
      }
      for (const { write, ifMatch } of this.requests.splice(0)) this.responses.push({ key: write.key, ...this.server.write({ ...write, ifMatch }) });
      while (this.responses.length) this.answerArrives();
      while (this.barriers.length) {
        this.barriers.pop();
        this.engine.outbox.barrierReached({ log: this.server.log, seq: this.server.head }, this.now);
      }
      this.drain();
      if (this.isSettled()) return;
      this.now = Math.max(this.now, Math.min(this.engine.due, this.now + 60_000));
      this.engine.tick(this.now);
      this.drain();
    }
    assert.fail(`it does not settle: ${this.engine.core.status} (${this.engine.core.reason}) ${this.engine.due - this.now}, ${this.engine.outbox.size} writes`);
  }

  isSettled() {
    const { engine, server } = this;
    if (engine.core.status !== "live" || engine.outbox.size || this.pending.length || this.requests.length) return false;
    if (Object.keys(SHAPES).some((shape) => engine.core.position(shape) !== server.position(shape))) return false;
    for (const shape of Object.keys(SHAPES)) {
      assert.ok(sameRows(engine.view(shape).rows, server.rows(shape)), `${shape} is not what the server has`);
      assert.ok(sameRows(this.disk.shapes.get(shape).rows, server.rows(shape)), `${shape} on the disk is not what the server has`);
    }
    assert.equal(this.disk.queue.size, 0);
    return true;
  }
}

/** `assert.ok` with a message that is made only if it is needed. */
export function ok(condition, message) {
  if (!condition) assert.fail(message());
}

export function sameRows(left, right) {
  if (left.size !== right.size) return false;
  for (const [id, row] of left) if (!equal(row, right.get(id))) return false;
  return true;
}

/** Drive one random interleaving of so many steps. */
export function run(seed, steps = 45) {
  const model = new Run(seed);
  for (let step = 0; step < steps; step += 1) model.step();
  model.settle();
  return model;
}
