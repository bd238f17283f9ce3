// What the types allow an application: checked by `tsc` against the packed package. Each expected error has to be one.

import { createClient, memoryStore } from "eventsync";
import type { Client, CollectionHandle, Status } from "eventsync";
import { ObjectId, native } from "eventsync/decode";
import { idb } from "eventsync/idb";
import type { Store } from "eventsync/store";

interface Card {
  _id: ObjectId;
  title: string;
  column: "todo" | "done";
  due?: Date;
  size: { width: number; depth?: number };
  tags: string[];
}

interface Board {
  _id: string;
  name: string;
}

interface Kanban {
  collections: { cards: Card; boards: Board };
  shapes: { my_cards: { collection: "cards"; parameters: { board: string; column?: string[] } } };
}

const stores: Store[] = [memoryStore(), idb("kanban")];
const db: Client<Kanban> = createClient<Kanban>({ url: "https://sync.example", decode: native("date"), store: stores[0] });

const cards: CollectionHandle<Card> = db.collection("cards");
// @ts-expect-error there is no such collection
db.collection("card");
// @ts-expect-error there is no such collection
db.document("card", "a");
// @ts-expect-error there is no such shape
db.shape("your_cards", { board: "7" });
// @ts-expect-error the parameter has another type
db.shape("my_cards", { board: 7 });
// @ts-expect-error there is no such parameter
db.shape("my_cards", { boards: "7" });

const column: "todo" | "done" | undefined = cards.get("a")?.column;
const titles: string[] = cards.list.map(({ title }) => title);
// @ts-expect-error documents have no such field
cards.list.map(({ name }) => name);
// @ts-expect-error a document is replaced and never changed
cards.documents.get("a")!.version = 2;

cards.subscribe(({ documents, changes }) => {
  const due: Date | undefined = documents.get("a")?.doc.due;
  const before: Card | undefined = changes[0].before?.doc;
  return [due, before];
});
for await (const { after } of cards.changes()) {
  const title: string | undefined = after?.doc.title;
  // @ts-expect-error documents have no such field
  console.log(title, after?.doc.name);
}

const card = { title: "Write", column: "todo", size: { width: 1 }, tags: [] } as const;
const { id, done, settled } = await cards.insert({ ...card, tags: [] });
const version: number = (await done).version;
await settled;
await cards.insert({ ...card, tags: [], _id: new ObjectId() });
// @ts-expect-error a field is missing
await cards.insert({ title: "Write" });
// @ts-expect-error the value has another type
await cards.insert({ ...card, tags: [1] });

await cards.patch(id, { column: "done", size: { width: 2 } }, { ifMatch: version });
await cards.patch(id, { due: null, size: { depth: null } });
await cards.patch(id, { due: new Date(), tags: ["new"] });
await cards.patch(id, [{ op: "add", path: "/tags/-", value: "new" }]);
// @ts-expect-error there is no such column
await cards.patch(id, { column: "doing" });
// @ts-expect-error there is no such field
await cards.patch(id, { owner: "ada" });
// @ts-expect-error the field is not an optional one
await cards.patch(id, { title: null });
// @ts-expect-error a list is replaced as a whole
await cards.patch(id, { tags: { 0: "new" } });
await cards.replace(id, { ...card, tags: [] });

const one = db.document("cards", id);
const title: string | undefined = one.document?.title;
await one.patch({ title: "Read" });
// @ts-expect-error the value has another type
await one.patch({ title: 1 });
const past: Card = (await one.at(1)).doc;

const mine = db.shape("my_cards", { board: "7", column: ["todo"] }, { collection: "cards", matches: (doc) => doc.column === "todo" });
const mineToo: readonly Card[] = mine.list;
// @ts-expect-error documents have no such field
db.shape("my_cards", { board: "7" }, { matches: (doc) => doc.name === "x" });

// Without a schema every name is one, and documents may be anything.
const loose = createClient();
await loose.collection("anything").insert({ whatever: 1 });
loose.shape("any_shape", { any: "parameter" }).list.map(({ whatever }) => whatever);
const status: Status["name"] = loose.status.name;

export const used = [column, titles, title, past, mineToo, status];

const followed: Card | undefined = db.follow("my_cards?board=7").get("a");
const board: string | undefined = db.follow("boards/a").get("a")?.name;
const untyped = createClient().follow("anything?at=all").list.map(({ anything }) => anything);
// @ts-expect-error there is no such collection
db.follow("card");
console.log(followed, board, untyped);
