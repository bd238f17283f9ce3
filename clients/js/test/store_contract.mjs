// The tests that every store passes: `storeContract("idb", () => idb("…"))`.

import assert from "node:assert/strict";
import test from "node:test";

const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 1 };
const row = (version) => ({ version, doc: { _id: "a", n: version } });
const step = (position, changes) => ({ position, put: [], remove: [], clear: false, ...changes });
const write = (order, changes) => ({ key: `key ${order}`, order, at: 1, collection: "cards", id: "a", method: "DELETE", ...changes });

/**
 * @param {string} name
 * @param {() => import("../src/store.js").Store} create - Makes a new store each time, with nothing in it.
 */
export function storeContract(name, create) {
  test(`${name}: a shape that was never applied is not here`, async () => {
    const store = await create().open(IDENTITY);
    assert.equal(await store.load("cards"), null);
    await store.forget("cards");
    await store.close();
  });

  test(`${name}: rows and position of each step are kept`, async () => {
    const store = await create().open(IDENTITY);
    await store.apply("cards", step("k:1", { put: [["a", row(1)], ["b", row(1)]] }));
    await store.apply("cards/a", step("k:9", { put: [["a", row(3)]] }));
    await store.apply("cards", step("k:2", { put: [["a", row(2)]], remove: ["b", "never"] }));
    assert.deepEqual(await store.load("cards"), { position: "k:2", rows: [["a", row(2)]] });
    assert.deepEqual(await store.load("cards/a"), { position: "k:9", rows: [["a", row(3)]] });
    await store.close();
  });

  test(`${name}: a step that clears leaves only its own rows`, async () => {
    const store = await create().open(IDENTITY);
    await store.apply("cards", step("k:1", { put: [["a", row(1)], ["b", row(1)]] }));
    await store.apply("cards", step("k:2", { put: [["c", row(1)]], clear: true }));
    assert.deepEqual(await store.load("cards"), { position: "k:2", rows: [["c", row(1)]] });
    await store.apply("cards", step("k:3", { clear: true }));
    assert.deepEqual(await store.load("cards"), { position: "k:3", rows: [] });
    await store.close();
  });

  test(`${name}: a step without rows moves the position`, async () => {
    const store = await create().open(IDENTITY);
    await store.apply("cards", step("k:1", { put: [["a", row(1)]] }));
    await store.apply("cards", step("k:5", {}));
    assert.deepEqual(await store.load("cards"), { position: "k:5", rows: [["a", row(1)]] });
    await store.close();
  });

  test(`${name}: a forgotten shape is gone, and others stay`, async () => {
    const store = await create().open(IDENTITY);
    await store.apply("cards", step("k:1", { put: [["a", row(1)]] }));
    await store.apply("cards?", step("k:1", { put: [["a", row(1)]] }));
    await store.forget("cards");
    assert.equal(await store.load("cards"), null);
    assert.equal((await store.load("cards?"))?.rows.length, 1);
    await store.close();
  });

  test(`${name}: names that are special elsewhere are names like any other`, async () => {
    const store = await create().open(IDENTITY);
    const doc = JSON.parse('{"__proto__": {"bad": true}, "constructor": 1, "$set": 2, "a.b": 3}');
    for (const shape of ["__proto__", "a\u0000b", ""]) {
      await store.apply(shape, step("k:1", { put: [["__proto__", { version: 1, doc }], ["", row(1)], ["a\u0000b", row(2)]] }));
      const { rows } = await store.load(shape);
      assert.deepEqual(rows.map(([id]) => id).sort(), ["", "__proto__", "a\u0000b"]);
      assert.equal(JSON.stringify(rows.find(([id]) => id === "__proto__")[1].doc), JSON.stringify(doc));
    }
    await store.close();
  });

  test(`${name}: the queue is in order, by key, and independent of what is done to an entry later`, async () => {
    const store = await create().open(IDENTITY);
    const second = write(2, { method: "PATCH", body: { n: 2 } });
    await store.enqueue(second);
    await store.enqueue(write(10));
    await store.enqueue(write(1));
    second.body.n = 3;
    assert.deepEqual((await store.queue()).map(({ order, body }) => [order, body?.n]), [[1, undefined], [2, 2], [10, undefined]]);
    await store.enqueue(second);
    await store.dequeue("key 1");
    await store.dequeue("never");
    assert.deepEqual((await store.queue()).map(({ order, body }) => [order, body?.n]), [[2, 3], [10, undefined]]);
    await store.close();
  });

  test(`${name}: what is stored outlives a close, for the same identity only`, async () => {
    const stores = create();
    const first = await stores.open(IDENTITY);
    await first.apply("cards", step("k:1", { put: [["a", row(1)]] }));
    await first.enqueue(write(1));
    await first.close();
    for (const other of [{ principal: "bob" }, { format: 2 }, { url: "http://127.0.0.1:8001/" }]) {
      const store = await stores.open({ ...IDENTITY, ...other });
      assert.deepEqual([await store.load("cards"), await store.queue()], [null, []]);
      await store.close();
    }
    const again = await stores.open(IDENTITY);
    assert.deepEqual(await again.load("cards"), { position: "k:1", rows: [["a", row(1)]] });
    assert.equal((await again.queue()).length, 1);
    await again.destroy();
    const after = await stores.open(IDENTITY);
    assert.deepEqual([await after.load("cards"), await after.queue()], [null, []]);
    await after.close();
  });
}
