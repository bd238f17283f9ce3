// A page that stores steps in IndexedDB, one after another, until its browser is killed. It says what it has found and
// what is stored. Each state follows from its position alone.

import { idb } from "../../clients/js/src/adapters/idb.js";

const say = (what) => fetch("/said", { method: "POST", body: JSON.stringify(what) });
const size = (seq) => 300 + ((seq * 97) % 500);
const numbers = (first, end) => Array.from({ length: Math.max(0, end - first) }, (_, index) => first + index);

try {
  const store = await idb("kills").open({ url: location.origin, principal: "ada", format: 1 });
  const saved = await store.load("cards");
  let seq = saved ? Number(saved.position.slice(2)) : 0;
  const ids = new Set(saved?.rows.map(([id]) => id));
  const isWhole = !saved || (ids.size === size(seq) && numbers(0, size(seq)).every((number) => ids.has(`id ${number}`)));
  const versions = [...new Set(saved?.rows.map(([, { version, doc }]) => (version === doc.n ? version : "mixed")))];
  await say({ found: seq, isWhole, versions });
  for (;;) {
    seq += 1;
    const put = numbers(0, size(seq)).map((number) => [`id ${number}`, { version: seq, doc: { _id: number, n: seq } }]);
    const clear = seq === 1 || seq % 7 === 0;
    const remove = clear ? [] : numbers(size(seq), size(seq - 1)).map((number) => `id ${number}`);
    await store.apply("cards", { position: `k:${seq}`, put, remove, clear });
    void say({ stored: seq });
  }
} catch (error) {
  await say({ error: String(error) });
}
