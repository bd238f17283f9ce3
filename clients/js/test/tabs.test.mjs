// Several clients that share a store, as the tabs of a browser do: real channels and IndexedDB, locks as the browser
// gives them, and a small server that counts who asks it for what. `tests/e2e/test_tabs.py` has the tabs of Chromium.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import test from "node:test";

import "fake-indexeddb/auto";

import { idb } from "../src/adapters/idb.js";
import { createClient } from "../src/client.js";
import { Engine } from "../src/engine.js";
import { Fenced } from "../src/store.js";
import { Tab } from "../src/tab.js";
import { Unstored } from "../src/unstored.js";
import { count, interleave } from "./seeds.mjs";
import { run } from "./tabs_model.mjs";

const runs = count(100);

test(`${runs} interleavings of three tabs, their channel, their lock and kills end with the state of the server`, () => {
  interleave(run, runs);
});

test("a former leader tells the outcome of a write that the new leader asks for", () => {
  const engine = new Engine({ wallClock: () => 1 });
  const tab = new Tab("old", engine, new Proxy({}, { get: () => () => {} }));
  const { key, ...rest } = write("first");
  const answer = { id: "a", version: 2 };
  tab.begin("cards", { collection: "cards" }, null, 0, true);
  tab.lead(1, 0);
  tab.restore([{ key, ...rest }], 0);
  engine.outbox.start(0);
  engine.outbox.answered(key, answer, 0);
  tab.ended(key, { answer });
  tab.follow(0);
  assert.equal(engine.outbox.size, 1, "it is shown until the shape has it");
  tab.take();
  tab.receive({ from: "new", to: "old", epoch: 2, wanted: [key] }, 0);
  assert.deepEqual(tab.take().at(-1), { ended: [[key, { answer }]], from: "old", heard: 2 });
});

// --- the store -------------------------------------------------------------------------------------------------------

let names = 0;
const newName = () => `tabs ${(names += 1)}`;
const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 2 };
const row = (version) => ({ version, doc: { _id: "a", n: version } });
const step = (position, changes) => ({ position, put: [], remove: [], clear: false, ...changes });
const write = (key) => ({ key, order: 1, at: 1, collection: "cards", id: "a", method: "DELETE" });

test("a tab that another one has replaced writes nothing, and can still queue a write", async () => {
  const stores = idb(newName());
  const [old, next] = [await stores.open(IDENTITY), await stores.open(IDENTITY)];
  await old.lead(5, new Map());
  await old.apply("cards", step("k:1", { put: [["a", row(1)]], clear: true }));
  await old.enqueue(write("first"));
  await assert.rejects(next.lead(5, new Map()), new Fenced(5));
  await next.lead(6, new Map([["cards", "k:1"]]));
  const refused = [
    old.apply("cards", step("k:2", { put: [["a", row(2)]] })),
    old.apply("cards", step("k:2", { clear: true })),
    old.forget("cards"),
    old.dequeue("first"),
  ];
  for (const attempt of refused) await assert.rejects(attempt, new Fenced(6));
  await old.enqueue(write("second"));
  assert.deepEqual(await old.load("cards"), { position: "k:1", rows: [["a", row(1)]] });
  assert.deepEqual((await next.queue()).map(({ key }) => key), ["first", "second"]);
  await next.apply("cards", step("k:3", { put: [["a", row(3)]] }));
  await next.dequeue("first");
  assert.deepEqual(await next.load("cards"), { position: "k:3", rows: [["a", row(3)]] });
  await Promise.all([old.close(), next.close()]);
});

test("a tab knows what it has and no store is known to have", () => {
  const unstored = new Unstored();
  unstored.begin("cards", "k:1");
  for (const seq of [2, 3, 4]) unstored.apply("cards", step(`k:${seq}`, { put: [[`id ${seq}`, row(seq)]] }));
  unstored.apply("other", step("k:9", {}));
  unstored.durable("cards", "k:3");
  assert.deepEqual(unstored.stands, new Map([["cards", "k:3"]]));
  assert.deepEqual(unstored.steps, [["cards", step("k:4", { put: [["id 4", row(4)]] })]]);
  unstored.apply("cards", step("z:1", { put: [["id 1", row(1)]], clear: true }));
  unstored.durable("cards", "k:4");
  assert.deepEqual(unstored.steps, [["cards", step("z:1", { put: [["id 1", row(1)]], clear: true })]]);
  for (let seq = 2; seq < 200; seq += 1) unstored.apply("cards", step(`z:${seq}`, { put: [["id", row(seq)]] }));
  unstored.durable("cards", "z:30");
  assert.deepEqual(unstored.stands, new Map([["cards", "z:30"]]));
  unstored.durable("cards", "z:199");
  assert.deepEqual([unstored.steps, unstored.stands.get("cards")], [[], "z:199"]);
});

