// The hooks under React itself, in a document of happy-dom and on a server, over a scripted transport.

import assert from "node:assert/strict";
import test from "node:test";
import { Window } from "happy-dom";
import { Component, StrictMode, Suspense, createElement as h, useEffect, useState } from "react";

const window = new Window({ url: "http://localhost" });
Object.assign(globalThis, { window, document: window.document });
globalThis.navigator ??= window.navigator; // Node.js 20 has none
// React looks for a document when it is loaded.
const { createRoot, hydrateRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");

import { Provider, createHooks, useClient, useDocument, useShape, useStatus } from "../src/adapters/react.js";
import { createClient } from "../src/client.js";
import { Arrivals, ScriptedServer, failingOnErrors } from "./scripted.mjs";

const CARDS = { a: { n: 1, column: "todo" }, b: { n: 2, column: "todo" }, c: { n: 3, column: "done" } };

function client(t, server, options) {
  const db = createClient({ ...server.options, linger: 20, ...failingOnErrors(t), ...options });
  t.after(() => db.close());
  return db;
}

/** Shows an element, and fails on whatever React complains of, but for what is expected. */
function mount(t, element, { expected = /^$/ } = {}) {
  const container = document.createElement("div");
  t.mock.method(console, "error", (...words) => expected.test(words.join(" ")) || complaints.push(words.join(" ")));
  const complaints = [];
  const root = createRoot(container, { onUncaughtError: (error) => complaints.push(String(error)) });
  root.render(element);
  t.after(() => {
    root.unmount();
    assert.deepEqual(complaints, []);
  });
  return { root, container };
}

/** A component that shows what a hook returns, and the list of what it has shown. */
function probe(use) {
  const shown = new Arrivals();
  const renders = [];
  function Probe(props) {
    const value = use(props);
    renders.push(value);
    shown.add(value);
    return JSON.stringify(value?.data ?? null);
  }
  return { Probe, renders, until: (wanted) => shown.next(wanted) };
}

const replace = (path, value) => ({ op: "replace", path, value });

test("a component shows a shape, and unchanged documents and lists keep their identity", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const db = client(t, server);
  const { Probe, renders, until } = probe(() => useShape("cards"));
  const { container } = mount(t, h(Provider, { client: db }, h(Probe)));
  const first = await until(({ isLoaded }) => isLoaded);
  assert.deepEqual(renders[0], { data: [], isLoaded: false, error: null });
  assert.deepEqual(first.data.map(({ n }) => n), [1, 2, 3]);
  assert.equal(first.data, db.collection("cards").list);
  server.events("cards", { id: "b", op: "update", version: 2, patch: [replace("/n", 20)] });
  const second = await until(({ data }) => data[1]?.n === 20);
  assert.notEqual(second.data, first.data);
  assert.deepEqual([0, 1, 2].map((at) => second.data[at] === first.data[at]), [true, false, true]);
  assert.equal(second.data[1], db.collection("cards").get("b"));
  assert.equal(renders.length, 3);
  await new Promise(setImmediate);
  assert.equal(container.textContent, JSON.stringify(second.data));
});

test("a selection renders only when it changes, also with another function in each render", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const db = client(t, server);
  const todo = probe(() => useShape("cards", { select: (cards) => cards.filter(({ column }) => column === "todo") }));
  const titles = probe(() => useShape("cards", { select: (cards) => cards.map(({ column }) => ({ column })) }));
  const columns = probe(() => {
    return useShape("cards", { select: (cards) => ({ todo: cards.filter((card) => card.column === "todo"), done: cards.filter((card) => card.column === "done") }) });
  });
  const every = probe(() => useShape("cards"));
  const third = probe(() => useShape("cards", { select: (cards) => ({ third: cards[2] }) }));
  mount(t, h(Provider, { client: db }, [todo, titles, columns, every, third].map(({ Probe }, key) => h(Probe, { key }))));
  const [before, named, grouped] = await Promise.all([todo, titles, columns].map(({ until }) => until(({ isLoaded }) => isLoaded)));
  assert.deepEqual([before.data.length, named.data.length, grouped.data.done.length], [2, 3, 1]);
  server.events("cards", { id: "c", op: "update", version: 2, patch: [replace("/n", 30)] });
  const after = await columns.until(({ data }) => data.done[0]?.n === 30);
  await every.until(({ data }) => data[2]?.n === 30);
  assert.equal(after.data.todo, grouped.data.todo);
  assert.equal(after.data.done[0], db.collection("cards").get("c"));
  assert.equal((await third.until(({ data }) => data.third?.n === 30)).data.third, after.data.done[0]);
  assert.deepEqual([todo.renders.length, titles.renders.length], [2, 2]);
  server.events("cards", { id: "b", op: "update", version: 2, patch: [replace("/column", "done")] });
  const moved = await todo.until(({ data }) => data.length === 1);
  assert.equal(moved.data[0], before.data[0]);
  assert.equal((await titles.until(({ data }) => data[1]?.column === "done")).data[0], named.data[0]);
});

