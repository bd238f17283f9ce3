// A model of several tabs that share a store: which of them holds the lock, what is under way on the channel, and a
// leader that has lost the lock and does not know it. `run(seed)` drives them by one random interleaving. What the
// single client of `model.mjs` must keep, each tab must, and no tab may get an event twice.

import assert from "node:assert/strict";

import { Engine } from "../src/engine.js";
import { parsePosition } from "../src/positions.js";
import { Fenced, leadsOn } from "../src/store.js";
import { Tab } from "../src/tab.js";
import { Run, SHAPES, Server, ok, randomOf, sameRows } from "./model.mjs";

const TABS = 3;
const LEADERS = new Set(["lead", "apply", "forget", "dequeue"]); // what only a leader does in the store

class Page extends Run {
  constructor(world, number) {
    super(0, { ...world, world, number });
  }

  get name() {
    return `me${this.world.number}`;
  }

  get others() {
    return this.world.world.pages.filter((page) => page !== this);
  }

  begin() {
    const { world, number } = this.world;
    this.id = `tab ${number}`;
    this.now = world.now;
    this.engine = new Engine({ random: this.random, wallClock: () => this.now });
    Object.assign(this, { pipe: null, link: null, requests: [], responses: [], barriers: [], pending: [], deferred: [] });
    Object.assign(this, { answered: new Set(), arrived: new Set(), seen: new Map(), last: new Map() });
    this.known = new Map(); // of its connection to the store
    this.storeEpoch = 0;
    this.refusedEpoch = 0;
    this.inbox = new Map(); // sender → posts
    this.outcomes = new Map(); // key → "done" or "rejected", of its own writes
    this.stolen = false; // true until it notices
    this.tab = new Tab(this.id, this.engine, {
      hold: (shape, info) => this.pending.push({ type: "load", shape, info }),
      status: () => ({ name: this.engine.core.status }),
      changed: () => {},
      overtaken: (epoch) => {
        this.refusedEpoch = Math.max(this.refusedEpoch, epoch);
        this.lose();
      },
      released: () => this.deferred.push(() => this.tab.release(this.now)),
      start: () => this.engine.start(this.now),
      hurry: () => {},
      ping: () => this.pipe?.opened && this.pipe.up.push({ type: "ping" }),
      dequeue: (key) => this.pending.push({ type: "dequeue", key }),
      defer: (action) => this.deferred.push(action),
    });
    this.engine.start(this.now);
  }

  /** What a page does first; the others hear it. */
  open() {
    for (const shape of Object.keys(SHAPES)) if (this.chance(0.7)) this.followShape(shape);
    this.tab.restore([...this.disk.queue.values()].map((write) => structuredClone(write)), this.now);
    this.tab.greet();
    this.engine.start(this.now);
  }

  followShape(shape) {
    const saved = this.engine.info(shape) ? null : this.load(shape);
    this.seen.set(shape, new Map());
    this.tab.begin(shape, SHAPES[shape].info, saved, this.now, true);
  }

  /** The application follows another shape, or one less. */
  toggle() {
    const shape = this.pick(Object.keys(SHAPES));
    for (const key of this.best.keys()) if (key.startsWith(`${shape} `)) this.best.delete(key);
    if (!this.seen.has(shape)) return this.followShape(shape);
    this.seen.delete(shape);
    this.last.delete(shape);
    for (const key of this.arrived) if (key.startsWith(`${shape} `)) this.arrived.delete(key);
    return this.tab.unfollow(shape, this.now);
  }

  load(shape) {
    const saved = this.disk.shapes.get(shape);
    if (saved) this.known.set(shape, saved.position);
    else this.known.delete(shape);
    return saved ? { position: saved.position, rows: structuredClone([...saved.rows]) } : null;
  }

  // --- the lead -----------------------------------------------------------------------------------------------------

