// `createClient` against a small server of its own: what the transports read and send, and what an application sees.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import test from "node:test";

import { createClient, idText, idValue, memoryStore, newId } from "../src/client.js";
import { Persister, joined } from "../src/persister.js";
import { Tokens } from "../src/requests.js";
import { eventsOf, vectorText } from "../src/transports.js";
import { Arrivals, ScriptedServer, failingOnErrors } from "./scripted.mjs";

const WELCOME = { type: "welcome", session: "s", client_id: "c", protocol: 1, heartbeat: 25, vector: {} };
const snapshot = (shape, position, docs) => ({ type: "snapshot", shape, position, part: 0, last: true, docs });
const row = (id, version, doc) => ({ id, version, doc: { _id: id, ...doc } });

/** Answers requests by `answer(request, body, response)`; what that returns is the JSON of a 200. */
async function serving(t, answer) {
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray();
    const body = chunks.length ? JSON.parse(Buffer.concat(chunks)) : undefined;
    const said = await answer(request, body, response);
    if (said !== undefined) response.setHeader("Content-Type", "application/json").end(JSON.stringify(said));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (server.closeAllConnections(), server.close()));
  return `http://127.0.0.1:${server.address().port}/below`;
}

function problem(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/problem+json" }).end(JSON.stringify({ status, ...body }));
}

/** An event stream that stays open; returns the function that sends a message by it. */
function stream(response, ...messages) {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write("retry: 9999\n\n");
  const send = (message) => response.write(`event: ${message.type}\r\nid: x\r\ndata: ${JSON.stringify(message)}\r\n\r\n`);
  messages.forEach(send);
  return send;
}

function client(t, options) {
  const db = createClient({ WebSocket: undefined, linger: 0, ...failingOnErrors(t), ...options });
  t.after(() => db.close());
  return db;
}

/** Resolves with the first notice of a shape for which `wanted` is true. */
function notice(handle, wanted) {
  return new Promise((resolve) => {
    const end = handle.subscribe((said) => wanted(said) && (end(), resolve(said)));
  });
}

const until = (db, name) =>
  new Promise((resolve) => {
    if (db.status.name === name) return resolve(db.status);
    const end = db.on("status", (status) => status.name === name && (end(), resolve(status)));
  });

test("an event stream is read, with the token in a header, and a write is seen at once", async (t) => {
  let send;
  const asked = [];
  const url = await serving(t, (request, body, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://h");
    if (pathname === "/below/v1/sync/sse") {
      asked.push([searchParams.getAll("shape"), request.headers.authorization]);
      send = stream(response, WELCOME, snapshot("c", "k:5", [row("a", 1, { n: 1 })]), { type: "live", shape: "c", position: "k:5" });
      return undefined;
    }
    assert.deepEqual([request.method, pathname, request.headers["content-type"]], ["PATCH", "/below/v1/collections/c/documents/a", "application/merge-patch+json"]);
    assert.deepEqual([body, request.headers["if-match"], request.headers.authorization], [{ n: 2 }, '"1"', "Bearer t1"]);
    const event = { seq: 6, collection: "c", id: "a", op: "update", base: 1, version: 2, patch: [{ op: "replace", path: "/n", value: 2 }], op_id: request.headers["idempotency-key"] };
    send({ type: "events", shape: "c", from: "k:5", to: "k:6", events: [event] });
    return { id: "a", version: 2 };
  });
  const db = client(t, { url, transport: "sse", token: async () => "t1" });
  const cards = db.collection("c");
  const seen = [];
  const settled = new Promise((resolve) => {
    cards.subscribe(({ source, changes, documents }) => {
      seen.push([source, changes.map(({ after }) => [after.doc.n, after.pending ?? false])]);
      if (documents.get("a").version === 2) resolve();
    });
  });
  await until(db, "live");
  const first = cards.list;
  const { done } = await cards.patch("a", { n: 2 }, { ifMatch: 1 });
  assert.deepEqual([cards.get("a").n, cards.documents.get("a").pending, db.status.pending], [2, true, 1]);
  assert.notEqual(cards.list, first);
  assert.equal(cards.list, cards.list);
  assert.equal((await done).version, 2);
  await settled;
  assert.deepEqual(seen, [["snapshot", [[1, false]]], ["local", [[2, true]]], ["events", [[2, false]]]]);
  assert.deepEqual(asked, [[["c"], "Bearer t1"]]);
  assert.deepEqual(db.vector, { c: "k:6" });
});

