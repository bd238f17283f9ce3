// `node node.mjs PORT MODULES`: Node's `ws`, as its documentation broadcasts: each message encoded once, sent to each.
// Told what to do as `driver.py` is.
import {createRequire} from "node:module"
import {createInterface} from "node:readline"
import {setTimeout as sleep, setImmediate as breathe} from "node:timers/promises"

const [port, modules] = process.argv.slice(2)
const {WebSocketServer} = createRequire(`${modules}/`)("ws")
const LOG = "bench000"
const served = new Set()
let head = 0

const now = () => Number(process.hrtime.bigint()) / 1e9

const event = (seq, at, size) => JSON.stringify({
  type: "events", shape: "docs", from: `${LOG}:${seq - 1}`, to: `${LOG}:${seq}`,
  events: [{
    seq, collection: "docs", id: `int:${seq}`, op: "create", base: 0, version: 1,
    doc: {_id: seq, n: seq, at, text: "x".repeat(Math.max(0, size - 60))},
    at: "2026-11-23T05:22:46.405Z", external: true,
  }],
})

const broadcast = (text) => {
  const data = Buffer.from(text)
  for (const client of served) client.send(data, {binary: false})
}

const server = new WebSocketServer({
  host: "127.0.0.1", port: Number(port), backlog: 1024, perMessageDeflate: false,
  handleProtocols: (protocols) => protocols.values().next().value,
})
server.on("connection", (client) => {
  client.once("message", () => {
    client.send(JSON.stringify({type: "live", shape: "docs", position: `${LOG}:${head}`}))
    served.add(client)
  })
  client.on("close", () => served.delete(client))
  client.on("error", () => served.delete(client))
})
await new Promise((resolve) => server.once("listening", resolve))

const methods = {
  begin: async ({seq}) => {
    head = seq
    return {log: LOG}
  },
  steady: async ({count, rate, size}) => {
    const began = now()
    for (let number = 0; number < count; number++) {
      const due = began + number / rate
      const wait = (due - now()) * 1000
      if (wait > 0) await sleep(wait)
      broadcast(event(++head, due, size))
    }
    return {head}
  },
  burst: async ({count, size}) => {
    const at = now()
    for (let number = 0; number < count; number++) {
      broadcast(event(++head, at, size))
      await breathe()
    }
    return {head}
  },
}
for await (const line of createInterface({input: process.stdin})) {
  const {do: what, ...asked} = JSON.parse(line)
  process.stdout.write(`${JSON.stringify(await methods[what](asked))}\n`)
}
process.exit(0)
