// The Kanban board in React. It shows its cards and takes moves without a server, too, also after a reload.

import { createClient, idText } from "eventsync";
import { idb } from "eventsync/idb";
import { Provider, useClient, useShape, useStatus } from "eventsync/react";
import { createRoot } from "react-dom/client";

const db = createClient({ url: "http://127.0.0.1:8000", store: idb("kanban") });

function Board() {
  const { data } = useShape("cards", { select: (cards) => Object.groupBy(cards, ({ column }) => column) });
  return Object.entries({ todo: "To do", doing: "Doing", done: "Done" }).map(([column, title]) => (
    <Column key={column} column={column} title={title} cards={data[column] ?? []} />
  ));
}

function Column({ column, title, cards }) {
  const collection = useClient().collection("cards");
  const sorted = cards.toSorted((one, other) => one.rank - other.rank);
  const drop = (event) => {
    event.preventDefault();
    const onto = event.target.closest("li")?.id;
    const rank = rankBefore(sorted, sorted.findIndex(({ _id }) => idText(_id) === onto));
    collection.patch(event.dataTransfer.getData("text/plain"), { column, rank });
  };
  return (
    <section>
      <h2>{title}</h2>
      <ol id={column} onDragOver={(event) => event.preventDefault()} onDrop={drop}>
        {sorted.map((card) => <Card key={idText(card._id)} id={idText(card._id)} title={card.title} />)}
      </ol>
    </section>
  );
}

function Card({ id, title }) {
  const collection = useClient().collection("cards");
  return (
    <li id={id} draggable onDragStart={({ dataTransfer }) => dataTransfer.setData("text/plain", id)}>
      {title}
      <button title="Delete" onClick={() => collection.remove(id)}>✕</button>
    </li>
  );
}

/** A rank before the card at an index, or at the end for -1: between its neighbours, so that a move changes one card. */
function rankBefore(cards, index) {
  if (index < 0) return (cards.at(-1)?.rank ?? 0) + 1;
  return index === 0 ? cards[0].rank - 1 : (cards[index - 1].rank + cards[index].rank) / 2;
}

function Header() {
  const { name, pending } = useStatus();
  const collection = useClient().collection("cards");
  const insert = (form) => collection.insert({ title: form.get("title"), column: "todo", rank: Date.now() });
  return (
    <header>
      <form action={insert}><input name="title" placeholder="New card" required /></form>
      <output>{pending ? `${name}, ${pending} to send` : name}</output>
    </header>
  );
}

createRoot(document.getElementById("board")).render(<Provider client={db}><Header /><main><Board /></main></Provider>);