test("long polls: a snapshot in lines, then pages, then a wait; a reset loads it again", async (t) => {
  const queries = [];
  let reset = false;
  const url = await serving(t, async (request, _body, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://h");
    if (pathname.endsWith("/snapshot")) {
      response.end(`${JSON.stringify({ shape: "c", position: reset ? "z:1" : "k:5" })}\n${JSON.stringify(row("a", 1, { n: reset ? 9 : 1 }))}\n`);
      return undefined;
    }
    const query = Object.fromEntries(searchParams);
    queries.push(query);
    if (query.position === "k:6" && !reset) {
      reset = true;
      return problem(response, 409, { code: "reset", reason: "unknown_log" });
    }
    if (query.wait && query.position === "z:1") return new Promise(() => {});
    const event = { seq: 6, collection: "c", id: "a", op: "update", base: 1, version: 2, patch: [{ op: "replace", path: "/n", value: 2 }] };
    return query.position === "k:5" ? { shape: "c", from: "k:5", to: "k:6", events: [event], live: true } : { shape: "c", from: query.position, to: query.position, events: [], live: true };
  });
  const db = client(t, { url, transport: "poll" });
  const resets = [];
  db.on("reset", ({ reason }) => resets.push(reason));
  await notice(db.collection("c"), ({ documents }) => documents.get("a")?.doc.n === 9);
  assert.deepEqual(resets, ["unknown_log"]);
  assert.deepEqual(queries.slice(0, 2).map(({ position, wait }) => [position, wait]), [["k:5", undefined], ["k:6", "20"]]);
});

for (const [status, body, name] of [[403, { code: "forbidden", detail: "the origin" }, "failed"], [503, { code: "unavailable", detail: "later" }, "waiting"]]) {
  test(`an event stream that is answered by ${status}: ${name}`, async (t) => {
    const url = await serving(t, (_request, _body, response) => problem(response, status, body));
    const db = client(t, { url, transport: "sse" });
    db.collection("c").subscribe(() => {});
    assert.equal((await until(db, name)).reason, body.detail);
  });
}

/** Answers that are not the server's, as of a proxy before it. */
const FOREIGN = [[404, "404 page not found"], [403, "<html>blocked</html>"], [401, ""], [400, '{"code":400}'], [410, '"gone"'], [403, "null"], [426, "[]"]];

for (const transport of ["sse", "poll"]) {
  test(`an answer that is not the server's ends no shape, by ${transport}`, async (t) => {
    const left = [...FOREIGN];
    let isFirst = true;
    const url = await serving(t, (request, _body, response) => {
      const [status, text] = (!isFirst && left.shift()) || [200];
      if (status !== 200) return void response.writeHead(status, { "Retry-After": "0" }).end(text);
      if (transport === "poll") {
        if (!isFirst) return { from: "k:5", to: "k:5", events: [], live: true };
        response.write(`${JSON.stringify({ shape: "c", position: "k:5" })}\n${JSON.stringify(row("a", 1))}\n`);
      } else {
        stream(response, WELCOME, isFirst ? snapshot("c", "k:5", [row("a", 1)]) : { type: "live", shape: "c", position: "k:5" });
      }
      if (isFirst || transport === "poll") response.end();
      isFirst = false;
      return undefined;
    });
    const db = client(t, { url, transport, token: () => "t" });
    db.engine.core.random = () => 0; // no delay
    const names = [];
    db.on("status", ({ name }) => names.push(name));
    const cards = db.collection("c");
    const seen = [];
    cards.subscribe(({ documents }) => seen.push(documents.size));
    await new Promise((resolve) => db.on("status", ({ name }) => ["live", "failed", "stopped"].includes(name) && resolve()));
    assert.deepEqual([names.at(-1), left, seen], ["live", [], [1]]);
  });
}