// --- whole clients ---------------------------------------------------------------------------------------------------

/** The locks of one origin. */
class Locks {
  #held = new Map(); // name → the function that takes it away
  #queues = new Map();
  isLate = false; // true if a holder does not learn that its lock was taken away

  request(name, { steal, signal }, callback) {
    return new Promise((resolve, reject) => {
      const abort = () => reject(new DOMException("taken away", "AbortError"));
      const entry = () => {
        this.#held.set(name, abort);
        const done = () => this.#held.get(name) === abort && this.#next(name);
        Promise.resolve(callback({ name })).finally(done).then(resolve, reject);
      };
      signal?.addEventListener("abort", () => {
        this.#queues.set(name, (this.#queues.get(name) ?? []).filter((other) => other !== entry));
        abort();
      });
      if (steal && !this.isLate) this.#held.get(name)?.();
      this.#queues.set(name, steal ? [entry, ...(this.#queues.get(name) ?? [])] : [...(this.#queues.get(name) ?? []), entry]);
      if (steal || !this.#held.has(name)) queueMicrotask(() => this.#next(name));
    });
  }

  #next(name) {
    this.#held.delete(name);
    this.#queues.get(name)?.shift()?.();
  }
}

/** A server with one collection, `c`. */
async function serving(t) {
  const served = { streams: 0, opened: 0, snapshots: 0, writes: [], tokens: [], events: [], refuse: false, held: [], hold: false };
  const open = new Set();
  const documents = new Map([["a", { version: 1, doc: { _id: "a", n: 0 } }]]);
  const say = (response, message) => response.write(`data: ${JSON.stringify(message)}\n\n`);
  const position = () => `k:${served.events.length}`;
  const follow = (request, response) => {
    const at = new URL(request.url, "http://h").searchParams.get("vector");
    served.streams += 1;
    served.opened += 1;
    open.add(response);
    response.on("close", () => (served.streams -= 1) && open.delete(response));
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    say(response, { type: "welcome", session: "s", client_id: "c", protocol: 1, heartbeat: 25, vector: {} });
    const from = Number(new URLSearchParams(at).get("c")?.split(":")[1] ?? -1);
    const docs = [...documents].map(([id, held]) => ({ id, ...held }));
    if (from < 0) served.snapshots += 1;
    if (from < 0) say(response, { type: "snapshot", shape: "c", position: position(), part: 0, last: true, docs });
    else if (from < served.events.length) say(response, { type: "events", shape: "c", from: `k:${from}`, to: position(), events: served.events.slice(from) });
    say(response, { type: "live", shape: "c", position: position() });
  };
  served.change = (id, patch, key) => {
    const before = documents.get(id);
    const version = before.version + 1;
    documents.set(id, { version, doc: { ...before.doc, ...patch } });
    const [[name, value]] = Object.entries(patch);
    const operation = { op: name in before.doc ? "replace" : "add", path: `/${name}`, value };
    const event = { seq: served.events.length + 1, collection: "c", id, op: "update", base: version - 1, version, patch: [operation], ...(key && { op_id: key }) };
    served.events.push(event);
    for (const response of open) say(response, { type: "events", shape: "c", from: `k:${event.seq - 1}`, to: position(), events: [event] });
    return { id, version };
  };
  const answers = new Map();
  const server = createServer(async (request, response) => {
    served.tokens.push(request.headers.authorization);
    const body = Buffer.concat(await request.toArray()).toString();
    if (request.url.includes("/sync/sse")) return follow(request, response);
    if (request.method === "GET") return response.end("{}");
    const key = request.headers["idempotency-key"];
    served.writes.push([request.headers["x-tab"], key]);
    if (served.hold) await new Promise((resolve) => served.held.push(resolve));
    const answer = answers.get(key) ?? (served.refuse ? null : served.change("a", JSON.parse(body), key));
    if (answer) answers.set(key, answer);
    response.writeHead(answer ? 200 : 403, { "Content-Type": answer ? "application/json" : "application/problem+json" });
    return response.end(JSON.stringify(answer ?? { status: 403, code: "forbidden", detail: "no" }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (server.closeAllConnections(), server.close()));
  served.url = `http://127.0.0.1:${server.address().port}/`;
  return served;
}

/** Tabs of one browser: `open(options)` makes the client of another one. */
function browser(t, { url }) {
  const locks = new Locks();
  const store = idb(newName());
  let count = 0;
  const open = (options = {}) => {
    const name = `tab ${(count += 1)}`;
    const fetch = (address, init) => globalThis.fetch(address, { ...init, headers: { ...init.headers, "X-Tab": name } });
    const db = createClient({ url, principal: "ada", store, fetch, transport: "sse", tabs: { locks, BroadcastChannel }, linger: 0, ...options });
    t.after(() => db.close());
    const tab = { db, cards: db.collection("c"), notices: [], name };
    tab.cards.subscribe((notice) => tab.notices.push(notice));
    return tab;
  };
  return Object.assign(open, { locks });
}

/** Resolves once a condition holds; it is looked at after each notice and each change of the status. */
function until({ db, cards }, condition) {
  return new Promise((resolve) => {
    const look = () => condition() && resolve();
    cards.subscribe(look);
    db.on("status", look);
    look();
  });
}

const live = (tab) => until(tab, () => tab.db.status.name === "live" && tab.cards.isLive);
const shows = (tab, n) => until(tab, () => tab.cards.get("a")?.n === n && !tab.cards.documents.get("a").pending);
const leads = ({ db }) => db.tabs.tab.leads;

test("tabs have one connection, and one that closes is replaced by another, which continues where it stands", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const tabs = [open()];
  await live(tabs[0]);
  while (tabs.length < 5) {
    tabs.push(open());
    await live(tabs.at(-1));
  }
  served.change("a", { n: 1 });
  await Promise.all(tabs.map((tab) => shows(tab, 1)));
  assert.deepEqual([served.streams, served.opened, tabs.map(leads)], [1, 1, [true, false, false, false, false]]);
  for (let n = 2; tabs.length > 1; n += 1) {
    await tabs.shift().db.close();
    served.change("a", { n });
    await Promise.all(tabs.map((tab) => shows(tab, n)));
    assert.deepEqual([served.streams, tabs.filter(leads).length, served.snapshots], [1, 1, 1]);
  }
  const [last] = tabs;
  const seqs = last.notices.flatMap(({ changes }) => changes.flatMap(({ event }) => event?.seq ?? []));
  assert.deepEqual(seqs, [1, 2, 3, 4, 5]);
  await last.db.flush();
  assert.equal((await (await last.db.store).load("c")).position, "k:5");
});

test("the status is the same in all tabs, and a tab that is stopped leaves the lead to another", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const tabs = [open()];
  await live(tabs[0]);
  tabs.push(open());
  await live(tabs[1]);
  assert.deepEqual(tabs[1].db.status, tabs[0].db.status);
  tabs[0].db.stop();
  await until(tabs[1], () => leads(tabs[1]));
  await live(tabs[1]);
  assert.equal(tabs[0].db.status.name, "stopped");
  tabs[0].db.start();
  await live(tabs[0]);
  assert.deepEqual([leads(tabs[0]), served.streams, tabs[0].db.status], [false, 1, tabs[1].db.status]);
});

test("what a follower writes is seen in all tabs at once, sent by the leader, and settled in the follower", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const leader = open();
  await live(leader);
  const rejections = [];
  const follower = open({ onRejected: ({ write: { key } }) => rejections.push(["follower", key]) });
  leader.db.on("rejected", ({ write: { key } }) => rejections.push(["leader", key]));
  await live(follower);
  served.hold = true;
  const written = await follower.cards.patch("a", { n: 7 });
  assert.deepEqual([follower.cards.get("a").n, follower.db.status.pending], [7, 1]);
  await until(leader, () => leader.cards.documents.get("a").pending);
  assert.equal(leader.db.status.pending, 1);
  while (!served.held.length) await new Promise((resolve) => setTimeout(resolve, 5));
  served.hold = false;
  served.held.pop()();
  assert.equal((await written.done).version, 2);
  await Promise.all([shows(leader, 7), shows(follower, 7)]);
  assert.deepEqual(served.writes, [["tab 1", written.key]]);
  served.refuse = true;
  const refused = await follower.cards.patch("a", { n: 8 });
  await assert.rejects(refused.done, { code: "forbidden" });
  await Promise.all([shows(leader, 7), shows(follower, 7)]);
  assert.deepEqual(rejections, [["follower", refused.key]]);
  for (const { db } of [leader, follower]) assert.equal(db.status.pending, 0);
  await leader.db.flush();
  assert.deepEqual(await (await leader.db.store).queue(), []);
});

