// The client of a page, with IndexedDB: `bench.follow` follows all documents, from what is stored if anything is.

import { idb } from "../../../clients/js/src/adapters/idb.js";
import { createClient } from "../../../clients/js/src/client.js";
import { prepared } from "./apply.mjs";

const sumOf = (rows) => [...rows.values()].reduce((total, { doc }) => total + doc.n, 0);
let held; // for the heap
let run;

globalThis.bench = {
  prepare({ kind, ...words }) {
    run = prepared(kind, words);
    return {};
  },
  run() {
    run();
    run = undefined;
    return {};
  },
  // ms from the start: `usable`, all stored documents are here; `exact`, it has caught up; `stored`, that is on the disk.
  async follow({ url }) {
    const began = performance.now();
    const found = {};
    const db = createClient({ url, store: idb("bench"), onError: (error) => (found.error = String(error)) });
    held = db.collection("docs");
    held.subscribe(({ source }) => {
      if (source === "cache") found.usable = performance.now() - began;
    });
    await new Promise((done) => db.on("status", ({ name }) => name === "live" && done()));
    found.exact = performance.now() - began;
    await db.flush();
    found.stored = performance.now() - began;
    return { ...found, count: held.documents.size, sum: sumOf(held.documents) };
  },
};