test("a write is repeated until the server itself has answered, or any proxy has said that it is too large", async (t) => {
  const answers = [...FOREIGN, [200, ""], [200, "{}"], [200, "<html>log in</html>"], [412, '{"code":"version_mismatch"}'], [413, "<html>too large</html>"]];
  const keys = new Set();
  const url = await serving(t, (request, _body, response) => {
    keys.add(request.headers["idempotency-key"]);
    const [status, text] = answers.shift();
    response.writeHead(status).end(text);
  });
  const db = client(t, { url });
  db.engine.outbox.random = () => 0;
  for (const code of ["version_mismatch", "http_error"]) {
    const { done } = await db.collection("c").patch("a", { n: 1 });
    await assert.rejects(done, { code });
  }
  assert.deepEqual([answers, keys.size], [[], 2]);
});

test("401 asks for another token, for the stream and for a write", async (t) => {
  const url = await serving(t, (request, _body, response) => {
    if (request.headers.authorization !== "Bearer t2") return problem(response, 401, { code: "unauthenticated", reason: "token_expired" });
    if (request.method === "POST") return { id: "x", version: 1 };
    return void stream(response, WELCOME, snapshot("c", "k:5", []), { type: "live", shape: "c", position: "k:5" });
  });
  const asked = [];
  const token = (why) => (asked.push(why), why === "refused" ? "t2" : "t1");
  const db = client(t, { url, transport: "sse", token });
  db.collection("c").subscribe(() => {});
  await until(db, "live");
  assert.deepEqual(asked, ["connect", "refused"]);
  const other = client(t, { url, transport: "sse", token });
  await (await other.collection("c").insert({ _id: "x" })).done;
});

test("a shape is loaded once the store or the server has said what is in it", async (t) => {
  const server = new ScriptedServer();
  const db = client(t, server.options);
  const cards = db.collection("c");
  db.stop();
  const own = notice(cards, ({ documents }) => documents.has("a"));
  await cards.insert({ _id: "a" });
  assert.deepEqual([(await own).source, cards.isLoaded], ["local", false]);
  const first = notice(cards, ({ source }) => source === "snapshot");
  db.start();
  await first;
  assert.equal(cards.isLoaded, true);
});

test("a write has settled once the shape that it was made through has it", async (t) => {
  const server = new ScriptedServer({ c: { a: { n: 1 } } });
  const db = client(t, { ...server.options, WebSocket: server.options.WebSocket });
  db.shape("others", {}, { collection: "c" }).subscribe(() => {}); // never gets the event
  db.document("c", "a").subscribe(() => {});
  db.collection("c").subscribe(() => {});
  await until(db, "live");
  const order = [];
  const note = (name) => () => order.push(name);
  const { done, settled, key } = await db.collection("c").patch("a", { n: 2 });
  const both = Promise.all([done.then(note("done")), settled.then(note("settled"))]);
  (await server.requests.next()).answer(200, { id: "a", version: 2 });
  await done;
  const event = { id: "a", op: "create", version: 2, doc: { _id: "a", n: 2 }, op_id: key };
  server.events("c/a", event);
  await new Promise(setImmediate);
  order.push("event");
  server.events("c", event);
  await both;
  assert.deepEqual(order, ["done", "event", "settled"]);
  const unfollowed = await db.document("c", "b").replace({ n: 3 });
  (await server.requests.next()).answer(201, { id: "b", version: 1 });
  await unfollowed.settled;
  const refused = await db.collection("c").patch("a", { n: 4 });
  (await server.requests.next()).answer(403, { code: "forbidden" });
  await assert.rejects(refused.settled, { code: "forbidden" });
});

