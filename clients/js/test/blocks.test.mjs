// What the store in IndexedDB does with blocks of rows, and with the rows beside them.

import assert from "node:assert/strict";
import test from "node:test";

import "fake-indexeddb/auto";

import { idb } from "../src/adapters/idb.js";
import { resultOf } from "../src/adapters/database.js";
import { intercept, withFault } from "./faults.mjs";

let names = 0;
const newName = () => `blocks ${(names += 1)}`;
const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 1 };
const row = (version) => ({ version, doc: { _id: "a", n: version } });
const step = (position, changes) => ({ position, put: [], remove: [], clear: false, ...changes });
const rowsOf = (count, version) => Array.from({ length: count }, (_, index) => [`id ${index}`, row(version)]);

for (const count of [1, 1999, 2000, 2001, 4000, 4001]) {
  test(`${count} rows are read in parts, each once, from blocks and from beside them`, async () => {
    const put = rowsOf(count, 1);
    for (const layout of [{ block: 1000 }, { block: 1e9, dense: count + 1 }]) {
      const store = await idb(newName(), { layout }).open(IDENTITY);
      await store.apply("cards", step("k:1", { put }));
      await store.apply("cards2", step("k:1", { put: [["", row(1)]] }));
      const { rows } = await store.load("cards");
      assert.deepEqual(new Map(rows), new Map(put));
      assert.equal(rows.length, count);
      await store.close();
    }
  });
}

const SMALL = { block: 1000, dense: 16, most: 8, loose: 20, full: 40 };

/** Time for a store to fold, step by step. `all()` gives it until it wants no more; returns the steps that it took. */
function folding() {
  const waiting = [];
  const idle = () => new Promise((resolve) => waiting.push(resolve));
  const all = async (store) => {
    let steps = 0;
    for (let go = waiting.shift(); go; go = waiting.shift(), steps += 1) {
      go();
      await new Promise(setImmediate); // it begins
      await store.load("none"); // behind its transaction
    }
    return steps;
  };
  return { idle, all };
}

/** How many records there are of rows. */
async function records(store) {
  const transaction = (await store.connect()).transaction(["blocks", "rows"]);
  const count = (table) => resultOf(transaction.objectStore(table).count());
  const [blocks, beside] = [await count("blocks"), await count("rows")];
  return { blocks, beside };
}

test("a change of one row costs the same requests in a large shape", async () => {
  const costs = [];
  for (const count of [1, 5000]) {
    const store = await idb(newName()).open(IDENTITY);
    await store.apply("cards", step("k:1", { put: rowsOf(count, 1), clear: true }));
    for (const put of [[["id 0", row(2)]], [["id 0", { version: 3, doc: { text: "x".repeat(20_000) } }]]]) {
      const position = `k:${put[0][1].version}`;
      costs.push((await withFault(null, 0, () => store.apply("cards", step(position, { put })))).requests);
    }
    assert.deepEqual((await store.load("cards")).rows[0][1].version, 3);
    await store.close();
  }
  // A long row is merged at once, and may split a block.
  assert.ok(costs[0] === 3 && costs[2] === 3 && costs[1] < 10 && costs[3] < 10, `${costs}`);
});

test("what is beside the blocks is folded into them, in steps of a bounded size", async () => {
  const { idle, all } = folding();
  const store = await idb(newName(), { layout: { ...SMALL, full: 1000 }, idle }).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(400, 1), clear: true }));
  const wanted = new Map(rowsOf(400, 1));
  const { blocks } = await records(store);
  for (let seq = 2; seq < 30; seq += 1) {
    const [id, gone] = [`id ${(seq * 37) % 400}`, `id ${(seq * 91) % 399}`];
    if (id === gone) continue;
    wanted.set(id, row(seq));
    wanted.delete(gone);
    await store.apply("cards", step(`k:${seq}`, { put: [[id, row(seq)]], remove: [gone] }));
  }
  assert.equal((await records(store)).beside > SMALL.loose, true);
  let most = 0;
  let requests = 0;
  let former;
  const end = intercept((make, transaction) => {
    if (transaction !== former) requests = 0;
    former = transaction;
    most = Math.max(most, (requests += 1));
    return make();
  });
  const steps = await all(store);
  end();
  assert.ok(steps > 5 && most < 15, `${steps} steps of up to ${most} requests`);
  const after = await records(store);
  assert.ok(after.beside === 0 && after.blocks <= blocks + 2, JSON.stringify(after));
  assert.deepEqual(new Map((await store.load("cards")).rows), wanted);
  await store.close();
});

test("blocks whose rows are removed go with them", async () => {
  const { idle, all } = folding();
  const store = await idb(newName(), { layout: SMALL, idle }).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(400, 1), clear: true }));
  const ids = rowsOf(400, 1).map(([id]) => id);
  await store.apply("cards", step("k:2", { remove: ids.slice(1) }));
  await all(store);
  assert.deepEqual(await records(store), { blocks: 1, beside: 0 });
  assert.deepEqual((await store.load("cards")).rows.map(([id]) => id), [ids[0]]);
  await store.close();
});

