// The client package under Node, driven by lines on stdin: each is the body of an async function of `db` and `state`, and
// its result goes out as a line of JSON. `state.live()` waits until the client is live, `state.settled()` until all shapes
// have its writes. With the option `native` its values are those of JavaScript; `state.collectionOf(shape)` is a collection
// of TanStack DB.
//   node js_client.mjs OPTIONS

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import { eventsyncCollectionOptions } from "../../clients/js/src/adapters/tanstack-db.js";
import { createClient, memoryStore } from "../../clients/js/src/client.js";
import { native } from "../../clients/js/src/decode.js";

const options = JSON.parse(process.argv[2]);
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const state = { say, store: memoryStore(), rejected: [], asked: [], tokens: [...(options.tokens ?? [])] };
const token = options.tokens && { token: (why) => (state.asked.push(why), state.tokens.length > 1 ? state.tokens.shift() : state.tokens[0]) };
const { WebSocket } = options.ws ? await import(options.ws) : globalThis;
const decode = options.native && { decode: native() };
const create = () =>
  createClient({ principal: "one", ...options, ...token, ...decode, WebSocket, store: state.store, onRejected: ({ write, problem }) => state.rejected.push([write.id, problem.code]) });
let db = create();
state.live = () => new Promise((done) => (db.status.name === "live" ? done() : db.on("status", ({ name }) => name === "live" && done())));
state.settled = async () => {
  while (db.engine.outbox.size) await new Promise((done) => setTimeout(done, 5));
};
state.collectionOf = (shape, rest) => {
  const { createCollection } = createRequire(new URL("../../clients/js/package.json", import.meta.url))("@tanstack/db");
  return createCollection(eventsyncCollectionOptions({ shape, ...rest }));
};
const Body = (async () => {}).constructor;

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "again") {
    await db.close();
    db = create();
    say({ value: null });
    continue;
  }
  // Not awaited: a test may wait for one thing while another is under way.
  new Body("db", "state", JSON.parse(line))(db, state).then(
    (value) => say({ value: value ?? null }),
    (error) => say({ error: String(error?.stack ?? error) }),
  );
}
await db.close();