test("a refused write is taken back, and reported", async (t) => {
  const url = await serving(t, (request, _body, response) => {
    if (request.method === "DELETE") return problem(response, 403, { code: "forbidden", detail: "not yours" });
    return void stream(response, WELCOME, snapshot("c", "k:5", [row("a", 1)]), { type: "live", shape: "c", position: "k:5" });
  });
  const rejections = [];
  const db = client(t, { url, transport: "sse", onRejected: ({ write, problem: { code } }) => rejections.push([write.id, code]) });
  const cards = db.collection("c");
  await Promise.all([until(db, "live"), notice(cards, ({ documents }) => documents.size === 1)]);
  cards.subscribe(() => {});
  const { done } = await cards.remove("a");
  assert.equal(cards.documents.size, 0);
  await assert.rejects(done, { code: "forbidden", status: 403, message: "not yours" });
  assert.deepEqual([cards.documents.size, rejections], [1, [["a", "forbidden"]]]);
});

test("a client that comes back has its documents at once, and sends what it had queued with the same key", async (t) => {
  const store = memoryStore();
  const keys = [];
  let reachable = false;
  const url = await serving(t, (request, _body, response) => {
    if (request.method !== "POST") return void stream(response, WELCOME, snapshot("c", "k:5", [row("a", 1)]), { type: "live", shape: "c", position: "k:5" });
    keys.push(request.headers["idempotency-key"]);
    if (!reachable) return void request.destroy();
    return { id: "b", version: 1 };
  });
  const first = client(t, { url, transport: "sse", store });
  first.collection("c").subscribe(() => {});
  await until(first, "live");
  await first.collection("c").insert({ _id: "b" });
  await first.flush();
  await first.close();
  reachable = true;
  const again = client(t, { url, transport: "sse", store });
  await again.ready;
  again.stop();
  const { documents, source } = await notice(again.collection("c"), () => true);
  assert.deepEqual([source, [...documents.keys()].sort(), documents.get("b").pending], ["cache", ["a", "b"], true]);
  again.start();
  await new Promise((resolve) => again.on("status", ({ pending }) => pending === 0 && resolve()));
  assert.equal(new Set(keys).size, 1);
});

test("a write of a former process is sent with its version, once the server may have forgotten its key", async (t) => {
  const HOUR = 3600_000;
  const sent = [];
  const url = await serving(t, (request, body) => {
    sent.push([body.n, request.headers["if-match"]]);
    return { id: body.id, version: 5 };
  });
  const written = (order, age, changes) => ({ key: `k${order}`, order, at: Date.now() - age, collection: "c", id: `${order}`, method: "PATCH", body: { n: order }, ...changes });
  const queue = [
    written(1, 22 * HOUR, { base: 4 }),
    written(2, 25 * HOUR, { base: 4 }),
    written(3, 25 * HOUR),
    written(4, 25 * HOUR, { base: 4, ifMatch: "*" }),
    written(5, -60_000, { base: 4 }), // the clock was set right
    written(6, -25 * HOUR, { base: 4 }), // the clock was set back: nobody knows how old it is
  ];
  const store = { open: async () => ({ load: async () => null, queue: async () => queue, dequeue: async () => {}, close: async () => {} }) };
  const rejections = [];
  const db = client(t, { url, store, onRejected: ({ write, problem: { code } }) => rejections.push([write.id, code]) });
  await new Promise((resolve) => db.on("status", ({ pending }) => pending === 0 && resolve()));
  assert.deepEqual(sent.sort(), [[1, undefined], [2, '"4"'], [4, '"4"'], [5, undefined], [6, '"4"']]);
  assert.deepEqual(rejections, [["3", "outcome_unknown"]]);
});

test("a write that a snapshot may lack settles at a barrier, which is asked for again after 503, and of a new log", async (t) => {
  let send;
  const asked = [];
  const url = await serving(t, (request, body, response) => {
    if (request.url.endsWith("/v1/barrier")) {
      asked.push([request.method, request.headers["content-type"], body]);
      if (asked.length === 1) return problem(response.setHeader("Retry-After", "0"), 503, { code: "unavailable" });
      send({ type: "reset", shape: "c", reason: "unknown_log" });
      send(snapshot("c", "z.5f:3", []));
      return { log: "z", seq: 3 };
    }
    if (request.method === "DELETE") {
      send(snapshot("c", "k.5f:5", [row("a", 1)]));
      return { id: "a", version: 2 };
    }
    send = stream(response, WELCOME, snapshot("c", "k.5f:4", [row("a", 1)]), { type: "live", shape: "c", position: "k.5f:4" });
    return undefined;
  });
  const db = client(t, { url, transport: "sse" });
  const cards = db.collection("c");
  await Promise.all([until(db, "live"), notice(cards, ({ documents }) => documents.size === 1)]);
  cards.subscribe(() => assert.equal(cards.documents.size, 0));
  await (await cards.remove("a")).done;
  while (db.engine.outbox.size) await new Promise((done) => setTimeout(done, 5));
  assert.deepEqual(asked, Array(2).fill(["POST", "application/json", {}]));
});

