// What the types of the collections of TanStack DB allow.

import { createCollection, createLiveQueryCollection, eq } from "@tanstack/db";
import { createClient } from "eventsync";
import { eventsyncCollectionOptions } from "eventsync/tanstack-db";

interface Card {
  _id: string;
  title: string;
  column: "todo" | "done";
}

const db = createClient<{ collections: { cards: Card } }>();
const cards = createCollection(eventsyncCollectionOptions({ shape: db.collection("cards"), persisted: "queued" }));

const title: string | undefined = cards.get("a")?.title;
cards.insert({ _id: "a", title: "Write", column: "todo" });
// @ts-expect-error a field is missing
cards.insert({ _id: "a", title: "Write" });
cards.update("a", (card) => {
  card.column = "done";
});
cards.update("a", (card) => {
  // @ts-expect-error there is no such column
  card.column = "doing";
});
// @ts-expect-error a key is an id text
cards.delete(1);
// @ts-expect-error there is no such way
eventsyncCollectionOptions({ shape: db.collection("cards"), persisted: "later" });

const done = createLiveQueryCollection((query) => query.from({ card: cards }).where(({ card }) => eq(card.column, "done")));
const titles: string[] = done.toArray.map((card) => card.title);

export const used = [title, titles];
