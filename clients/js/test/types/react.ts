// What the types of the hooks allow a component.

import { createClient } from "eventsync";
import { Provider, createHooks, useClient, useDocument, useShape, useStatus } from "eventsync/react";
import { createElement } from "react";

interface Card {
  _id: string;
  title: string;
  column: "todo" | "done";
}

const db = createClient<{ collections: { cards: Card } }>();

export function Board() {
  const { data, isLoaded, error } = useShape(db.collection("cards"));
  const first: Card = data[0];
  const { data: titles } = useShape(db.collection("cards"), { select: (cards) => cards.map(({ title }) => title) });
  const upper: string[] = titles.map((title) => title.toUpperCase());
  // @ts-expect-error documents have no such field
  useShape(db.collection("cards"), { select: (cards) => cards.map(({ name }) => name) });
  const { data: card, version, isPending } = useDocument(db.document("cards", "a"));
  const column: "todo" | "done" | undefined = card?.column;
  // @ts-expect-error the document may not be here
  console.log(card.title);
  const pending: number = useStatus({ select: (status) => status.pending });
  const name: string = useStatus().name;
  const loose = useShape("cards").data.map(({ anything }) => anything);
  const none = useShape(null).isLoaded || useDocument(null).isLoaded || useDocument("cards", null).isLoaded;
  useClient().collection("cards");
  return createElement("p", null, [first, isLoaded, error, upper, version, isPending, column, pending, name, loose, none].join());
}

export const page = createElement(Provider, { client: db }, createElement(Board));
// @ts-expect-error the client is missing
export const wrong = createElement(Provider, {}, createElement(Board));

interface Kanban {
  collections: { cards: Card; boards: { _id: string; name: string } };
  shapes: { my_cards: { collection: "cards"; parameters: { board: string } } };
}

const typed = createHooks<Kanban>();

export function TypedBoard() {
  const { data } = typed.useShape("cards");
  const column: "todo" | "done" = data[0].column;
  // @ts-expect-error documents have no such field
  console.log(data[0].name);
  const mine: string[] = typed.useShape("my_cards?board=7", { select: (cards) => cards.map(({ title }) => title) }).data;
  // @ts-expect-error documents have no such field
  typed.useShape("my_cards?board=7", { select: (cards) => cards.map(({ name }) => name) });
  const one: string = typed.useShape("boards/a").data[0].name;
  // @ts-expect-error there is no such collection
  typed.useShape("card");
  // @ts-expect-error there is no such shape
  typed.useShape("your_cards?board=7");
  const byHandle: Card = typed.useShape(db.collection("cards")).data[0];
  const none: boolean = typed.useShape(null).isLoaded || typed.useDocument("cards", undefined).isLoaded;
  const name: string | undefined = typed.useDocument("boards", "a").data?.name;
  const title: string | undefined = typed.useDocument(db.document("cards", "a")).data?.title;
  // @ts-expect-error there is no such collection
  typed.useDocument("board", "a");
  const state: string = typed.useStatus().name;
  const followed: Card | undefined = typed.useClient().follow("cards").get("a");
  // @ts-expect-error there is no such collection
  typed.useClient().collection("card");
  return createElement("p", null, [column, mine, one, byHandle, none, name, title, state, followed].join());
}