/** A client that follows another shape already, and components of `cards` under StrictMode, by their keys. */
async function strict(t, server, options) {
  const db = client(t, server, options);
  db.collection("other").subscribe(() => {});
  await server.said.next(({ type }) => type === "hello");
  const gone = new Arrivals();
  const { Probe, until } = probe(() => {
    useEffect(() => () => gone.add(true), []);
    return useShape("cards");
  });
  const show = (...keys) => h(StrictMode, null, h(Provider, { client: db }, keys.map((key) => h(Probe, { key }))));
  const { root } = mount(t, show(1, 2));
  await until(({ isLoaded }) => isLoaded);
  await Promise.all([gone.next(), gone.next()]); // the effects that StrictMode runs twice
  return { db, root, show, gone, until };
}

test("under StrictMode a shape is subscribed to once, and components that come back find it", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { root, show, gone, until } = await strict(t, server, { linger: 60_000 });
  root.render(show());
  await Promise.all([gone.next(), gone.next()]);
  root.render(show(3));
  await until(({ data }) => data.length === 3);
  assert.deepEqual(server.said.rest, [{ type: "subscribe", shape: "cards" }]);
});

test("a shape is unsubscribed after its last component, and subscribed to by the next one", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const { db, root, show, gone } = await strict(t, server, { linger: 0 });
  assert.deepEqual(await server.said.next(), { type: "subscribe", shape: "cards" });
  root.render(show(2));
  await gone.next();
  assert.equal(db.collection("cards").isFollowed, true);
  root.render(show());
  assert.deepEqual(await server.said.next(), { type: "unsubscribe", shape: "cards" });
  assert.equal(db.collection("cards").isFollowed, false);
  root.render(show(4));
  assert.deepEqual(await server.said.next(), { type: "subscribe", shape: "cards", position: "k:1" });
});

test("another shape replaces the one before, and null is none", async (t) => {
  const server = new ScriptedServer({ cards: CARDS, tasks: { x: { n: 9 } } });
  const db = client(t, server);
  let choose;
  const { Probe, until } = probe(() => {
    const [shape, set] = useState("cards");
    choose = set;
    return useShape(shape);
  });
  mount(t, h(Provider, { client: db }, h(Probe)));
  await until(({ data }) => data.length === 3);
  choose("tasks");
  assert.deepEqual((await until(({ data }) => data[0]?.n === 9)).data, [{ _id: "x", n: 9 }]);
  assert.equal((await server.said.next(({ type }) => type === "unsubscribe")).shape, "cards");
  choose(null);
  assert.deepEqual(await until(({ isLoaded }) => !isLoaded), { data: [], isLoaded: false, error: null });
  await server.said.next(({ type }) => type === "closed");
});

test("without an id no document is followed, and an id in another form is the same document", async (t) => {
  const server = new ScriptedServer({ "cards/a": { a: CARDS.a } });
  const db = client(t, server);
  let choose;
  const { Probe, until } = probe(() => {
    const [id, setId] = useState();
    choose = setId;
    return useDocument("cards", id);
  });
  const others = probe(() => [["cards", ""], ["cards", null], [null], [undefined, "a"]].map((of) => useDocument(...of)));
  mount(t, h(Provider, { client: db }, h(Probe), h(others.Probe)));
  const nothing = { data: undefined, version: 0, isPending: false, isLoaded: false, error: null };
  assert.deepEqual(await until(() => true), nothing);
  assert.deepEqual(await others.until(() => true), Array(4).fill(nothing));
  assert.equal(db.handles.size, 0);
  choose("str:a");
  assert.equal((await until(({ isLoaded }) => isLoaded)).data.n, 1);
  assert.equal(db.document("cards", "a"), db.follow("cards/str:a"));
  choose(null);
  assert.deepEqual(await until(({ isLoaded }) => !isLoaded), nothing);
});