test("a write is settled in a follower although its leader has gone before the answer", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const leader = open();
  await live(leader);
  const follower = open();
  await live(follower);
  served.hold = true;
  const { key, done } = await follower.cards.patch("a", { n: 7 });
  while (!served.held.length) await new Promise((resolve) => setTimeout(resolve, 5));
  served.hold = false;
  leader.db.tabs.channel.postMessage = () => {}; // as if it were killed: nobody hears of the answer
  await leader.db.close();
  assert.equal((await done).version, 2);
  served.held.pop()();
  await shows(follower, 7);
  assert.deepEqual([served.writes, served.events.length], [[["tab 1", key], ["tab 2", key]], 1]);
});

test("the leader asks for tokens, and another tab only where the leader has none", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const asked = [];
  const token = (name) => (why) => (asked.push([name, why]), `token of ${name}`);
  const leader = open({ token: token("leader") });
  await live(leader);
  const follower = open({ token: token("follower") });
  await live(follower);
  await (await follower.cards.patch("a", { n: 1 })).done;
  await follower.cards.history("a").catch(() => {});
  assert.deepEqual([asked, new Set(served.tokens)], [[["leader", "connect"]], new Set(["Bearer token of leader"])]);
  const open2 = browser(t, served);
  const without = open2({ token: () => null });
  await live(without);
  const having = open2({ token: token("having") });
  await live(having);
  without.db.engine.core.reconnect(performance.now());
  without.db.resume();
  await until(having, () => asked.length > 1);
  assert.deepEqual(asked[1], ["having", "connect"]);
});

