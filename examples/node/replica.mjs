// The cards of a column, answered from a copy: `node replica.mjs URL PORT`, then GET /todo.

import { createServer } from "node:http";

import { createClient } from "../../clients/js/src/client.js"; // "eventsync", where npm has installed it

const [url, port] = process.argv.slice(2);
const cards = createClient({ url }).collection("cards");
cards.subscribe(() => {});

createServer((request, response) => {
  const found = cards.list.filter(({ column }) => `/${column}` === request.url);
  response.writeHead(cards.position ? 200 : 503, { "Content-Type": "application/json" });
  response.end(JSON.stringify(found));
}).listen(Number(port), "127.0.0.1");
