// `node clients.mjs MODULES`: many clients of a server of any make, in one process, so that what they cost is the same
// for all. They do what a JSON line asks, and answer with one, as `scripts.bench.crowd` does.
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
}

// eventsync's protocol; the Starlette server speaks it, too.
class Eventsync extends Client {
  constructor({url, position, protocol}) {
    super()
    this.url = url
    this.protocols = protocol ? [protocol] : []
    this.vector = {docs: position}
  }
  connect() {
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(`${this.url}/v1/sync`, this.protocols, {perMessageDeflate: false})
      this.socket.on("error", reject)
      this.socket.on("open", () =>
        this.socket.send(JSON.stringify({type: "hello", shapes: ["docs"], vector: this.vector})))
      this.socket.on("message", (text) => {
        const message = JSON.parse(text)
        if (message.type === "live") resolve()
        if (message.type !== "events") return
        this.vector = {docs: message.to}
        for (const event of message.events) this.saw(event.doc)
      })
    })
  }
  cut() {
    this.socket.on("error", () => {})
    this.socket.terminate()
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
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(this.url, {perMessageDeflate: false})
      this.socket.on("error", reject)
      this.socket.on("open", () => this.socket.send(JSON.stringify({op: "connect", applicationId: "bench"})))
      this.socket.on("message", (text) => {
        const message = JSON.parse(text)
        if (message.op === "connected") {
          this.socket.send(JSON.stringify({op: "subscribe", requestId: 1, query: {className: "Docs", where: {}}}))
        } else if (message.op === "subscribed") resolve()
        else if (message.op === "create") this.saw(message.object)
        else if (message.op === "error") reject(new Error(text))
      })
    })
  }
  cut() {
    this.socket.on("error", () => {})
    this.socket.terminate()
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
const counts = () => ({
  received: clients.reduce((sum, client) => sum + client.seen.size, 0),
  doubled: clients.reduce((sum, client) => sum + client.doubled, 0),
})

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
  // Everybody again; until each has seen so many, or nothing has come for `quiet` ms.
  back: async ({expected, quiet}) => {
    const began = now()
    await Promise.all(clients.map((client) => client.connect()))
    return {...await methods.received({expected, quiet}), ms: now() - began}
  },
  received: async ({expected, quiet}) => {
    let last = -1
    let since = now()
    for (;;) {
      const {received} = counts()
      if (received >= expected * clients.length) break
      if (received !== last) [last, since] = [received, now()]
      if (now() - since > quiet) break
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    return counts()
  },
  delays: async () => {
    const found = delays.sort((one, other) => one - other)
    delays = []
    const at = (share) => found[Math.min(found.length - 1, Math.floor(found.length * share))] ?? null
    return {count: found.length, p50: at(0.5), p95: at(0.95), p99: at(0.99)}
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