  lead() {
    const epoch = 1 + Math.max(Math.floor(this.now), this.tab.epoch, this.refusedEpoch);
    const { stands, steps } = this.tab.unstored;
    this.pending.push({ type: "lead", epoch, stands });
    for (const [shape, step] of steps) this.pending.push({ type: "apply", shape, step });
    this.tab.lead(epoch, this.now);
    this.engine.start(this.now);
    this.pending.push({ type: "queue", epoch });
  }

  /** It leads no more, and waits for the lock again. */
  lose() {
    this.stolen = false;
    this.pending = this.pending.filter(({ type }) => !LEADERS.has(type));
    const { world } = this.world;
    if (world.holder === this) world.holder = null;
    if (this.tab.leads) this.tab.follow(this.now);
  }

  // --- outputs ------------------------------------------------------------------------------------------------------

  drain() {
    for (let turn = 0; ; turn += 1) {
      ok(turn < 1000, () => "it does not come to rest");
      const outputs = this.engine.take(this.now);
      for (const output of outputs) this.take(output);
      this.tab.settle();
      this.post();
      const deferred = this.deferred.splice(0);
      for (const action of deferred) action();
      if (!outputs.length && !deferred.length) break;
    }
    this.check();
  }

  post() {
    for (const post of this.tab.take()) {
      for (const page of this.others) {
        page.inbox.set(this.id, [...(page.inbox.get(this.id) ?? []), structuredClone(post)]);
      }
    }
  }

  take(output) {
    const { key } = output.write ?? output;
    switch (output.type) {
      case "connect":
        this.link = this.tab.open({
          opened: () => this.link && this.engine.core.opened(this.now),
          message: (message) => this.engine.core.receive(message, this.now),
        });
        if (!this.link) super.take(output);
        return;
      case "send":
        if (this.link) this.link.send(output.message);
        else super.take(output);
        return;
      case "disconnect":
        this.link?.close();
        this.link = null;
        this.pipe = null;
        this.tab.cut();
        return;
      case "apply":
      case "forget":
        this.tab.unstored[output.type](output.shape, output.step);
        if (this.tab.leads) this.pending.push(output);
        return;
      case "dequeue":
        if (this.tab.leads) this.pending.push(output);
        return;
      case "request":
        ok(this.tab.leads, () => "a follower sends a write");
        ok(this.world.world.stored.has(key), () => "sent before it is stored");
        ok(!this.requests.some(({ write }) => write.id === output.write.id && !this.answered.has(write.key)), () => "two at a time");
        this.requests.push(output);
        return;
      case "done":
        super.take(output);
        this.ended(key, "done");
        this.tab.ended(key, { answer: output.answer });
        return;
      case "rejected":
        super.take(output);
        this.ended(key, "rejected");
        this.answered.add(key); // its request may still be under way
        this.tab.ended(key, { problem: output.problem });
        return;
      case "status":
        this.tab.statusChanged();
        return;
      case "confirmed":
        if (this.seen.has(output.shape)) this.confirmed(output);
        return;
      case "view":
        ok(this.seen.has(output.shape), () => "a view that nobody wants");
        super.take(output);
        return;
      default:
        super.take(output);
    }
  }

  ended(key, how) {
    const { owner } = this.world.world;
    if (owner.get(key) !== this) return;
    ok(!this.outcomes.has(key), () => `${key} has ended twice`);
    this.outcomes.set(key, how);
  }

  /** Each event comes once, in order. */
  confirmed(output) {
    super.take(output);
    const { shape } = output;
    for (const { event } of output.changes) {
      if (!event) continue;
      const { log, seq } = this.last.get(shape) ?? {};
      const own = parsePosition(output.position).log;
      ok(log !== own || event.seq > seq, () => `${shape} gets ${event.seq} after ${seq}`);
      this.last.set(shape, { log: own, seq: event.seq });
    }
    const position = parsePosition(output.position);
    const last = this.last.get(shape);
    if (last && last.log === position.log) ok(position.seq >= last.seq, () => `${shape} goes back to ${output.position}`);
    this.last.set(shape, position);
  }

  // --- steps --------------------------------------------------------------------------------------------------------

