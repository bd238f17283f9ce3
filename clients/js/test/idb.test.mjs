import assert from "node:assert/strict";
import test from "node:test";

import "fake-indexeddb/auto";
import { forceCloseDatabase } from "fake-indexeddb";

import { idb } from "../src/adapters/idb.js";
import { StoreLost, createClient } from "../src/client.js";
import { Persister } from "../src/persister.js";
import { FORMAT } from "../src/store.js";
import { FAULTS, intercept, withFault } from "./faults.mjs";
import { storeContract } from "./store_contract.mjs";

let names = 0;
const newName = () => `test ${(names += 1)}`;
const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 1 };
const row = (version) => ({ version, doc: { _id: "a", n: version } });
const step = (position, changes) => ({ position, put: [], remove: [], clear: false, ...changes });
const rowsOf = (count, version) => Array.from({ length: count }, (_, index) => [`id ${index}`, row(version)]);

storeContract("idb", () => idb(newName()));

// --- faults ----------------------------------------------------------------------------------------------------------

const BEFORE = [["a", row(1)], ["b", row(1)], ["c", row(1)]];
const MANY = Array.from({ length: 20 }, (_, index) => [`d${index}`, row(2)]).sort();
const STEPS = {
  "an update": {
    act: (store) => store.apply("cards", step("k:2", { put: [["a", row(2)], ["d", row(1)]], remove: ["b", "c"] })),
    after: { position: "k:2", rows: [["a", row(2)], ["d", row(1)]] },
  },
  "a snapshot": {
    act: (store) => store.apply("cards", step("k:2", { put: [["b", row(2)], ["d", row(1)]], clear: true })),
    after: { position: "k:2", rows: [["b", row(2)], ["d", row(1)]] },
  },
  "an update of many rows": {
    act: (store) => store.apply("cards", step("k:2", { put: MANY, remove: ["a"] })),
    after: { position: "k:2", rows: [...BEFORE.slice(1), ...MANY] },
  },
  "a position alone": {
    act: (store) => store.apply("cards", step("k:2", {})),
    after: { position: "k:2", rows: BEFORE },
  },
  "a shape that is forgotten": { act: (store) => store.forget("cards"), after: null },
};

for (const [what, { act, after }] of Object.entries(STEPS)) {
  for (const [kind, fault] of Object.entries(FAULTS)) {
    test(`${what}, with ${kind}, at each request, is stored not at all`, async () => {
      for (let at = 1; ; at += 1) {
        const stores = idb(newName());
        const store = await stores.open(IDENTITY);
        await store.apply("cards", step("k:1", { put: BEFORE }));
        const { requests, error } = await withFault(fault, at, () => act(store));
        const again = await stores.open(IDENTITY);
        if (requests < at) {
          assert.equal(error, null);
          assert.deepEqual(await again.load("cards"), after);
          assert.ok(at > 2);
          return;
        }
        assert.ok(error instanceof DOMException);
        if (kind === "a full disk") assert.equal(error.name, "QuotaExceededError");
        assert.deepEqual(await again.load("cards"), { position: "k:1", rows: BEFORE });
        await act(store); // it can be repeated
        assert.deepEqual(await again.load("cards"), after);
        await Promise.all([store.close(), again.close()]);
      }
    });
  }
}

test("a large step is stored as a whole or not at all, wherever it is aborted", async () => {
  const stores = idb(newName(), { layout: { block: 2000 } });
  const store = await stores.open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(1300, 1) }));
  const versions = async () => {
    const { position, rows } = await store.load("cards");
    assert.equal(rows.length, 1300);
    return [position, ...new Set(rows.map(([, { version }]) => version))];
  };
  const act = () => store.apply("cards", step("k:2", { put: rowsOf(1300, 2) }));
  const { requests } = await withFault(null, 0, () => store.apply("cards", step("k:1", { put: rowsOf(1300, 1) })));
  assert.ok(requests > 100, `${requests} requests`);
  for (let at = 1; at <= requests; at += 1 + Math.floor(at / 4)) {
    const { error } = await withFault(FAULTS["aborted after its success"], at, act);
    assert.ok(error instanceof DOMException, `no error at ${at}`);
    assert.deepEqual(await versions(), ["k:1", 1]);
  }
  await act();
  assert.deepEqual(await versions(), ["k:2", 2]);
  await store.close();
});