test("a write is shown at once and once, and a refused one is taken back", async (t) => {
  const server = new ScriptedServer({ "cards/a": { a: CARDS.a } });
  const db = client(t, server);
  let used;
  const { Probe, renders, until } = probe(() => ((used = useClient()), useDocument("cards", "a")));
  mount(t, h(Provider, { client: db }, h(Probe)));
  const seen = ({ data, version, isPending }) => [data?.n, version, isPending];
  assert.deepEqual(seen(await until(({ isLoaded }) => isLoaded)), [1, 1, false]);
  assert.equal(used, db);
  const first = await used.document("cards", "a").patch({ n: 5 }, { ifMatch: 1 });
  assert.deepEqual(seen(await until(({ isPending }) => isPending)), [5, 1, true]);
  const request = await server.requests.next();
  assert.deepEqual([request.method, request.body, request.headers["If-Match"]], ["PATCH", { n: 5 }, '"1"']);
  request.answer(200, { id: "a", version: 2 });
  await first.done;
  server.events("cards/a", { id: "a", op: "update", version: 2, patch: [replace("/n", 5)], op_id: first.key });
  assert.deepEqual(seen(await until(({ version }) => version === 2)), [5, 2, false]);
  const second = await db.document("cards", "a").patch({ n: 6 });
  (await server.requests.next()).answer(403, { code: "forbidden", detail: "no" });
  await assert.rejects(second.done, { code: "forbidden" });
  await until(({ data, isPending }) => data?.n === 5 && !isPending && renders.length > 5);
  assert.deepEqual(renders.map(seen), [[undefined, 0, false], [1, 1, false], [5, 1, true], [5, 2, false], [6, 2, true], [5, 2, false]]);
  server.events("cards/a", { id: "a", op: "delete", version: 3 });
  assert.deepEqual(await until(({ data, isLoaded }) => isLoaded && !data), { data: undefined, version: 0, isPending: false, isLoaded: true, error: null });
});

test("the refusal of a shape is shown, and a component that comes back asks again", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  server.refused.add("cards");
  const db = client(t, server);
  const { Probe, until } = probe(() => useShape(db.collection("cards")));
  const { root } = mount(t, h(Probe, { key: 1 }));
  const { data, isLoaded, error } = await until(({ error }) => error);
  assert.deepEqual([data, isLoaded, error.code], [[], false, "forbidden"]);
  server.refused.clear();
  root.render(null);
  db.stop();
  db.start();
  root.render(h(Probe, { key: 2 }));
  assert.equal((await until(({ isLoaded }) => isLoaded)).error, null);
});

test("the status renders when what is selected of it changes", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const db = client(t, server);
  const names = probe(() => useStatus({ select: ({ name }) => name }));
  const counts = probe(() => useStatus({ client: db }).pending);
  const cards = probe(() => useShape("cards"));
  mount(t, h(Provider, { client: db }, [names, counts, cards].map(({ Probe }, key) => h(Probe, { key }))));
  await names.until((name) => name === "live");
  const { done } = await db.collection("cards").patch("a", { n: 2 });
  await counts.until((pending) => pending === 1);
  (await server.requests.next()).answer(200, { id: "a", version: 2 });
  await done;
  await counts.until((pending) => pending === 0 && counts.renders.includes(1));
  assert.ok(names.renders.every((name, at) => name !== names.renders[at - 1]), names.renders.join());
});

test("a server renders without following anything, and the page takes over without a difference", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const select = (cards) => cards.map(({ n }) => n);
  const page = (db, Probe, Status) => h(Provider, { client: db }, h(Probe), h(Status));
  const atServer = client(t, server);
  const status = () => probe(() => ({ data: useStatus().name })).Probe;
  const html = renderToString(page(atServer, probe(() => useShape("cards", { select })).Probe, status()));
  assert.match(html, /\[\].*&quot;connecting&quot;/);
  assert.equal(atServer.collection("cards").isFollowed, false);
  const db = client(t, server);
  db.collection("cards").subscribe(() => {});
  await new Promise((resolve) => db.on("status", ({ name }) => name === "live" && resolve()));
  const container = document.createElement("div");
  container.innerHTML = html;
  const complaints = [];
  const { Probe, renders, until } = probe(() => useShape("cards", { select }));
  const root = hydrateRoot(container, page(db, Probe, status()), { onRecoverableError: (error) => complaints.push(String(error)) });
  t.after(() => root.unmount());
  await until(({ data }) => data.length === 3);
  assert.deepEqual(renders[0].data, []);
  assert.deepEqual(complaints, []);
});

test("without a client there is a reason", () => {
  for (const use of [() => useShape("cards"), () => useDocument("cards", "a"), () => useStatus(), () => useClient()]) {
    assert.throws(() => renderToString(h(probe(use).Probe)), /there is no client/);
  }
});

// --- the hooks of a schema -------------------------------------------------------------------------------------------

const hooks = createHooks();

/** Resolves once the elements of a container that are not hidden have these texts. */
function shows(container, ...texts) {
  const isShown = () => {
    const visible = [...container.children].filter((element) => !element.getAttribute("style")?.includes("none"));
    return visible.map(({ textContent }) => textContent).join("|") === texts.join("|");
  };
  return new Promise((resolve) => {
    const look = () => isShown() && (observers.delete(observer), observer.disconnect(), resolve());
    const observer = new window.MutationObserver(look);
    observers.add(observer); // happy-dom holds it weakly
    observer.observe(container, { subtree: true, childList: true, characterData: true });
    look();
  });
}

