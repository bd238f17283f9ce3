// What the types of the hooks allow a component.

import { createClient } from "eventsync";
import { Provider, useClient, useDocument, useShape, useStatus } from "eventsync/react";
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
  const none = useShape(null).isLoaded;
  useClient().collection("cards");
  return createElement("p", null, [first, isLoaded, error, upper, version, isPending, column, pending, name, loose, none].join());
}

export const page = createElement(Provider, { client: db }, createElement(Board));
// @ts-expect-error the client is missing
export const wrong = createElement(Provider, {}, createElement(Board));
