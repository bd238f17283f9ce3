import assert from "node:assert/strict";
import test from "node:test";

import "fake-indexeddb/auto";
import { forceCloseDatabase } from "fake-indexeddb";

import { idb } from "../src/adapters/idb.js";
import { createClient } from "../src/client.js";
import { Persister } from "../src/persister.js";
import { FORMAT } from "../src/store.js";
import { randomOf } from "./model.mjs";
import { storeContract } from "./store_contract.mjs";

let names = 0;
const newName = () => `test ${(names += 1)}`;
const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 1 };
const row = (version) => ({ version, doc: { _id: "a", n: version } });
const step = (position, changes) => ({ position, put: [], remove: [], clear: false, ...changes });
const rowsOf = (count, version) => Array.from({ length: count }, (_, index) => [`id ${index}`, row(version)]);

storeContract("idb", () => idb(newName()));

// --- faults ----------------------------------------------------------------------------------------------------------

const REQUESTS = ["get", "put", "delete", "clear"];

/** Call `fault(make)` in place of each request; `make` makes it. Returns the function that ends this. */
function intercept(fault) {
  const prototype = IDBObjectStore.prototype;
  const originals = REQUESTS.map((name) => [name, prototype[name]]);
  for (const [name, original] of originals) {
    prototype[name] = function (...values) {
      return fault(() => original.apply(this, values), this.transaction);
    };
  }
  return () => originals.forEach(([name, original]) => (prototype[name] = original));
}

/** What can go wrong at a request. */
const FAULTS = {
  "aborted before it": (make, transaction) => {
    transaction.abort();
    return make();
  },
  "aborted behind it": (make, transaction) => {
    const request = make();
    transaction.abort();
    return request;
  },
  "aborted after its success": (make, transaction) => {
    const request = make();
    request.addEventListener("success", () => transaction.abort());
    return request;
  },
  "a full disk": (make, transaction) => {
    const request = make();
    transaction._abort("QuotaExceededError"); // of fake-indexeddb: what a browser does by itself
    return request;
  },
  "a request that cannot be made": () => {
    throw new DOMException("no", "DataCloneError");
  },
};

/** Run an action with a fault at its request number `at`. Returns the number of requests and the error. */
async function withFault(fault, at, action) {
  let requests = 0;
  const end = intercept((make, transaction) => ((requests += 1) === at ? fault(make, transaction) : make()));
  const error = await action().then(() => null, (reason) => reason);
  end();
  return { requests, error };
}

const BEFORE = [["a", row(1)], ["b", row(1)], ["c", row(1)]];
const STEPS = {
  "an update": {
    act: (store) => store.apply("cards", step("k:2", { put: [["a", row(2)], ["d", row(1)]], remove: ["b", "c"] })),
    after: { position: "k:2", rows: [["a", row(2)], ["d", row(1)]] },
  },
  "a snapshot": {
    act: (store) => store.apply("cards", step("k:2", { put: [["b", row(2)], ["d", row(1)]], clear: true })),
    after: { position: "k:2", rows: [["b", row(2)], ["d", row(1)]] },
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
  const stores = idb(newName());
  const store = await stores.open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(1300, 1) }));
  const act = () => store.apply("cards", step("k:2", { put: rowsOf(1300, 2) }));
  for (const at of [2, 500, 501, 502, 1000, 1001, 1300, 1301, 1302]) {
    const { error } = await withFault(FAULTS["aborted after its success"], at, act);
    assert.ok(error instanceof DOMException);
    const { position, rows } = await store.load("cards");
    assert.deepEqual([position, new Set(rows.map(([, { version }]) => version))], ["k:1", new Set([1])]);
  }
  assert.equal((await withFault(null, 0, act)).requests, 1302);
  const { position, rows } = await store.load("cards");
  assert.deepEqual([position, new Set(rows.map(([, { version }]) => version))], ["k:2", new Set([2])]);
  await store.close();
});