test("a write that cannot be queued is refused, and the queue stays", async () => {
  const store = await idb(newName()).open(IDENTITY);
  const write = { key: "k", order: 1, at: 1, collection: "cards", id: "a", method: "DELETE" };
  await store.enqueue(write);
  for (const act of [() => store.enqueue({ ...write, key: "l" }), () => store.dequeue("k")]) {
    const { error } = await withFault(FAULTS["a full disk"], 1, act);
    assert.equal(error.name, "QuotaExceededError");
    assert.deepEqual(await store.queue(), [write]);
  }
  await store.close();
});

// --- the client's persister ------------------------------------------------------------------------------------------

test("a full disk is reported, and the steps are stored together once there is room", async () => {
  const store = await idb(newName()).open(IDENTITY);
  const events = [];
  const failed = deferred();
  const persister = new Persister(Promise.resolve(store), {
    durable: (shape, position) => events.push([shape, position]),
    failed: (error) => {
      events.push(error.name);
      failed.resolve();
    },
  });
  const end = intercept(FAULTS["a full disk"]);
  persister.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  await failed.promise;
  end();
  persister.apply("cards", step("k:2", { put: [["a", row(2)]], remove: ["b", "c"] }));
  await persister.finish(); // hurries the next attempt
  assert.deepEqual(events, ["QuotaExceededError", ["cards", "k:2"]]);
  assert.deepEqual(await store.load("cards"), { position: "k:2", rows: [["a", row(2)]] });
  await store.close();
});

test("a client that ends gives up a disk that stays full", async () => {
  const store = await idb(newName()).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: BEFORE }));
  const errors = [];
  const persister = new Persister(Promise.resolve(store), {
    durable: () => assert.fail("nothing is durable"),
    failed: (error) => errors.push(error.name),
  });
  const end = intercept(FAULTS["a full disk"]);
  persister.apply("cards", step("k:2", { remove: ["a"] }));
  await persister.finish();
  end();
  assert.deepEqual(new Set(errors), new Set(["QuotaExceededError"]));
  assert.deepEqual(await store.load("cards"), { position: "k:1", rows: BEFORE });
  await store.close();
});

function deferred() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

// --- other tabs ------------------------------------------------------------------------------------------------------

test("two tabs that get the same events store them once, and one continues when the other is gone", async () => {
  const stores = idb(newName());
  const [first, second] = [await stores.open(IDENTITY), await stores.open(IDENTITY)];
  await first.apply("cards", step("k:1", { put: [["a", row(1)]], clear: true }));
  await second.load("cards");
  await first.apply("cards", step("k:2", { put: [["a", row(2)]] }));
  await second.apply("cards", step("k:2", { put: [["a", row(2)]] }));
  await first.apply("cards", step("k:3", { put: [["b", row(3)]] }));
  await first.close();
  await second.apply("cards", step("k:4", { put: [["b", row(3)], ["c", row(4)]] }));
  await second.apply("cards", step("k:5", { remove: ["a"] }));
  assert.deepEqual(await second.load("cards"), { position: "k:5", rows: [["b", row(3)], ["c", row(4)]] });
  await second.close();
});

test("a shape that is not stored begins with any step, also after another tab has forgotten it", async () => {
  const stores = idb(newName());
  const [first, second] = [await stores.open(IDENTITY), await stores.open(IDENTITY)];
  await first.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  await second.load("cards");
  await first.forget("cards");
  assert.equal(await second.load("cards"), null);
  await second.apply("cards", step("k:3", { put: [["a", row(3)]] }));
  assert.equal((await first.load("cards"))?.position, "k:3");
  await second.forget("cards");
  await second.apply("cards", step("k:4", { put: [["b", row(4)]] }));
  assert.deepEqual(await first.load("cards"), { position: "k:4", rows: [["b", row(4)]] });
  await Promise.all([first.close(), second.close()]);
});

test("a logout in one tab removes the database, and the stores of the others end", async () => {
  const name = newName();
  const [first, second] = [await idb(name).open(IDENTITY), await idb(name).open(IDENTITY)];
  await first.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  await second.load("cards");
  await first.destroy();
  const ended = /removed.*in another tab/;
  await assert.rejects(second.apply("cards", step("k:2", {})), ended);
  await assert.rejects(second.load("cards"), ended);
  await assert.rejects(second.queue(), ended);
  await second.destroy();
  const databases = await indexedDB.databases();
  assert.deepEqual(databases.filter((database) => database.name.startsWith(`${name} `)), []);
});

