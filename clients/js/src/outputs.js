// What is done with each thing that the engine wants: the handles, the store, the server, the other tabs and the
// application get it.

import { JSON_BODY } from "./writes.js";

/** @typedef {import("./client.js").Client<any>} Client */
/** @typedef {import("./engine.js").EngineOutput} EngineOutput */

/** @param {Client} client @param {EngineOutput} output */
export function perform(client, output) {
  const { handles, persister, writes } = client;
  const tab = client.tabs?.tab;
  switch (output.type) {
    case "view":
      return handles.get(output.shape)?.changed(output);
    case "confirmed":
      return handles.get(output.shape)?.confirmed(output);
    case "apply":
      tab?.unstored.apply(output.shape, output.step);
      return persister.apply(output.shape, output.step);
    case "forget":
      tab?.unstored.forget(output.shape);
      return persister.forget(output.shape);
    case "dequeue":
      writes.settled(output.key);
      return persister.then((store) => store.dequeue(output.key));
    case "request":
      return void writes.send(output.write, output.ifMatch);
    case "barrier":
      return void writes.askForBarrier();
    case "done":
      writes.answered(output.write, output.answer);
      tab?.ended(output.write.key, { answer: output.answer });
      return client.statusChanged();
    case "settled":
      return writes.settled(output.key, output.shape);
    case "rejected":
      return rejected(client, output);
    case "reset":
      if (!isOwn(client, output.shape)) return;
      return client.listeners.tell("reset", { shape: output.shape, reason: output.reason });
    case "acknowledge":
      return void acknowledge(client, output.vector);
    case "refused":
      if (!isOwn(client, output.error.shape)) return;
      handles.get(output.error.shape)?.refused(output.error);
      return client.listeners.tell("refused", output.error);
    case "status":
      tab?.statusChanged();
      return client.statusChanged();
  }
}

/** Acknowledge by a request; what it could not bring, the next one does. @param {Client} client @param {object} vector */
async function acknowledge({ http, options }, vector) {
  const path = `v1/state-vectors/${encodeURIComponent(String(options.clientId))}`;
  await http.request("PUT", path, { body: { vector }, headers: JSON_BODY }).catch(() => {});
}

/** False for a shape that only other tabs follow. @param {Client} client @param {string | undefined} shape */
function isOwn({ engine }, shape) {
  return shape === undefined || !engine.hidden.includes(shape);
}

/** @param {Client} client @param {import("./options.js").Rejection} rejection */
function rejected(client, { write, problem }) {
  const tab = client.tabs?.tab;
  const isReported = client.writes.rejected(write.key, problem) || !tab || tab.inherits(write.key);
  tab?.ended(write.key, { problem });
  if (isReported) {
    client.listeners.call(client.options.onRejected, { write, problem });
    client.listeners.tell("rejected", { write, problem });
  }
  client.statusChanged();
}