  ownWrite() {
    const { world } = this.world;
    if (this.engine.outbox.size > 6) return;
    this.count = world.count;
    const order = this.engine.outbox.queue.order + 1;
    super.ownWrite();
    world.count = this.count;
    const write = [...this.made.values()].at(-1);
    if (!write || world.owner.has(write.key)) return;
    write.order = order;
    world.owner.set(write.key, this);
    if (write.method !== "PATCH") for (const page of this.others) page.destroyed.add(write.id);
  }

  serverReads() {
    const { pipe, server } = this;
    const message = pipe?.opened ? pipe.up[0] : undefined;
    if (!message || message.type === "hello") return super.serverReads();
    pipe.up.shift();
    if (message.type === "unsubscribe") pipe.subscriptions.delete(message.shape);
    if (message.type === "subscribe") this.answer(message.shape, message.position, server);
    if (message.type !== "ping") return undefined;
    const vector = Object.fromEntries([...pipe.subscriptions].map(([shape, seq]) => [shape, server.position(shape, seq)]));
    return pipe.down.push({ type: "progress", vector });
  }

  clientReceives() {
    const message = this.pipe?.down.shift();
    if (!message) return;
    this.tab.pass(message);
    this.engine.core.receive(message, this.now);
  }

  hear() {
    const senders = [...this.inbox].filter(([, posts]) => posts.length);
    if (!senders.length) return;
    const post = this.pick(senders)[1].shift();
    const { epoch, shared } = this.tab;
    this.tab.receive(post, this.now);
    // Of a tab that has not noticed that it leads no more.
    ok(!(post.epoch < epoch) || this.tab.shared === shared, () => `${this.id} takes the status of a former leader`);
  }

  storeWorks() {
    const output = this.pending.shift();
    if (!output) return;
    const { disk } = this;
    try {
      this.store(output, disk);
    } catch (error) {
      if (!(error instanceof Fenced)) throw error;
      this.refusedEpoch = Math.max(this.refusedEpoch, error.epoch);
      this.lose();
    }
  }

  store(output, disk) {
    const { type, shape } = output;
    if (LEADERS.has(type) && type !== "lead" && disk.epoch !== this.storeEpoch) throw new Fenced(disk.epoch);
    if (type === "lead") {
      if (disk.epoch >= output.epoch) throw new Fenced(disk.epoch);
      disk.epoch = this.storeEpoch = output.epoch;
      for (const [name, position] of output.stands) this.known.set(name, position);
    } else if (type === "queue") {
      if (this.tab.leads && this.tab.epoch === output.epoch) this.tab.restore([...disk.queue.values()].map((write) => structuredClone(write)), this.now);
    } else if (type === "load") {
      const saved = this.load(shape);
      if (this.tab.leads && this.tab.relay.has(shape)) this.tab.begin(shape, output.info, saved, this.now, false);
      this.engine.start(this.now);
    } else if (type === "enqueue") {
      disk.queue.set(output.write.key, structuredClone(output.write));
      this.world.world.stored.add(output.write.key);
      this.told.add(output.write.key);
      this.tab.wrote(output.write);
      this.engine.outbox.stored(output.write.key, this.now);
    } else if (type === "dequeue") {
      disk.queue.delete(output.key);
    } else if (type === "forget") {
      disk.shapes.delete(shape);
      this.known.delete(shape);
    } else {
      this.apply(output, disk);
    }
  }

  apply({ shape, step: { position, put, remove, clear } }, disk) {
    const { server } = this;
    const stored = disk.shapes.get(shape);
    if (clear || leadsOn(this.known.get(shape), stored?.position, position)) {
      const rows = new Map(clear ? [] : (stored?.rows ?? []));
      for (const id of remove) rows.delete(id);
      for (const [id, row] of put) rows.set(id, row);
      disk.shapes.set(shape, { position, rows });
      const { log, seq } = parsePosition(position);
      if (log === `${server.log}${SHAPES[shape].scope}`) {
        ok(sameRows(rows, server.rows(shape, seq)), () => `${shape} on the disk is no state that was true`);
      }
    }
    this.known.set(shape, position);
    this.tab.durable(shape, position);
  }