/** A connection of a page that does not react. */
function rawConnection(name) {
  const request = indexedDB.open(name);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

test("a tab that does not let go delays the deletion and not the removal, and destroy says so", async () => {
  const name = newName();
  const store = await idb(name, { wait: 50 }).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  const stubborn = await rawConnection(`${name} ${JSON.stringify(Object.values(IDENTITY))}`);
  await assert.rejects(store.destroy(), /another tab keeps the database .* open: it is empty/);
  const request = stubborn.transaction("rows").objectStore("rows").count();
  await new Promise((resolve) => (request.onsuccess = resolve));
  assert.equal(request.result, 0);
  await assert.rejects(idb(name, { wait: 50 }).open(IDENTITY), /another tab blocks the database/);
  stubborn.close();
  const next = await idb(name).open(IDENTITY);
  assert.equal(await next.load("cards"), null);
  await next.close();
});

// --- what browsers do ------------------------------------------------------------------------------------------------

/** The connection that a store uses. */
async function connectionOf(store) {
  let found;
  const end = intercept((make, transaction) => {
    found = transaction.db;
    return make();
  });
  await store.load("");
  end();
  return found;
}

test("a connection that the browser has closed is opened again", async () => {
  const store = await idb(newName()).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  forceCloseDatabase(await connectionOf(store));
  await store.apply("cards", step("k:2", { remove: ["a"] }));
  assert.deepEqual(await store.load("cards"), { position: "k:2", rows: BEFORE.slice(1) });
  await store.close();
});

test("a connection that was lost without a word fails once", async () => {
  const store = await idb(newName()).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  (await connectionOf(store)).close();
  await assert.rejects(store.apply("cards", step("k:2", { remove: ["a"] })), { name: "InvalidStateError" });
  await store.apply("cards", step("k:2", { remove: ["a"] }));
  assert.deepEqual(await store.load("cards"), { position: "k:2", rows: BEFORE.slice(1) });
  await store.close();
});

test("after the browser has removed the database no position is stored without its rows", async () => {
  const name = newName();
  const store = await idb(name).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  forceCloseDatabase(await connectionOf(store));
  const request = indexedDB.deleteDatabase(`${name} ${JSON.stringify(Object.values(IDENTITY))}`);
  await new Promise((resolve) => (request.onsuccess = resolve));
  await store.apply("cards", step("k:2", { put: [["d", row(2)]] }));
  assert.equal(await store.load("cards"), null);
  await store.apply("cards", step("k:3", { put: BEFORE, clear: true }));
  await store.apply("cards", step("k:4", { remove: ["a"] }));
  assert.deepEqual(await store.load("cards"), { position: "k:4", rows: BEFORE.slice(1) });
  await store.close();
});

// --- a lost database -------------------------------------------------------------------------------------------------

/** Have a localStorage, whose items are properties as in a browser. Room for so many characters. */
function withLocalStorage(context, room = 5 << 20) {
  class Items {
    getItem(name) {
      return Object.hasOwn(this, name) ? this[name] : null;
    }
    setItem(name, text) {
      const others = Object.entries(this).filter(([other]) => other !== name);
      const used = others.reduce((sum, item) => sum + item.join("").length, 0);
      if (used + name.length + text.length > room) throw new DOMException("it is full", "QuotaExceededError");
      this[name] = text;
    }
    removeItem(name) {
      delete this[name];
    }
  }
  globalThis.localStorage = new Items();
  context.after(() => delete globalThis.localStorage);
  return globalThis.localStorage;
}

/** Remove a database as a browser does that finds it damaged. */
async function loseDatabase(name) {
  const request = indexedDB.deleteDatabase(`${name} ${JSON.stringify(Object.values(IDENTITY))}`);
  await new Promise((resolve) => (request.onsuccess = resolve));
}

const write = (key, order, body = { n: order }) => ({ key, order, at: 1, collection: "cards", id: key, method: "PATCH", body });

test("a lost database is reported, and its unsent writes are restored", async (context) => {
  withLocalStorage(context);
  const name = newName();
  const reports = [];
  const open = () => idb(name).open(IDENTITY, (error) => reports.push(error));
  const store = await open();
  await store.apply("cards", step("k:1", { put: BEFORE, clear: true }));
  for (const [key, order] of [["a", 1], ["b", 2], ["c", 3]]) await store.enqueue(write(key, order));
  await store.dequeue("b");
  await store.close();
  await loseDatabase(name);
  const next = await open();
  assert.deepEqual(reports.map(({ name, restored, missing }) => [name, restored, missing]), [["StoreLost", 2, 0]]);
  assert.equal(await next.load("cards"), null);
  assert.deepEqual(await next.queue(), [write("a", 1), write("c", 3)]);
  await next.dequeue("a");
  await next.close();
  await loseDatabase(name);
  const last = await open();
  assert.deepEqual(await last.queue(), [write("c", 3)]);
  assert.equal(reports.length, 2);
  await last.close();
});

test("a database that the browser removes under an open store is reported, and keeps the unsent writes", async (context) => {
  withLocalStorage(context);
  const name = newName();
  const reports = [];
  const store = await idb(name).open(IDENTITY, (error) => reports.push(error.name));
  await store.enqueue(write("a", 1));
  forceCloseDatabase(await connectionOf(store));
  await loseDatabase(name);
  assert.deepEqual(await store.queue(), [write("a", 1)]);
  assert.deepEqual(reports, ["StoreLost"]);
  await store.close();
});

test("writes for which localStorage has no room are counted as missing", async (context) => {
  const items = withLocalStorage(context, 3000);
  items.setItem("of the application", "x".repeat(1000));
  const name = newName();
  const reports = [];
  const open = () => idb(name).open(IDENTITY, (error) => reports.push([error.restored, error.missing]));
  const store = await open();
  await store.enqueue(write("a", 1));
  await store.enqueue(write("b", 2, { text: "y".repeat(2000) }));
  await store.enqueue(write("c", 3));
  await store.close();
  await loseDatabase(name);
  const next = await open();
  assert.deepEqual(reports, [[2, 1]]);
  assert.deepEqual(await next.queue(), [write("a", 1), write("c", 3)]);
  await next.close();
});

test("writes take 1 MiB of localStorage at most", async (context) => {
  const items = withLocalStorage(context);
  const store = await idb(newName()).open(IDENTITY);
  const long = { text: "z".repeat(200_000) };
  for (let order = 1; order <= 7; order += 1) await store.enqueue(write(`k${order}`, order, long));
  const mirrored = () => Object.values(items).filter(Boolean).length;
  assert.equal(mirrored(), 5);
  await store.dequeue("k1");
  await store.enqueue(write("k8", 8, long));
  assert.equal(mirrored(), 5);
  await store.close();
});

test("what other tabs have put and removed takes no room for ever", async (context) => {
  const items = withLocalStorage(context);
  let now = 0;
  context.mock.method(performance, "now", () => (now += 1000));
  const stores = idb(newName());
  const [follower, leader] = [await stores.open(IDENTITY), await stores.open(IDENTITY)];
  const long = { text: "z".repeat(200_000) };
  const mirrored = () => Object.values(items).filter(Boolean).length;
  for (let order = 1; order <= 20; order += 1) {
    await follower.enqueue(write(`k${order}`, order, long));
    assert.equal(mirrored(), 1);
    await leader.dequeue(`k${order}`);
  }
  for (let order = 21; order <= 30; order += 1) await leader.enqueue(write(`k${order}`, order, long));
  assert.equal(mirrored(), 5);
  for (const store of [follower, leader]) await store.close();
});

test("nothing is reported of a database that is new, that was destroyed, or whose page may not use localStorage", async (context) => {
  const items = withLocalStorage(context);
  const name = newName();
  const open = () => idb(name).open(IDENTITY, assert.fail);
  const first = await open();
  await first.enqueue(write("a", 1));
  await first.destroy();
  assert.deepEqual(Object.keys(items), []);
  await (await open()).close();
  await loseDatabase(name);
  Object.defineProperty(globalThis, "localStorage", { configurable: true, get: () => { throw new Error("denied"); } });
  const denied = await open();
  await denied.enqueue(write("a", 1));
  await denied.dequeue("a");
  await denied.destroy();
});

test("what another tab writes while the store is removed leaves no copy", async (context) => {
  const items = withLocalStorage(context);
  const stores = idb(newName());
  const [first, second] = [await stores.open(IDENTITY), await stores.open(IDENTITY)];
  const clear = first.mirror.clear.bind(first.mirror);
  first.mirror.clear = () => (clear(), second.mirror.put(write("late", 1)));
  await first.destroy();
  assert.deepEqual(Object.keys(items), []);
  await assert.rejects(second.enqueue(write("later", 2)), /the store was removed/);
  assert.deepEqual(Object.keys(items), []);
});

test("the copy of the queue follows the queue, whatever it has missed", async (context) => {
  const items = withLocalStorage(context);
  const name = newName();
  const store = await idb(name).open(IDENTITY);
  await store.enqueue(write("a", 1));
  await store.enqueue(write("b", 2));
  const [kept] = Object.keys(items).filter((item) => item.endsWith(" a"));
  delete items[kept]; // not written before the browser was killed
  items[kept.replace(/a$/, "c")] = JSON.stringify(write("c", 3)); // its removal was not
  await store.queue();
  const texts = Object.values(items).filter(Boolean);
  assert.deepEqual(texts.map((text) => JSON.parse(text).key).sort(), ["a", "b"]);
  await store.close();
});

test("a client reports that its store was lost, and sends the writes that were restored", async (context) => {
  withLocalStorage(context);
  const name = newName();
  const url = IDENTITY.url;
  const sent = [];
  let answers = false;
  const fetch = async (_, { method, headers, body }) => {
    if (!answers || method !== "PATCH") throw new TypeError("no network");
    sent.push([headers["Idempotency-Key"], JSON.parse(body)]);
    return new Response(JSON.stringify({ id: "a", version: 2, doc: { n: 5 } }), { headers: { "Content-Type": "application/json" } });
  };
  const errors = [];
  const create = () => createClient({ url, principal: "ada", store: idb(name), fetch, transport: "poll", onError: (error) => errors.push(error) });
  const first = create();
  const { key } = await first.collection("cards").patch("a", { n: 5 });
  await first.close();
  const request = indexedDB.deleteDatabase(`${name} ${JSON.stringify([url, "ada", FORMAT])}`);
  await new Promise((resolve) => (request.onsuccess = resolve));
  answers = true;
  const second = create();
  await new Promise((resolve) => second.on("status", ({ pending }) => sent.length && !pending && resolve()));
  assert.deepEqual(sent, [[key, { n: 5 }]]);
  assert.deepEqual(errors.map((error) => [error instanceof StoreLost, error.restored]), [[true, 1]]);
  await second.destroy();
});

test("a store that is closed says so", async () => {
  const store = await idb(newName()).open(IDENTITY);
  await store.close();
  await assert.rejects(store.load("cards"), /the store is closed/);
  await assert.rejects(store.apply("cards", step("k:1", {})), /the store is closed/);
});

// --- a whole client --------------------------------------------------------------------------------------------------

test("a client without a network shows what it had, and its unsent writes over that", async () => {
  const store = idb(newName());
  const url = "http://127.0.0.1:9/";
  const before = await store.open({ url, principal: "ada", format: FORMAT });
  await before.apply("cards", step("k:1", { put: [["a", row(1)], ["b", row(1)]], clear: true }));
  await before.close();
  const fetch = async () => {
    throw new TypeError("no network");
  };
  const create = () => createClient({ url, principal: "ada", store, fetch, transport: "poll" });
  const first = create();
  await first.collection("cards").patch("a", { n: 5 });
  const refused = await withFault(FAULTS["a full disk"], 1, () => first.collection("cards").patch("b", { n: 5 }));
  assert.equal(refused.error.name, "QuotaExceededError");
  await first.close();
  const second = create();
  await second.ready;
  const notice = await new Promise((resolve) => second.collection("cards").subscribe(resolve));
  assert.equal(notice.source, "cache");
  const shown = [...notice.documents.values()].map(({ doc, pending }) => [doc.n, pending]);
  assert.deepEqual(shown, [[5, true], [1, undefined]]);
  assert.deepEqual(second.vector, { cards: "k:1" });
  assert.equal(second.status.pending, 1);
  await second.destroy();
  const third = create();
  await third.ready;
  assert.equal(third.status.pending, 0);
  assert.equal(await (await third.store).load("cards"), null);
  await third.close();
});
