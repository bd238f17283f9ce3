// `node clients.mjs MODULES`: many clients of a server of any make, in one process, so that what they cost is the same
// for all. They do what a JSON line asks, and answer with one, as `scripts.bench.clients` does.
import {createRequire} from "node:module"
import {get} from "node:http"
import {createInterface} from "node:readline"

const require = createRequire(`${process.argv[2]}/`)
const WebSocket = require("ws")
const {io} = require("socket.io-client")

// As many documents as RxDB's replication asks for at a time.
const PAGE = 100

const now = () => Number(process.hrtime.bigint()) / 1e6
const clients = []
let delays = []

// One client: the documents that it has seen, and how many of them twice.
class Client {
  seen = new Set()
  doubled = 0
  saw(document) {
    if (this.seen.has(document.n)) this.doubled++
    this.seen.add(document.n)
    delays.push(now() - document.at * 1000)
  }
  // A WebSocket of JSON messages: one to send first, and what becomes of each that comes.
  talk(url, protocols, first, received) {
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(url, protocols, {perMessageDeflate: false})
      this.socket.on("error", reject)
      this.socket.on("open", () => this.send(first))
      this.socket.on("message", (text) => received(JSON.parse(text), resolve, reject))
    })
  }
  send(message) {
    this.socket.send(JSON.stringify(message))
  }
  cut() {
    this.socket.on("error", () => {})
    this.socket.terminate()
  }
}

// eventsync's protocol; the Starlette server speaks it, too.
class Eventsync extends Client {
  constructor({url, position, protocol}) {
    super()
    this.url = `${url}/v1/sync`
    this.protocols = protocol ? [protocol] : []
    this.vector = {docs: position}
  }
  connect() {
    const hello = {type: "hello", shapes: ["docs"], vector: this.vector}
    return this.talk(this.url, this.protocols, hello, (message, resolve) => {
      if (message.type === "live") resolve()
      if (message.type !== "events") return
      this.vector = {docs: message.to}
      for (const event of message.events) this.saw(event.doc)
    })
  }
}

class SocketIo extends Client {
  constructor({url}) {
    super()
    this.socket = io(url, {transports: ["websocket"], reconnection: false, forceNew: true, autoConnect: false})
    this.socket.on("created", (document) => this.saw(document))
  }
  connect() {
    return new Promise((resolve, reject) => {
      this.socket.once("connect", resolve)
      this.socket.once("connect_error", reject)
      this.socket.connect()
    })
  }
  cut() {
    this.socket.io.engine.transport.ws.terminate?.()
    this.socket.io.engine.close()
  }
}

class Parse extends Client {
  constructor({url}) {
    super()
    this.url = url
  }
  connect() {
    return this.talk(this.url, [], {op: "connect", applicationId: "bench"}, (message, resolve, reject) => {
      if (message.op === "connected") {
        this.send({op: "subscribe", requestId: 1, query: {className: "Docs", where: {}}})
      } else if (message.op === "subscribed") resolve()
      else if (message.op === "create") this.saw(message.object)
      else if (message.op === "error") reject(new Error(message.error))
    })
  }
}

// RxDB's replication: a stream of new documents, and pages of missed ones from a checkpoint on. Either may bring what the
// other has brought, which RxDB ignores. (It compares the states; here all are made once.)
class RxDb extends Client {
  checkpoint = {id: "", lwt: 0}
  known = new Set()
  constructor({url}) {
    super()
    this.url = `${url}/docs/0`
  }
  take({documents, checkpoint}) {
    this.checkpoint = checkpoint
    for (const document of documents) {
      if (this.known.has(document.id)) continue
      this.known.add(document.id)
      this.saw(document)
    }
  }
  async connect() {
    await new Promise((resolve, reject) => {
      this.request = get(`${this.url}/pullStream`, {agent: false}, (response) => {
        let text = ""
        response.setEncoding("utf8")
        response.on("error", () => {})
        response.on("data", (piece) => {
          const events = (text + piece).split("\n\n")
          text = events.pop()
          for (const event of events) if (event.startsWith("data: {")) this.take(JSON.parse(event.slice(6)))
        })
        resolve()
      })
      this.request.on("error", reject)
    })
    for (let count = PAGE; count === PAGE; ) {
      const {id, lwt} = this.checkpoint
      const page = await (await fetch(`${this.url}/pull?id=${id}&lwt=${lwt}&limit=${PAGE}`)).json()
      this.take(page)
      count = page.documents.length
    }
  }
  cut() {
    this.request.on("error", () => {})
    this.request.destroy()
  }
}

const MAKES = {eventsync: Eventsync, socketio: SocketIo, parse: Parse, rxdb: RxDb}
const sum = (of) => clients.reduce((total, client) => total + of(client), 0)
const counts = () => ({received: sum((client) => client.seen.size), doubled: sum((client) => client.doubled)})

const methods = {
  open: async ({make, count, ...how}) => {
    for (let number = 0; number < count; number++) clients.push(new MAKES[make](how))
    await Promise.all(clients.map((client) => client.connect()))
    return {}
  },
  cut: async () => {
    for (const client of clients) client.cut()
    return {}
  },
  // Connect all again; wait until each has seen so many, or nothing has come for `quiet` ms.
  back: async (asked) => {
    const began = now()
    await Promise.all(clients.map((client) => client.connect()))
    return {...await methods.received(asked), ms: now() - began}
  },
  received: async ({expected, quiet}) => {
    for (let last = -1, since = now(); ; ) {
      const {received} = counts()
      if (received !== last) [last, since] = [received, now()]
      if (received >= expected * clients.length || now() - since > quiet) return counts()
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  },
  delays: async () => {
    const found = delays.sort((one, other) => one - other)
    delays = []
    const at = (share) => found[Math.min(found.length - 1, Math.floor(found.length * share))] ?? null
    return {p50: at(0.5), p95: at(0.95), p99: at(0.99)}
  },
}

for await (const line of createInterface({input: process.stdin})) {
  const {do: what, ...words} = JSON.parse(line)
  let answer
  try {
    answer = await methods[what](words)
  } catch (error) {
    answer = {wrong: `${what}: ${error.message}`}
  }
  process.stdout.write(JSON.stringify(answer) + "\n")
}