  timePasses() {
    const { due } = this.engine;
    const { now } = this.world.world;
    this.now = due < now + 60_000 && this.chance(0.7) ? Math.max(now, due) : now + this.random() * 1000;
    this.engine.tick(this.now);
    this.world.world.now = this.now;
  }

  othersWrite() {
    const before = new Set(this.destroyed);
    super.othersWrite();
    for (const id of this.destroyed) if (!before.has(id)) for (const page of this.others) page.destroyed.add(id);
  }

  get(position) {
    return parsePosition(position);
  }
}

class World {
  constructor(seed) {
    this.random = randomOf(seed);
    this.server = new Server();
    this.disk = { shapes: new Map(), queue: new Map(), epoch: 0 };
    this.now = 1_000_000;
    this.count = 0;
    this.numbers = 0;
    this.owner = new Map(); // key → the page that has made the write
    this.stored = new Set(); // keys
    this.pages = [];
    this.holder = null;
    this.server.begin();
    for (let index = 0; index < TABS; index += 1) this.openPage();
  }

  openPage() {
    const page = new Page(this, (this.numbers += 1));
    this.pages.push(page);
    page.open();
    page.drain();
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  /** The browser gives the lock to the next page. */
  grant() {
    if (this.holder) return;
    const page = this.pick(this.pages.filter(({ tab }) => !tab.leads));
    if (!page) return;
    this.holder = page;
    page.now = Math.max(page.now, this.now);
    page.lead();
    page.drain();
  }

  /** A page takes the lock away, and the one that had it does not know that yet. */
  steal() {
    const page = this.pick(this.pages.filter(({ tab }) => !tab.leads));
    if (!page || !this.holder) return;
    this.holder.stolen = true;
    this.holder = null;
    this.holder = page;
    page.lead();
    page.drain();
  }

  /** A page is killed, with all that it has not posted and not stored. */
  kill() {
    const page = this.pick(this.pages);
    for (const key of page.told) {
      const isKept = this.disk.queue.has(key) || this.server.appliedAt.has(key) || this.server.refusals.has(key);
      ok(isKept, () => `${key} was reported as queued, and is lost`);
    }
    // Its requests are under way.
    for (const { write, ifMatch } of page.requests) if (this.random() < 0.5) this.server.write({ ...write, ifMatch });
    if (this.holder === page) this.holder = null;
    this.pages = this.pages.filter((other) => other !== page);
    for (const other of this.pages) {
      if (this.random() < 0.5) other.inbox.delete(page.id); // what it has posted last may be lost
      other.tab.gone(page.id);
      other.drain();
    }
    this.openPage();
  }

  renewLog() {
    this.server.renew(`log${String((this.count += 1)).padStart(5, "0")}`);
    for (const page of this.pages) {
      page.best.clear();
      page.cut();
      page.drain();
    }
  }

  step() {
    const page = this.pick(this.pages);
    page.now = Math.max(page.now, this.now);
    const steps = [
      [10, () => page.ownWrite()],
      [6, () => page.othersWrite()],
      [14, () => page.serverReads()],
      [14, () => page.serverSends()],
      [26, () => page.clientReceives()],
      [12, () => page.serverWrites()],
      [12, () => page.answerArrives()],
      [14, () => page.storeWorks()],
      [60, () => page.hear()],
      [5, () => page.timePasses()],
      [3, () => page.barrierIsAnswered()],
      [2, () => page.toggle()],
      [2, () => page.cut()],
      [8, () => page.stolen && page.lose()],
      [20, () => this.grant()],
      [3, () => this.steal()],
      [3, () => this.kill()],
      [0.5, () => this.renewLog()],
    ];
    let at = this.random() * steps.reduce((sum, [weight]) => sum + weight, 0);
    (steps.find(([weight]) => (at -= weight) < 0) ?? steps[0])[1]();
    if (this.pages.includes(page)) page.drain();
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  /** No more faults: everything arrives. */
  settle() {
    for (let turn = 0; turn < 600; turn += 1) {
      this.grant();
      for (const page of this.pages) this.settlePage(page);
      if (this.isSettled()) return;
      const due = Math.min(...this.pages.map(({ engine }) => engine.due));
      if (turn % 4 === 3) this.now = Math.max(this.now, Math.min(due, this.now + 60_000)); // what was posted arrives first
      for (const page of this.pages) {
        page.now = this.now;
        page.engine.tick(this.now);
        page.drain();
      }
    }
    const states = this.pages.map((page) => [page.id, page.tab.leads, page.engine.core.status, page.engine.core.vector, page.engine.outbox.keys]);

    assert.fail(`it does not settle: ${this.server.position("c")} ${JSON.stringify(states)}`);
  }

  settlePage(page) {
    if (page.stolen) page.lose();
    page.drain();
    while (page.pending.length) (page.storeWorks(), page.drain());
    while ([...page.inbox.values()].some(({ length }) => length)) (page.hear(), page.drain());
    while (page.pipe && (!page.pipe.opened || page.pipe.up.length)) (page.serverReads(), page.drain());
    for (const shape of page.pipe?.subscriptions.keys() ?? []) {
      const from = page.pipe.subscriptions.get(shape);
      const events = this.server.eventsOf(shape, from);
      const [start, end] = [this.server.position(shape, from), this.server.position(shape)];
      if (events.length) page.pipe.down.push({ type: "events", shape, from: start, to: end, events });
      else page.pipe.down.push({ type: "progress", vector: { [shape]: end } });
      page.pipe.subscriptions.set(shape, this.server.head);
    }
    while (page.pipe?.down.length) (page.clientReceives(), page.drain());
    for (const { write, ifMatch } of page.requests.splice(0)) {
      page.responses.push({ key: write.key, ...this.server.write({ ...write, ifMatch }) });
    }
    while (page.responses.length) (page.answerArrives(), page.drain());
    while (page.barriers.length) {
      page.barriers.pop();
      page.engine.outbox.barrierReached({ log: this.server.log, seq: this.server.head }, this.now);
      page.drain();
    }
  }

  isSettled() {
    const { pages, server, disk } = this;
    const leaders = pages.filter(({ tab }) => tab.leads);
    if (leaders.length !== 1) return false;
    for (const { engine, pending, requests, seen } of pages) {
      if (engine.outbox.size || pending.length || requests.length) return false;
      if (seen.size && engine.core.status !== "live") return false;
      if ([...seen.keys()].some((shape) => engine.core.position(shape) !== server.position(shape))) return false;
    }
    for (const { tab, id } of pages) {
      const { status } = leaders[0].engine.core;
      ok(tab.leads || tab.shared?.name === status, () => `${id} takes the status to be ${tab.shared?.name}: ${status}`);
    }
    for (const { engine, seen, outcomes, made, told, id } of pages) {
      for (const shape of seen.keys()) {
        ok(sameRows(engine.view(shape).rows, server.rows(shape)), () => `${shape} in ${id} is not what the server has`);
        ok(sameRows(disk.shapes.get(shape).rows, server.rows(shape)), () => `${shape} on the disk is not what the server has`);
      }
      for (const key of told) {
        ok(outcomes.has(key), () => `nobody has heard of ${key}`);
        ok(outcomes.get(key) === "rejected" || server.answers.has(key), () => `${key} is done, and not at the server`);
      }
      ok([...made.keys()].every((key) => told.has(key)), () => "a write was not stored");
    }
    ok(!disk.queue.size, () => `the queue has ${[...disk.queue.keys()]}`);
    return true;
  }
}

/** Drive one random interleaving of so many steps. */
export function run(seed, steps = 200) {
  const world = new World(seed);
  for (let step = 0; step < steps; step += 1) world.step();
  world.settle();
  return world;
}

