// What happens to the page of a client: the network comes back, and the back/forward cache takes the page or returns
// it.

/**
 * Have a client act on it. Returns the function that ends that.
 *
 * @param {import("./client.js").Client<any>} client
 */
export function watchPage(client) {
  if (!globalThis.addEventListener) return () => {}; // Node.js
  const page = new AbortController(); // as the options of a listener it has the signal that ends listening
  let isAway = false; // in the cache, and not stopped before
  addEventListener("online", () => client.hurry(), page);
  // The back/forward cache keeps no page with a connection, or with a lock that another tab waits for.
  addEventListener("pagehide", ({ persisted }) => {
    if (!persisted) return;
    isAway = !client.isStopped;
    client.halt();
    client.tabs?.hide();
  }, page);
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    client.tabs?.show();
    if (isAway) client.start();
    isAway = false;
  }, page);
  return () => page.abort();
}