for (const count of [1999, 2000, 2001, 4000, 4001]) {
  test(`${count} rows are read in parts, each once`, async () => {
    const store = await idb(newName()).open(IDENTITY);
    const put = rowsOf(count, 1);
    await store.apply("cards", step("k:1", { put }));
    await store.apply("cards2", step("k:1", { put: [["", row(1)]] }));
    const { rows } = await store.load("cards");
    assert.deepEqual(new Map(rows), new Map(put));
    assert.equal(rows.length, count);
    await store.close();
  });
}

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

/** The documents at each position of a history that `random` makes. */
function historyOf(random, length) {
  const states = [new Map()];
  for (let seq = 1; seq <= length; seq += 1) {
    const next = new Map(states[seq - 1]);
    const id = `id ${Math.floor(random() * 6)}`;
    if (random() < 0.3) next.delete(id);
    else next.set(id, row(seq));
    states.push(next);
  }
  return states;
}

/** The step from one position to another, as frames of events make it. */
function stepOf(states, from, to) {
  const ids = new Set();
  for (let seq = from + 1; seq <= to; seq += 1) {
    for (const id of [...states[seq].keys(), ...states[seq - 1].keys()]) {
      if (states[seq].get(id) !== states[seq - 1].get(id)) ids.add(id);
    }
  }
  const put = [...ids].filter((id) => states[to].has(id)).map((id) => [id, states[to].get(id)]);
  return step(`k:${to}`, { put, remove: [...ids].filter((id) => !states[to].has(id)) });
}

test("tabs that share a database leave a state that was one, in any interleaving", async () => {
  let [stored, newest, missing, faults] = [0, 0, 0, 0];
  for (let seed = 1; seed <= 40; seed += 1) {
    const random = randomOf(seed);
    const states = historyOf(random, 30);
    const stores = idb(newName());
    const open = async () => {
      const store = await stores.open(IDENTITY);
      const saved = await store.load("cards");
      return { store, at: saved ? Number(saved.position.slice(2)) : null };
    };
    const tabs = [await open(), await open(), await open()];
    for (let turn = 0; turn < 60; turn += 1) {
      const index = Math.floor(random() * tabs.length);
      const tab = tabs[index];
      const kind = random();
      const to = Math.min(30, (tab.at ?? 0) + Math.floor(random() * 5));
      const broken = random() < 0.2;
      const act = async () => {
        if (kind < 0.08) {
          await tab.store.close();
          tabs[index] = await open();
        } else if (kind < 0.12) {
          tab.at = null;
          await tab.store.forget("cards");
        } else if (tab.at === null || kind < 0.2) {
          await tab.store.apply("cards", step(`k:${to}`, { put: [...states[to]], clear: true }));
          tab.at = to;
        } else {
          await tab.store.apply("cards", stepOf(states, tab.at, to));
          tab.at = to;
        }
      };
      // A step that fails is made again, joined with the next ones: the tab stands where it stood.
      const fault = FAULTS["aborted after its success"];
      const { error } = await withFault(fault, broken ? 1 + Math.floor(random() * 4) : 0, act);
      if (error) faults += 1;
      const reader = await stores.open(IDENTITY);
      const saved = await reader.load("cards");
      await reader.close();
      if (!saved) {
        missing += 1;
        continue;
      }
      const seq = Number(saved.position.slice(2));
      assert.deepEqual(new Map(saved.rows), states[seq], `seed ${seed}, turn ${turn}`);
      stored += 1;
      if (seq === Math.max(...tabs.map(({ at }) => at ?? 0))) newest += 1;
    }
    await Promise.all(tabs.map(({ store }) => store.close()));
  }
  assert.ok(stored > 1400 && missing > 20 && faults > 60, `${stored} ${missing} ${faults}`);
  assert.ok(newest > stored / 2, `${newest} of ${stored}`);
});

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
