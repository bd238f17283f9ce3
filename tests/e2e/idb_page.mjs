// A page that stores steps in IndexedDB, one after another, until its browser is killed. It says what it has found and
// what is stored. Each state follows from its position alone. Blocks are small, and often folded.

import { idb } from "../../clients/js/src/adapters/idb.js";

const LAYOUT = { block: 1000, dense: 8, most: 16, loose: 24, full: 48 };
const IDS = 500;
const SNAPSHOTS = 150; // steps from one to the next
const say = (what) => fetch("/said", { method: "POST", body: JSON.stringify(what) });
const numbers = (count) => Array.from({ length: count }, (_, index) => index);
const rowAt = (number, seq) => [`id ${number}`, { version: seq, doc: { _id: number, n: seq } }];

/** The step to a position: a snapshot, one of many rows, or one of few. */
function stepTo(seq) {
  const position = `k:${seq}`;
  if (seq % SNAPSHOTS === 1) {
    return { position, put: numbers(300 + (seq % 200)).map((number) => rowAt(number, seq)), remove: [], clear: true };
  }
  const count = seq % 10 === 0 ? 100 : 3;
  const changed = new Set(numbers(count).map((index) => (seq * 37 + index * 11) % IDS));
  const removed = numbers(count).map((index) => (seq * 53 + index) % IDS).filter((number) => !changed.has(number));
  const put = [...changed].map((number) => rowAt(number, seq));
  return { position, put, remove: removed.map((number) => `id ${number}`), clear: false };
}

/** The rows at a position. */
function stateAt(seq) {
  const rows = new Map();
  for (let at = Math.floor((seq - 1) / SNAPSHOTS) * SNAPSHOTS + 1; at <= seq; at += 1) {
    const { put, remove } = stepTo(at);
    for (const id of remove) rows.delete(id);
    for (const [id, row] of put) rows.set(id, row);
  }
  return rows;
}

const WRITE = { key: "unsent", order: 1, at: 1, collection: "cards", id: "id 0", method: "PATCH", body: { n: 0 } };

try {
  let lost = null;
  const report = ({ restored, missing }) => (lost = { restored, missing });
  const stores = idb("kills", { layout: LAYOUT });
  const store = await stores.open({ url: location.origin, principal: "ada", format: 1 }, report);
  const saved = await store.load("cards");
  let seq = saved ? Number(saved.position.slice(2)) : 0;
  const wanted = stateAt(seq);
  const same = ([id, row]) => JSON.stringify(row) === JSON.stringify(wanted.get(id));
  const isExact = !saved || (saved.rows.length === wanted.size && saved.rows.every(same));
  const unsent = (await store.queue()).length;
  if (!unsent) await store.enqueue(WRITE);
  await say({ found: seq, isExact, lost, unsent });
  for (;;) {
    seq += 1;
    await store.apply("cards", stepTo(seq));
    void say({ stored: seq });
  }
} catch (error) {
  await say({ error: String(error) });
}
