// Node's clients: the packages `ws` and `eventsource` from the folder given. A command a line comes in, a list a line goes out.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { runInThisContext } from "node:vm";

const require = createRequire(`${process.argv[2]}/package.json`);
const clients = { WebSocket: require("ws"), EventSource: require("eventsource").EventSource };
const make = runInThisContext(readFileSync(new URL("driver.js", import.meta.url), "utf8"));
const driver = make((what) => process.stdout.write(`${JSON.stringify(what)}\n`), clients);

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...rest] = JSON.parse(line);
  driver[command](...rest);
}
process.exit(0);
