// In place of the package `eventsource`, which RxDB's replication imports and which is for Node.js: the browser's own.

export default globalThis.EventSource;
