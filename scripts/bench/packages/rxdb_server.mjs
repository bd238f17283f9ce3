// `node rxdb_server.mjs PORT URI DATABASE MODULES PAGES`: RxDB's server, of a collection in MongoDB, and a folder of pages.
// It is asked by lines of JSON: `fill` makes documents, `change` sets `n` of each to its number.
import {createInterface} from "node:readline"
import {createRequire} from "node:module"

const [port, uri, database, modules, pages] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const answer = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)

const {createRxDatabase} = require("rxdb/plugins/core")
const {getRxStorageMongoDB} = require("rxdb/plugins/storage-mongodb")
const {createRxServer} = require("rxdb-server/plugins/server")
const {RxServerAdapterExpress} = require("rxdb-server/plugins/adapter-express")

const BATCH = 1000
const properties = {
  id: {type: "string", maxLength: 20}, n: {type: "number"}, at: {type: "number"}, text: {type: "string"},
}
const schema = {version: 0, primaryKey: "id", type: "object", properties, required: ["id"]}
const storage = getRxStorageMongoDB({connection: uri})
const db = await createRxDatabase({name: database, storage, multiInstance: false})
const {docs} = await db.addCollections({docs: {schema}})
const server = await createRxServer({
  database: db, adapter: RxServerAdapterExpress, port: Number(port), hostname: "127.0.0.1",
})
server.serverApp.use(require("express").static(pages))
server.addReplicationEndpoint({name: "docs", collection: docs})
await server.start()

const write = async (first, count, size, value) => {
  for (let start = first; start < first + count; start += BATCH) {
    const numbers = Array.from({length: Math.min(BATCH, first + count - start)}, (_, index) => start + index)
    const rows = numbers.map((number) => ({id: String(number), n: value(number), at: 0.5, text: "x".repeat(size - 60)}))
    const {error} = await docs.bulkUpsert(rows)
    if (error.length) throw new Error(JSON.stringify(error[0]))
  }
  return {}
}
const methods = {
  fill: ({count, size}) => write(0, count, size, () => 0),
  change: ({count, size}) => write(0, count, size, (number) => number + 1),
}
for await (const line of createInterface({input: process.stdin})) {
  const {do: what, ...words} = JSON.parse(line)
  const done = await methods[what](words).catch((error) => ({wrong: String(error?.stack ?? error)}))
  answer(`${JSON.stringify(done)}\n`)
}
process.exit(0)