test("a barrier that the server refuses says when to ask again", async (t) => {
  const url = await serving(t, (_request, _body, response) => problem(response.setHeader("Retry-After", "3"), 503, { code: "unavailable" }));
  await assert.rejects(client(t, { url }).barrier(), { code: "unavailable", status: 503, retryAfter: 3 });
});

test("changes() gives what the server has confirmed, and ends with the reader or with the client", async (t) => {
  let send;
  const url = await serving(t, (_request, _body, response) => {
    send = stream(response, WELCOME, snapshot("c", "k:5", [row("a", 1)]), { type: "live", shape: "c", position: "k:5" });
  });
  const db = client(t, { url, transport: "sse", maxChanges: 3 });
  const found = [];
  for await (const { kind, id, source, position } of db.collection("c").changes()) {
    found.push([kind, id, source, position]);
    if (kind === "delete") break;
    send({ type: "events", shape: "c", from: "k:5", to: "k:6", events: [{ seq: 6, collection: "c", id: "a", op: "delete", base: 1, version: 2 }] });
  }
  assert.deepEqual(found, [["create", "a", "snapshot", "k:5"], ["delete", "a", "events", "k:6"]]);
  const slow = db.collection("d").changes();
  db.collection("d").confirmed({ changes: [{}, {}, {}, {}], position: "k:7" });
  await assert.rejects(slow.next(), /maxChanges/);
  for (const [count, isEnded] of [[4, false], [5, true]]) {
    const asking = db.collection(`d${count}`).changes();
    const first = asking.next(); // asked for, so it does not count
    db.collection(`d${count}`).confirmed({ changes: Array.from({ length: count }, (_, n) => ({ n })), position: "k:7" });
    assert.equal((await first).value.n, 0);
    if (isEnded) await assert.rejects(asking.next(), /maxChanges/);
    else for (const n of [1, 2, 3]) assert.equal((await asking.next()).value.n, n);
    assert.equal(isEnded && (await asking.next()).done, isEnded);
  }
  const other = db.collection("e").changes();
  const next = other.next();
  await db.close();
  assert.equal((await next).done, true);
});

test("a declared shape shows own writes that match, and needs its collection for writing", async (t) => {
  const url = await serving(t, (request, _body, response) => {
    if (request.method === "PATCH") return new Promise(() => {});
    const shape = "mine?m=int:1";
    return void stream(response, WELCOME, snapshot(shape, "k.5f:5", [row("a", 1, { m: 1 })]), { type: "live", shape, position: "k.5f:5" });
  });
  const db = client(t, { url, transport: "sse" });
  const mine = db.shape("mine", { m: 1 }, { collection: "c", matches: ({ m }) => m === 1 });
  mine.subscribe(() => {});
  await until(db, "live");
  await mine.patch("a", { m: 2 });
  assert.deepEqual([...mine.documents.keys()], []);
  await assert.rejects(db.shape("other").patch("a", {}), /name the collection/);
});

test("ids have the texts of the server", () => {
  const oid = newId();
  assert.match(oid, /^[0-9a-f]{24}$/);
  const uuid = { $binary: { base64: "ESIzRFVmd4iZqrvM3e7/AA==", subType: "04" } };
  const pairs = [["abc", "abc"], ["str:int:5", "int:5"], [`str:${oid}`, oid], [oid, { $oid: oid }], ["int:42", 42], ["str:..", ".."], ["uuid:11223344-5566-7788-99aa-bbccddeeff00", uuid]];
  for (const [text, value] of pairs) assert.deepEqual([idText(value), idValue(text)], [text, value]);
  assert.deepEqual(idValue("int:9007199254740993"), { $numberLong: "9007199254740993" });
  assert.throws(() => idText({ $date: "2026-01-01T00:00:00Z" }), TypeError);
});

