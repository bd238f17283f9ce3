// Small patches by the core of the JavaScript client, and by the whole client but for its connection. Each kind is prepared
// and then run, so that the CPU time of the run can be measured from outside, in a page. Under Node,
// `node apply.mjs '{"documents": …, "size": …, "patches": …}'` prints patches by second of CPU.

import { Core } from "../../../clients/js/src/core.js";
import { Engine } from "../../../clients/js/src/engine.js";
import { parseJson } from "../../../clients/js/src/json.js";

const SHAPE = "docs";
const at = (seq) => `aaaaaaaa:${seq}`;
const AT = "2026-11-29T12:00:00.000Z";

/** The messages of a server, as text: all documents, then frames of so many events, each of one small patch. */
function* messages({ documents, size, patches, frame }) {
  const rows = Array.from({ length: documents }, (_, number) => {
    const doc = { _id: number, n: 0, at: 0.5, text: "x".repeat(size - 60) };
    return { id: `int:${number}`, version: 1, doc };
  });
  yield { type: "snapshot", shape: SHAPE, position: at(0), part: 0, last: true, docs: rows };
  yield { type: "live", shape: SHAPE, position: at(0) };
  for (let from = 0; from < patches; from += frame) {
    const events = Array.from({ length: frame }, (_, index) => {
      const seq = from + index + 1;
      const base = 1 + Math.floor((seq - 1) / documents);
      const patch = [{ op: "replace", path: "/n", value: seq }];
      const rest = { op: "update", base, version: base + 1, patch, at: AT, op_id: "0123456789abcdef", by: "bench" };
      return { seq, collection: SHAPE, id: `int:${(seq - 1) % documents}`, ...rest };
    });
    yield { type: "events", shape: SHAPE, from: at(from), to: at(from + frame), events };
  }
}

const KINDS = {
  core: { frame: 100, isWhole: false },
  "core, alone": { frame: 1, isWhole: false },
  client: { frame: 100, isWhole: true },
  "client, alone": { frame: 1, isWhole: true },
};

/** A function that applies all patches, from the text of their messages on. `patches` is a multiple of 100. */
export function prepared(kind, { documents, size, patches }) {
  const { frame, isWhole } = KINDS[kind];
  const machine = isWhole ? new Engine() : new Core();
  const core = isWhole ? machine.core : machine;
  if (isWhole) machine.follow(SHAPE, { collection: SHAPE }, null, 0);
  else core.follow(SHAPE, null, 0);
  const texts = [...messages({ documents, size, patches, frame })].map((message) => JSON.stringify(message));
  machine.start(0);
  core.opened(0);
  core.receive({ type: "welcome", heartbeat: 15 }, 0);
  const take = (text) => {
    core.receive(parseJson(text), 0);
    machine.take(0);
  };
  for (const text of texts.splice(0, 2)) take(text);
  return () => {
    for (const text of texts) take(text);
    const sum = [...core.documents(SHAPE).values()].reduce((total, { doc }) => total + doc.n, 0);
    let wanted = 0;
    for (let seq = Math.max(1, patches - documents + 1); seq <= patches; seq += 1) wanted += seq;
    if (sum !== wanted || core.position(SHAPE) !== at(patches)) throw new Error(`not exact: ${sum} for ${wanted}`);
  };
}

if (globalThis.process?.argv?.[1]?.endsWith("apply.mjs")) {
  const words = JSON.parse(process.argv[2]);
  const rates = Object.keys(KINDS).map((kind) => {
    const run = prepared(kind, words);
    const began = process.cpuUsage();
    run();
    const { user, system } = process.cpuUsage(began);
    return [kind, (words.patches / (user + system)) * 1e6];
  });
  console.log(JSON.stringify(Object.fromEntries(rates)));
}
