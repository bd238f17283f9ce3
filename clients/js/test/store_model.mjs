// A model of the store in IndexedDB: tabs that write a history of documents into it, in small blocks, fold what is
// beside them at any time, fail at any request, and are killed. `run(seed)` drives them by one random interleaving, and
// checks after each turn that what is stored is the state of its position: no row is lost, and none comes back.

import assert from "node:assert/strict";

import { idb } from "../src/adapters/idb.js";
import { Fenced } from "../src/store.js";
import { FAULTS, withFault } from "./faults.mjs";
import { randomOf } from "./model.mjs";

const IDENTITY = { url: "http://127.0.0.1:8000/", principal: "ada", format: 1 };
const LAYOUT = { block: 400, dense: 3, most: 2, loose: 5, full: 12 };
const LENGTH = 60; // positions
const IDS = 40;
const TURNS = 50;
const SHAPES = ["cards", "cards?"];

/** The documents at each position. */
function historyOf(random) {
  const states = [new Map()];
  const pick = (from) => from[Math.floor(random() * from.length)];
  for (let seq = 1; seq <= LENGTH; seq += 1) {
    const next = new Map(states[seq - 1]);
    const changes = pick([1, 1, 2, 3, 30]);
    const isDeleting = random() < 0.3; // many at a time, so that blocks become empty
    if (random() < 0.05) next.clear();
    const first = Math.floor(random() * IDS);
    for (let change = 0; change < changes; change += 1) {
      const number = random() < 0.5 ? (first + change) % IDS : Math.floor(random() * IDS);
      const id = number ? `id ${number}` : "";
      if (isDeleting) next.delete(id);
      else next.set(id, { version: seq, doc: { n: pick([seq, -0, null, "x".repeat(random() < 0.1 ? 90 : 2)]) } });
    }
    states.push(next);
  }
  return states;
}

/** The step from one position to another, as frames of events make it: with each document that was changed between. */
function stepOf(states, from, to) {
  const ids = new Set();
  for (let seq = from + 1; seq <= to; seq += 1) {
    for (const id of [...states[seq].keys(), ...states[seq - 1].keys()]) {
      if (states[seq].get(id) !== states[seq - 1].get(id)) ids.add(id);
    }
  }
  const put = [...ids].filter((id) => states[to].has(id)).map((id) => [id, states[to].get(id)]);
  return { position: `k:${to}`, put, remove: [...ids].filter((id) => !states[to].has(id)), clear: false };
}

class Model {
  faults = 0;
  kills = 0;
  fenced = 0;
  missing = 0;
  folds = 0; // times that a store has got time for it
  waiting = [];

  constructor(seed) {
    this.random = randomOf(seed);
    this.states = historyOf(this.random);
    this.hasLeader = this.chance(0.5); // else each tab writes
    this.epoch = 0;
    const idle = () => new Promise((resolve) => this.waiting.push(resolve));
    this.stores = idb(`model ${seed}`, { layout: LAYOUT, idle });
  }

  chance(share) {
    return this.random() < share;
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  async open() {
    const store = await this.stores.open(IDENTITY);
    const at = new Map();
    for (const shape of SHAPES) at.set(shape, await this.position(store, shape));
    return { store, at, leads: !this.hasLeader };
  }

  async position(store, shape) {
    const saved = await store.load(shape);
    return saved ? Number(saved.position.slice(2)) : null;
  }

  async lead(tab) {
    this.epoch += 1;
    // As the next one does, which stores what its predecessor has not: it stands where that is stored.
    for (const shape of SHAPES) tab.at.set(shape, await this.position(tab.store, shape));
    await tab.store.lead(this.epoch, new Map());
    tab.leads = true;
  }

  /** One thing that a tab does to a shape. Returns where the tab stands then. */
  async act(tab, shape) {
    const { store, at } = tab;
    const own = at.get(shape);
    const lot = this.random();
    const to = Math.min(LENGTH, (own ?? 0) + this.pick([0, 1, 1, 2, 6]));
    if (lot < 0.04) {
      await store.forget(shape);
      return null;
    }
    const clear = own === null || lot < 0.1;
    const snapshot = { position: `k:${to}`, put: [...this.states[to]], remove: [], clear };
    await store.apply(shape, clear ? snapshot : stepOf(this.states, own, to));
    return to;
  }

  /** Let stores fold, one step of each. */
  fold(share) {
    for (const go of this.waiting.splice(0)) {
      if (this.chance(share)) {
        this.folds += 1;
        go();
      } else {
        this.waiting.push(go);
      }
    }
  }

  async turn() {
    const index = Math.floor(this.random() * this.tabs.length);
    const [tab, shape] = [this.tabs[index], this.pick(SHAPES)];
    if (this.hasLeader && this.chance(0.1)) await this.lead(tab);
    let stands = tab.at.get(shape);
    const isActing = tab.leads && this.chance(0.7);
    const work = async () => {
      if (this.chance(0.5)) {
        this.fold(0.7);
        if (this.chance(0.5)) await new Promise(setImmediate); // it is the first
      }
      if (isActing) stands = await this.act(tab, shape);
      this.fold(0.3);
      await new Promise(setImmediate);
      await tab.store.load("none").catch(() => {}); // behind all that has begun
    };
    const fault = this.pick(["aborted before it", "aborted behind it", "aborted after its success"]);
    const isFaulty = this.chance(0.3);
    const { error } = await withFault(FAULTS[fault], isFaulty ? 1 + Math.floor(this.random() * 25) : 0, work);
    if (error && !(error instanceof DOMException) && !(error instanceof Fenced)) throw error;
    if (error instanceof Fenced) {
      this.fenced += 1;
      tab.leads = false;
    } else {
      if (error) this.faults += 1;
      // A step that fails is made again, joined with the next ones: the tab stands where it stood.
      else tab.at.set(shape, stands);
    }
    if (this.chance(0.06)) {
      this.kills += 1;
      await tab.store.close();
      this.tabs[index] = await this.open();
    }
    for (const each of SHAPES) await this.check(each);
  }

  /** What is stored is a state that was one. */
  async check(shape) {
    const store = await this.stores.open(IDENTITY);
    try {
      const saved = await store.load(shape);
      if (!saved) return void (this.missing += 1);
      const state = this.states[Number(saved.position.slice(2))];
      assert.equal(saved.rows.length, state.size, `${shape} at ${saved.position}: rows`);
      assert.deepEqual(new Map(saved.rows), state, `${shape} at ${saved.position}`);
    } finally {
      await store.close();
    }
  }
}

/** Drive one random interleaving. */
export async function run(seed) {
  const model = new Model(seed);
  model.tabs = [await model.open(), await model.open(), await model.open()];
  for (let turn = 0; turn < TURNS; turn += 1) await model.turn();
  await Promise.all(model.tabs.map(({ store }) => store.close()));
  return model;
}