test("a store that never has time to fold does not put ever more beside the blocks", async () => {
  const { idle } = folding();
  const store = await idb(newName(), { layout: SMALL, idle }).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(400, 1), clear: true }));
  for (let seq = 2; seq < 100; seq += 1) {
    await store.apply("cards", step(`k:${seq}`, { put: [[`id ${seq}`, row(seq)]] }));
  }
  assert.ok((await records(store)).beside <= SMALL.full);
  const { rows } = await store.load("cards");
  assert.equal(rows.filter(([id, { version }]) => id === `id ${version}`).length, 99); // with id 1
  await store.close();
});

test("a change of many rows counts more than all entries that were there before", async () => {
  const { idle } = folding();
  const store = await idb(newName(), { layout: { dense: 8, most: 3 }, idle }).open(IDENTITY);
  await store.apply("cards", step("k:1", { put: rowsOf(10, 1), clear: true }));
  await store.apply("cards", step("k:2", { put: rowsOf(7, 2) }));
  assert.deepEqual(await records(store), { blocks: 1, beside: 7 });
  await store.apply("cards", step("k:3", { put: rowsOf(8, 3) }));
  assert.deepEqual(await records(store), { blocks: 1, beside: 0 });
  assert.deepEqual((await store.load("cards")).rows.map(([, { version }]) => version), [3, 3, 3, 3, 3, 3, 3, 3, 1, 1]);
  await store.close();
});

test("ids and documents may have what is between rows", async () => {
  const { idle, all } = folding();
  const store = await idb(newName(), { layout: { ...SMALL, loose: 3 }, idle }).open(IDENTITY);
  const ids = ["", '"', "\\", '\\",\n["', "\n", "a\u2028b", "\ud800", "x".repeat(5000)].sort();
  const rows = ids.map((id) => [id, { version: 1, doc: { _id: id, [id]: [id, '"],\n["a",{', "\\"] } }]);
  await store.apply("cards", step("k:1", { put: rows, clear: true }));
  for (const [at, entry] of rows.entries()) await store.apply("cards", step(`k:${at + 2}`, { put: [entry] }));
  await store.apply("cards", step("k:20", { remove: [ids[1], ids[3]] }));
  await all(store);
  assert.equal((await records(store)).beside, 0);
  assert.deepEqual((await store.load("cards")).rows, rows.filter((_, at) => at !== 1 && at !== 3));
  await store.close();
});

test("a value keeps its sign if it is zero, beside a block and in it", async () => {
  const store = await idb(newName()).open(IDENTITY);
  const rows = [["a", { version: 1, doc: { list: [-0, 0, "-0"], "-0": -0 } }]];
  await store.apply("cards", step("k:1", { put: rows }));
  assert.deepEqual((await store.load("cards")).rows, rows);
  await store.apply("cards", step("k:2", { put: rows, clear: true }));
  assert.deepEqual((await store.load("cards")).rows, rows);
  await store.close();
});

/** A database as another version has made it. */
async function databaseOf(name, version, tables, fill = () => {}) {
  const request = indexedDB.open(`${name} ${JSON.stringify(Object.values(IDENTITY))}`, version);
  request.onupgradeneeded = () => {
    for (const table of tables) request.result.createObjectStore(table);
    fill(request.transaction);
  };
  await new Promise((resolve, reject) => Object.assign(request, { onsuccess: resolve, onerror: reject }));
  request.result.close();
}

test("what version 1 has stored, a record for each row, is read, changed and folded into blocks", async () => {
  const name = newName();
  const { idle, all } = folding();
  const write = { key: "k", order: 1, at: 1, collection: "cards", id: "a", method: "DELETE" };
  await databaseOf(name, 1, ["positions", "rows", "queue", "epoch"], (transaction) => {
    transaction.objectStore("positions").put("k:1", "cards");
    transaction.objectStore("queue").put(write, write.key);
    for (const entry of rowsOf(300, 1)) transaction.objectStore("rows").put(entry, ["cards", entry[0]]);
  });
  const store = await idb(name, { layout: SMALL, idle }).open(IDENTITY);
  assert.deepEqual(new Map((await store.load("cards")).rows), new Map(rowsOf(300, 1)));
  assert.deepEqual(await store.queue(), [write]);
  await store.apply("cards", step("k:2", { put: rowsOf(20, 2), remove: ["id 250"] }));
  const steps = await all(store);
  assert.ok(steps > 20, `${steps} steps`);
  const { blocks, beside } = await records(store);
  assert.ok(blocks > 5 && beside === 0, `${blocks} ${beside}`);
  const wanted = new Map([...rowsOf(300, 1), ...rowsOf(20, 2)]);
  wanted.delete("id 250");
  const again = await store.load("cards");
  assert.deepEqual([again.position, new Map(again.rows)], ["k:2", wanted]);
  await store.close();
});

test("what a newer version has stored is refused, and stays", async () => {
  const name = newName();
  await databaseOf(name, 3, ["something"]);
  await assert.rejects(idb(name).open(IDENTITY), /a newer version of eventsync has stored the database/);
  await databaseOf(name, 3, ["something else"], () => assert.fail("it was removed"));
});