test("only an object is a document", async (t) => {
  const db = client(t, { url: "http://127.0.0.1:1" });
  const cards = db.collection("cards");
  for (const doc of ["text", ["list"], null, 7]) {
    await assert.rejects(cards.insert(doc), /a document is an object/);
    await assert.rejects(cards.replace("a", doc), /a document is an object/);
  }
  assert.equal(db.status.pending, 0);
});

test("a vector in a URL: by name while it is short, in the order of the shapes when it is long", () => {
  assert.equal(vectorText(["a", "b/c"], { a: "k3f9ab2c:1", "b/c": "k3f9ab2c:2" }), "a=k3f9ab2c%3A1&b%2Fc=k3f9ab2c%3A2");
  assert.equal(vectorText(["a"], {}), "");
  const shapes = ["a", "b", "c", "d", "e"].map((name) => name.repeat(300));
  const positions = ["k3f9ab2c:128", "k3f9ab2c:131", undefined, "zzzzzzzz:5", "zzzzzzzz:6"];
  const vector = Object.fromEntries(shapes.map((shape, at) => [shape, positions[at]]).filter(([, position]) => position));
  assert.equal(vectorText(shapes, vector), "k3f9ab2c:128,131,,zzzzzzzz:5,6");
});

test("events of a stream: several data lines, comments, and a retry without a blank line after it", async () => {
  async function* lines() {
    yield* [": hello", "retry: 100", "", "event: x", "data: a", "data:b", "", "data", "", "retry: 250"];
  }
  assert.deepEqual(await Array.fromAsync?.(eventsOf(lines())) ?? await collected(eventsOf(lines())), [{ retry: 100 }, { data: "a\nb" }, { data: "" }, { retry: 250 }]);
});

async function collected(items) {
  const all = [];
  for await (const item of items) all.push(item);
  return all;
}

test("two steps of a store are joined in their order", () => {
  const step = (changes) => ({ position: "k:1", put: [], remove: [], clear: false, ...changes });
  const first = step({ put: [["a", 1], ["b", 1]], remove: ["c"], clear: true });
  const second = step({ position: "k:2", put: [["c", 2]], remove: ["a"] });
  assert.deepEqual(joined(first, second), { position: "k:2", put: [["b", 1], ["c", 2]], remove: ["a"], clear: true });
  assert.equal(joined(first, step({ clear: true })).put.length, 0);
});

test("what matches, decode and onError throw is reported, and stops nothing", async (t) => {
  const server = new ScriptedServer({ c: { a: { n: 1 }, b: { bad: 1 } } });
  const said = [];
  const onError = ({ message }) => {
    said.push(message);
    throw new Error("onError");
  };
  t.mock.method(console, "error", () => {});
  const decode = (doc) => {
    if (doc.bad) throw new Error(`decode ${doc._id}`);
    return { ...doc, isDecoded: true };
  };
  const db = client(t, { ...server.options, WebSocket: server.options.WebSocket, onError, decode: { decode, encode: (value) => value } });
  const cards = db.collection("c");
  cards.subscribe(() => {
    throw new Error("subscriber");
  });
  const matches = () => {
    throw new Error("matches");
  };
  const mine = db.shape("mine", {}, { collection: "c", matches });
  mine.subscribe(() => {});
  await until(db, "live");
  assert.deepEqual(Object.fromEntries(cards.documents), { a: { version: 1, doc: { _id: "a", n: 1, isDecoded: true } }, b: { version: 1, doc: { _id: "b", bad: 1 } } });
  const { done } = await mine.insert({ _id: "d", n: 1 });
  const other = await cards.patch("a", { n: 2 });
  assert.deepEqual([mine.documents.size, cards.get("d").n, cards.get("a").n], [0, 1, 2]);
  for (const id of ["d", "a"]) (await server.requests.next()).answer(200, { id, version: 2, doc: { _id: id, bad: 2 } });
  assert.deepEqual([(await done).doc, (await other.done).doc], [{ _id: "d", bad: 2 }, { _id: "a", bad: 2 }]);
  server.events("c", { id: "b", op: "update", version: 2, patch: [{ op: "remove", path: "/bad" }] });
  assert.equal(cards.get("b").isDecoded, true);
  assert.deepEqual([...new Set(said)].sort(), ["decode a", "decode b", "decode d", "matches", "subscriber"]);
});