const observers = new Set();

const Numbers = ({ select = (cards) => cards.map(({ n }) => n), shape = "cards" }) => {
  const { data, isLoaded, error } = hooks.useShape(shape, { select });
  return h("p", null, error ? error.code : isLoaded ? data.join() : "loading");
};

test("hooks of a schema show, change and let go of shapes, documents and the status, under StrictMode", async (t) => {
  const server = new ScriptedServer({ cards: CARDS, "cards/b": { b: CARDS.b } });
  const db = client(t, server, { linger: 0 });
  let renders = 0;
  function Card({ id }) {
    const { data, isPending } = hooks.useDocument("cards", id);
    assert.equal(hooks.useClient(), db);
    return h("p", null, data ? `${id}: ${data.column}${isPending ? "…" : ""}` : "no document");
  }
  function Status() {
    renders += 1;
    return h("p", null, hooks.useStatus({ select: ({ name, pending }) => `${name} ${pending}` }));
  }
  const page = (...children) => h(StrictMode, null, h(hooks.Provider, { client: db }, ...children));
  const whole = page(h(Numbers), h(Card, { id: "b" }), h(Status));
  const { root, container } = mount(t, whole);
  await shows(container, "1,2,3", "b: todo", "live 0");
  server.events("cards", { id: "b", op: "update", version: 2, patch: [replace("/n", 20)] });
  await shows(container, "1,20,3", "b: todo", "live 0");
  const { done } = await db.document("cards", "b").patch({ column: "done" });
  await shows(container, "1,20,3", "b: done…", "live 1");
  (await server.requests.next()).answer(403, { code: "forbidden", detail: "no" });
  await assert.rejects(done, { code: "forbidden" });
  await shows(container, "1,20,3", "b: todo", "live 0");
  root.render(page(h(Status)));
  const left = ({ type }) => type === "unsubscribe" || type === "closed";
  assert.deepEqual((await server.said.next(left)).type, "unsubscribe");
  await server.said.next(({ type }) => type === "closed");
  await shows(container, "stopped 0");
  root.render(page());
  await shows(container);
  const before = renders;
  db.collection("cards").subscribe(() => {});
  await new Promise((resolve) => db.on("status", ({ name }) => name === "live" && resolve()));
  await new Promise(setImmediate);
  assert.equal(renders, before, "a component that is gone renders no more");
});

test("hooks of a schema throw to an error boundary, and what a boundary shows again is current", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const db = client(t, server);
  class Boundary extends Component {
    state = { error: null };
    static getDerivedStateFromError = (error) => ({ error });
    render = () => (this.state.error ? h("b", null, this.state.error.message) : this.props.children);
  }
  const page = (key, props) => h(hooks.Provider, { client: db }, h(Boundary, { key }, h(Numbers, props)));
  const { root, container } = mount(t, page("first"), { expected: /error occurred in the <Numbers>|the selection has failed|there is no client/ });
  await shows(container, "1,2,3");
  root.render(page("first", { select: () => { throw new Error("the selection has failed"); } }));
  await shows(container, "the selection has failed");
  server.events("cards", { id: "c", op: "update", version: 2, patch: [replace("/n", 30)] });
  root.render(page("second"));
  await shows(container, "1,2,30");
  server.refused.add("tasks");
  root.render(page("second", { shape: "tasks" }));
  await shows(container, "forbidden");
  root.render(h(Boundary, { key: "third" }, h(Numbers)));
  await shows(container, "there is no client: put the component into <Provider client={…}>, of eventsync/react");
});

test("hooks of a schema follow nothing before React shows them, and miss nothing while it hides them", async (t) => {
  const server = new ScriptedServer({ cards: CARDS });
  const db = client(t, server, { linger: 0 });
  let wait, go;
  const suspend = () => (wait = new Promise((resolve) => (go = () => ((wait = null), resolve()))));
  function Late() {
    if (wait) throw wait;
    return h("p", null, "here");
  }
  const page = (id) => h(hooks.Provider, { client: db }, h(Suspense, { fallback: h("i", null, "wait") }, h(Numbers), h(Late, { id })));
  suspend();
  const { root, container } = mount(t, page(1));
  await shows(container, "wait");
  await new Promise(setImmediate);
  assert.equal(db.collection("cards").isFollowed, false);
  go();
  await shows(container, "1,2,3", "here");
  suspend();
  root.render(page(2));
  await shows(container, "wait");
  assert.equal(db.collection("cards").isFollowed, true);
  server.events("cards", { id: "a", op: "delete", version: 2 });
  assert.equal(db.collection("cards").list.length, 2);
  go();
  await shows(container, "2,3", "here");
  assert.deepEqual(server.said.rest.filter(({ type }) => type === "unsubscribe"), []);
});
