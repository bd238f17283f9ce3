// RxDB in a page, set up as its documentation does: the storage on IndexedDB, and the replication with its server.

import { createRxDatabase } from "rxdb/plugins/core";
import { getRxStorageDexie } from "rxdb/plugins/storage-dexie";
import { replicateServer } from "rxdb-server/plugins/replication-server";

const properties = {
  id: { type: "string", maxLength: 20 }, n: { type: "number" }, at: { type: "number" }, text: { type: "string" },
};
const schema = { version: 0, primaryKey: "id", type: "object", properties, required: ["id"] };
let held; // for the heap: the documents of a query

globalThis.bench = {
  // ms from the start: `usable`, all stored documents are here; `first`, fifty of them; `exact`, it has caught up.
  async follow({ url, batch }) {
    const began = performance.now();
    const found = {};
    const db = await createRxDatabase({ name: "bench", storage: getRxStorageDexie(), multiInstance: false });
    const { docs } = await db.addCollections({ docs: { schema } });
    await docs.find({ limit: 50 }).exec();
    found.first = performance.now() - began;
    held = await docs.find().exec();
    found.usable = performance.now() - began;
    const replication = replicateServer({
      collection: docs, replicationIdentifier: "bench", url: `${url}/docs/0`, live: true, pull: { batchSize: batch },
    });
    replication.error$.subscribe((error) => (found.error = String(error)));
    await replication.awaitInitialReplication();
    found.exact = performance.now() - began;
    held = await docs.find().exec();
    return { ...found, count: held.length, sum: held.reduce((total, { n }) => total + n, 0) };
  },
};
