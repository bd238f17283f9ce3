// `node servers.mjs KIND PORT URI DATABASE MODULES`: a server of another make, set up as its documentation does, with one
// route that makes a document and sends it to all clients. It ends with its input.
import {createRequire} from "node:module"
import {createServer} from "node:http"

const [kind, port, uri, database, modules] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
// Some write what they log there.
const answer = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)
// Parse keeps its own log where it is started.
process.chdir(modules)
const CONCERN = {writeConcern: {w: "majority", j: true}}

const body = async (request) => {
  const pieces = []
  for await (const piece of request) pieces.push(piece)
  return JSON.parse(Buffer.concat(pieces))
}

// socket.io with the MongoDB adapter: what is emitted goes through a capped collection, so that several servers work
// together, and a client that was gone for a short time gets what it has missed.
const socketio = async () => {
  const {Server} = require("socket.io")
  const {createAdapter} = require("@socket.io/mongo-adapter")
  const {MongoClient} = require("mongodb")
  const db = (await new MongoClient(uri, {maxPoolSize: 100}).connect()).db(database)
  const events = await db.createCollection("socketio_events", {capped: true, size: 64 * 1024 * 1024})
  const docs = db.collection("docs")
  const http = createServer(async (request, response) => {
    const document = await body(request)
    await docs.insertOne(document, CONCERN)
    io.emit("created", document)
    response.writeHead(201, {"content-length": 0}).end()
  })
  const io = new Server(http, {
    transports: ["websocket"], perMessageDeflate: false, serveClient: false,
    connectionStateRecovery: {maxDisconnectionDuration: 120_000, skipMiddlewares: true},
  })
  io.adapter(createAdapter(events, {addCreatedAtField: false}))
  await new Promise((resolve) => http.listen(Number(port), "127.0.0.1", 1024, resolve))
}

// Parse Server with LiveQuery in the same process.
const parse = async () => {
  const {ParseServer} = require("parse-server")
  const express = require("express")
  const url = new URL(uri)
  url.pathname = `/${database}`
  const server = new ParseServer({
    databaseURI: url.href, appId: "bench", masterKey: "bench", serverURL: `http://127.0.0.1:${port}/parse`,
    liveQuery: {classNames: ["Docs"]}, allowClientClassCreation: true, logLevel: "error", silent: true,
    logsFolder: null, directAccess: true,
    databaseOptions: {}, fileUpload: {enableForPublic: false}, encodeParseObjectInCloudFunction: true,
  })
  await server.start()
  const app = express()
  app.use("/parse", server.app)
  const http = createServer(app)
  await new Promise((resolve) => http.listen(Number(port), "127.0.0.1", 1024, resolve))
  await ParseServer.createLiveQueryServer(http, {appId: "bench", masterKey: "bench", logLevel: "error"})
}

// RxDB Server: a collection of RxDB in MongoDB, replicated to clients over HTTP and SSE. It does not see what others
// write into MongoDB.
const rxdb = async () => {
  const {createRxDatabase} = require("rxdb")
  const {getRxStorageMongoDB} = require("rxdb/plugins/storage-mongodb")
  const {createRxServer} = require("rxdb-server/plugins/server")
  const {RxServerAdapterExpress} = require("rxdb-server/plugins/adapter-express")
  const url = new URL(uri)
  url.searchParams.set("w", "majority")
  url.searchParams.set("journal", "true")
  const storage = getRxStorageMongoDB({connection: url.href})
  const db = await createRxDatabase({name: database, storage, multiInstance: false})
  const properties = {
    id: {type: "string", maxLength: 20}, n: {type: "number"}, at: {type: "number"}, text: {type: "string"},
  }
  const schema = {version: 0, primaryKey: "id", type: "object", properties, required: ["id"]}
  const {docs} = await db.addCollections({docs: {schema}})
  const server = await createRxServer({
    database: db, adapter: RxServerAdapterExpress, port: Number(port), hostname: "127.0.0.1",
  })
  server.serverApp.post("/docs", async (request, response) => {
    await docs.insert({id: String(request.body.n), ...request.body})
    response.status(201).end()
  })
  server.addReplicationEndpoint({name: "docs", collection: docs})
  await server.start()
}

await {socketio, parse, rxdb}[kind]()
process.stdin.on("data", () => answer("{}\n"))
process.stdin.on("end", () => process.exit(0))