test("a token function that does not answer is asked again", async (t) => {
  const url = await serving(t, (request) => ({ id: "a", version: 2, doc: request.headers.authorization }));
  const answers = [new Promise(() => {}), new Promise(() => {}), "t3"];
  const tokens = new Tokens(() => answers.shift(), 10);
  await assert.rejects(tokens.fresh("refused"), /does not answer/);
  const db = client(t, { url });
  db.http.tokens = tokens;
  const { done } = await db.collection("c").patch("a", { n: 1 });
  assert.equal((await done).doc, "Bearer t3");
});

test("tokens are asked for once at a time", async () => {
  let count = 0;
  const tokens = new Tokens(async () => `t${(count += 1)}`);
  assert.deepEqual(await Promise.all([tokens.fresh("connect"), tokens.present(), tokens.fresh("connect")]), ["t1", "t1", "t1"]);
  assert.deepEqual([await tokens.present(), await tokens.fresh("refused"), await tokens.present()], ["t1", "t2", "t2"]);
  assert.equal(await new Tokens(undefined).present(), null);
});

test("what a store fails to keep is tried again, joined with what came since; a client that ends does not wait for it", async (t) => {
  const applied = [];
  let failing = true;
  const store = {
    load: async () => null,
    apply: async (_shape, step) => {
      if (failing) throw new Error("full");
      applied.push(step);
    },
    queue: async () => [],
    close: async () => {},
  };
  const errors = [];
  const persister = new Persister(Promise.resolve(store), { durable: (shape, position) => applied.push([shape, position]), failed: ({ message }) => errors.push(message) });
  t.mock.timers.enable({ apis: ["setTimeout"] });
  persister.apply("c", { position: "k:1", put: [["a", 1]], remove: [], clear: true });
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  persister.apply("c", { position: "k:2", put: [["b", 2]], remove: ["a"], clear: false });
  failing = false;
  t.mock.timers.tick(1000);
  await persister.settled();
  assert.deepEqual(applied, [{ position: "k:2", put: [["b", 2]], remove: ["a"], clear: true }, ["c", "k:2"]]);
  failing = true;
  persister.apply("c", { position: "k:3", put: [], remove: [], clear: false });
  await persister.finish();
  assert.deepEqual(errors, ["full", "full"]);
});

test("what has to come after a step is repeated until the store has done it, in order and each once", async (t) => {
  const done = [];
  let failures = 2;
  const dequeue = async (key) => {
    if (key === "b" && failures-- > 0) throw new Error("lost");
    done.push(key);
  };
  const failed = new Arrivals();
  const persister = new Persister(Promise.resolve({ dequeue }), { durable: () => {}, failed: ({ message }) => failed.add(message) });
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const key of ["a", "b", "c"]) persister.then((store) => store.dequeue(key));
  for (let count = 0; count < 2; count += 1) {
    assert.equal(await failed.next(), "lost");
    await new Promise(setImmediate); // it rests now
    assert.deepEqual(done, ["a"]);
    t.mock.timers.tick(1000);
  }
  await persister.settled();
  assert.deepEqual(done, ["a", "b", "c"]);
});

test("a store is for one user: with a token, the client needs its principal", async () => {
  const given = { url: "http://127.0.0.1:1", token: () => "t", store: memoryStore() };
  assert.throws(() => createClient(given), /principal is needed/);
  for (const options of [{ ...given, principal: "ada" }, { ...given, store: undefined }, { ...given, token: undefined }]) {
    await createClient(options).close();
  }
});

// --- by which transport -----------------------------------------------------------------------------------------------