test("a tab that is silent loses the lead, and stores nothing when it wakes up", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const errors = [];
  const old = open({ onError: (error) => errors.push(error) });
  await live(old);
  const next = open();
  await live(next);
  // It neither hears nor says anything, and learns nothing of its lock: only its store can stop it.
  const { channel } = old.db.tabs;
  const hear = channel.onmessage;
  channel.onmessage = channel.postMessage = () => {};
  open.locks.isLate = true;
  await until(next, () => leads(next));
  await live(next);
  assert.deepEqual([leads(old), served.streams], [true, 2]);
  served.change("a", { n: 1 });
  await Promise.all([shows(old, 1), shows(next, 1), until(old, () => !leads(old))]);
  Object.assign(channel, { onmessage: hear, postMessage: BroadcastChannel.prototype.postMessage });
  old.db.tabs.tab.greet();
  old.db.engine.core.reconnect(performance.now());
  old.db.resume();
  served.change("a", { n: 2 });
  await Promise.all([shows(old, 2), shows(next, 2)]);
  await next.db.flush();
  assert.deepEqual([served.streams, errors, (await (await next.db.store).load("c")).position], [1, [], "k:2"]);
  const seqs = old.notices.flatMap(({ changes }) => changes.flatMap(({ event }) => event?.seq ?? []));
  assert.deepEqual(seqs, [1, 2]);
});

test("without locks each tab has a connection of its own", async (t) => {
  const served = await serving(t);
  const open = browser(t, served);
  const tabs = [open({ tabs: false }), open({ tabs: undefined })];
  await Promise.all(tabs.map((tab) => until(tab, () => tab.db.status.name === "live")));
  assert.deepEqual([served.streams, tabs.map(({ db }) => db.tabs)], [2, [null, null]]);
});
