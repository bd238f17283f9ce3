// One tab of an application: it follows a collection, and keeps the events that it hears of, in `globalThis.tab`.
// `globalThis.options` are more options of its client.

import { createClient } from "../../clients/js/src/client.js";
import { idb } from "../../clients/js/src/adapters/idb.js";

const db = createClient({ store: idb("tabs"), onError: (error) => tab.errors.push(String(error)), ...globalThis.options });
const tab = { db, seqs: [], sources: [], errors: [], cards: db.collection("accounts"), statuses: [] };
globalThis.tab = tab;
tab.isLive = () => db.status.name === "live" && tab.cards.isLive;
tab.leads = () => db.tabs.tab.leads;
const text = (rows) => JSON.stringify(Object.entries(rows).map(([id, { version, doc }]) => [id, version, Object.entries(doc).sort()]).sort());
tab.shows = (rows) => text(Object.fromEntries(tab.cards.documents)) === text(rows);
db.on("status", ({ name }) => tab.statuses.push(name));
db.on("rejected", ({ problem }) => tab.errors.push(JSON.stringify(problem)));
tab.cards.subscribe(() => {});
for await (const { event, source } of tab.cards.changes()) {
  if (event) tab.seqs.push(event.seq);
  else tab.sources.push(source);
}
