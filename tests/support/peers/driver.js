// The clients of a JavaScript runtime, as something outside drives them: evaluated in a browser's page, and by node.mjs.
//
// `open` and the other commands come from outside; `say` tells what happens, a list that begins with the link's number:
// [link, "message", text, event id], [link, "lost"] (the client reconnects by itself), [link, "ended", code, reason].
(say, { WebSocket, EventSource }) => {
  const MESSAGES = ["welcome", "snapshot", "squashed", "events", "live", "progress", "reset", "error"];
  const links = new Map();

  function websocket(number, { url, shapes, vector, token }) {
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/sync`, "eventsync.v1");
    socket.onopen = () => socket.send(JSON.stringify({ type: "hello", shapes, vector, ...(token && { token }) }));
    socket.onmessage = ({ data }) => say([number, "message", data, null]);
    socket.onerror = () => {}; // a close always follows
    socket.onclose = ({ code, reason }) => say([number, "ended", code, reason]);
    return { close: () => (socket.terminate ?? socket.close).call(socket), send: (text) => socket.send(text) };
  }

  function sse(number, { url, shapes, vector, ticket }) {
    const address = new URL("/v1/sync/sse", url);
    for (const shape of shapes) address.searchParams.append("shape", shape);
    if (Object.keys(vector).length) address.searchParams.set("vector", new URLSearchParams(vector).toString());
    if (ticket) address.searchParams.set("ticket", ticket);
    const source = new EventSource(address.href);
    for (const type of MESSAGES) {
      source.addEventListener(type, (event) => {
        // `error` is the server's message if it carries data, and the client's own news of its connection if not.
        if (event.data !== undefined) say([number, "message", event.data, event.lastEventId]);
        else if (source.readyState === EventSource.CLOSED) say([number, "ended", event.code ?? null, event.message ?? ""]);
        else say([number, "lost"]);
      });
    }
    return { close: () => source.close() };
  }

  const kinds = { websocket, sse };
  return {
    open: (number, kind, asked) => void links.set(number, kinds[kind](number, asked)),
    send: (number, text) => links.get(number).send(text),
    close(number) {
      links.get(number).close();
      links.delete(number);
    },
  };
}
