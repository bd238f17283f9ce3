// The live page's sync client under Node, driven by lines on stdin; what happens goes out as JSON lines.
//   node --experimental-websocket browser_client.mjs URL TRANSPORT SHAPE…

import { createInterface } from "node:readline";

import { SyncClient } from "../../app/eventsync/web/sync_client.js";

const [url, transport, ...shapes] = process.argv.slice(2);
const client = new SyncClient({ url, transport, shapes, clientId: "browser-client" });
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

client.addEventListener("status", ({ detail }) => say({ ...detail, vector: client.vector }));
client.addEventListener("refused", ({ detail }) => say({ refused: detail }));
client.addEventListener("change", ({ detail: { kind, shape, changes, replayed } }) =>
  say({ kind, shape, replayed, seqs: changes.map(({ event }) => event?.seq), vector: client.vector }),
);

const commands = {
  start: () => client.start(),
  stop: () => client.stop(),
  sse: () => client.use("sse"),
  websocket: () => client.use("websocket"),
  documents: () => say({ documents: Object.fromEntries(shapes.map((shape) => [shape, Object.fromEntries(client.documents(shape))])) }),
};
for await (const line of createInterface({ input: process.stdin })) commands[line]();
client.stop();