const LIVE = [{ ...WELCOME, heartbeat: 3600 }, snapshot("cards", "k:1", []), { type: "live", shape: "cards", position: "k:1" }];

/** A client that chooses its transport; `next` returns what it opens next, to be made `live` or `lost`. */
function choosing(t, options) {
  t.mock.method(Math, "random", () => 0); // it waits for nothing before an attempt
  const opened = new Arrivals();
  class Socket {
    constructor() {
      opened.add({ name: "websocket", live: () => this.live(), lost: () => this.onclose({ code: 1006, reason: "" }) });
    }

    live() {
      this.onopen();
      for (const message of LIVE) this.onmessage({ data: JSON.stringify(message) });
    }

    send() {}
    close() {}
  }
  const fetch = (address, { method }) =>
    new Promise((resolve, reject) => {
      const { pathname } = new URL(address);
      let stream;
      const live = () => {
        const text = LIVE.map((message) => `data: ${JSON.stringify(message)}\n\n`).join("");
        resolve(new Response(new ReadableStream({ start: (it) => (stream = it).enqueue(new TextEncoder().encode(text)) })));
      };
      const lost = () => (stream ? stream.close() : reject(new TypeError("no network")));
      const answer = (status, body) => resolve(new Response(body, { status }));
      opened.add({ name: pathname.split("/").at(-1), method, live, lost, answer });
    });
  const db = client(t, { url: "http://scripted", WebSocket: Socket, fetch, ...options });
  db.collection("cards").subscribe(() => {});
  const next = async (name) => {
    const found = await opened.next();
    assert.equal(found.name, name);
    return found;
  };
  const live = async (name) => {
    const found = await next(name);
    found.live();
    await until(db, "live");
    return found;
  };
  return { db, next, live };
}

test("a client that had a WebSocket tries it twice before an event stream", async (t) => {
  const { next, live } = choosing(t);
  (await live("websocket")).lost();
  (await live("websocket")).lost();
  (await next("websocket")).lost();
  (await next("websocket")).lost();
  (await live("sse")).lost();
});

test("a client behind a proxy without WebSockets tries one now and then", async (t) => {
  let later = 0;
  const now = performance.now.bind(performance);
  t.mock.method(performance, "now", () => now() + later);
  const { db, next, live } = choosing(t);
  (await next("websocket")).lost();
  (await live("sse")).lost();
  later = 599_000;
  db.collection("cards/a"); // a handle alone connects nothing
  (await live("sse")).lost();
  later = 601_000;
  (await next("websocket")).lost();
  (await live("sse")).lost();
  (await next("sse")).lost();
  (await next("websocket")).lost();
  (await next("log")).lost();
  await next("websocket");
});

test("shapes that are too many for one address are followed by another transport", async (t) => {
  const { db, next, live } = choosing(t);
  for (const status of [414, 426, 431]) {
    (await next("websocket")).lost();
    (await next("sse")).answer(status, JSON.stringify({ code: "too_long", status }));
    (await live("websocket")).lost();
    (await next("websocket")).lost();
  }
  await db.close();
  const fixed = choosing(t, { transport: "sse" });
  (await fixed.next("sse")).answer(414, JSON.stringify({ code: "too_long", title: "too long" }));
  assert.deepEqual([(await until(fixed.db, "failed")).code], [4414]);
});

test("an event stream is acknowledged by requests", async (t) => {
  const puts = new Arrivals();
  const url = await serving(t, (request, body, response) => {
    const { pathname } = new URL(request.url, "http://x");
    if (request.method === "PUT") return puts.add([pathname, body]), {};
    stream(response, WELCOME, snapshot("cards", "k:1", []), { type: "live", shape: "cards", position: "k:1" });
  });
  const db = client(t, { url, transport: "sse", clientId: "my phone" });
  db.collection("cards").subscribe(() => {});
  await until(db, "live");
  await db.flush();
  db.do((engine, now) => engine.tick(now + 30_000));
  assert.deepEqual(await puts.next(), ["/below/v1/state-vectors/my%20phone", { vector: { cards: "k:1" } }]);
});
