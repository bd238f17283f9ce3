// A Kanban board: the cards `{ title, column, rank }` of the collection `cards`, moved by drag and drop.

import { createClient } from "eventsync";

const status = document.querySelector("output");
const lists = Object.fromEntries([...document.querySelectorAll("ol")].map((list) => [list.id, list]));
const items = new Map(); // id → <li>

const db = createClient({ url: "http://127.0.0.1:8000" });
const cards = db.collection("cards");

cards.subscribe(({ changes }) => {
  for (const { id, after } of changes) after ? show(id, after) : remove(id);
});
db.on("status", ({ name, pending }) => (status.value = pending ? `${name}, ${pending} to send` : name));
db.on("rejected", ({ problem }) => (status.value = `taken back: ${problem.detail}`));

function show(id, { doc, pending }) {
  const item = items.get(id) ?? create(id);
  item.firstChild.data = doc.title;
  item.rank = doc.rank;
  item.classList.toggle("pending", pending ?? false);
  const list = lists[doc.column] ?? lists.todo;
  const next = [...list.children].find((other) => other !== item && other.rank > doc.rank) ?? null;
  if (item.parentNode !== list || item.nextSibling !== next) list.insertBefore(item, next);
}

function create(id) {
  const item = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { textContent: "✕", title: "Delete" });
  button.onclick = () => cards.remove(id);
  item.append("", button);
  item.draggable = true;
  item.ondragstart = ({ dataTransfer }) => dataTransfer.setData("text/plain", id);
  items.set(id, item);
  return item;
}

function remove(id) {
  items.get(id)?.remove();
  items.delete(id);
}

/** A rank before `next`, or at the end: between the neighbours, so that a move changes one card. */
function rankBefore(list, next) {
  const previous = next ? next.previousSibling : list.lastChild;
  if (previous && next) return (previous.rank + next.rank) / 2;
  return previous ? previous.rank + 1 : next ? next.rank - 1 : 0;
}

for (const [column, list] of Object.entries(lists)) {
  list.ondragover = (event) => event.preventDefault();
  list.ondrop = (event) => {
    event.preventDefault();
    const rank = rankBefore(list, event.target.closest("li"));
    cards.patch(event.dataTransfer.getData("text/plain"), { column, rank });
  };
}

document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  cards.insert({ title: event.target.title.value, column: "todo", rank: rankBefore(lists.todo, null) });
  event.target.reset();
};
