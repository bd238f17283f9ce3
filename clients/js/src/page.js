// What happens to the page of a client: the network comes back, and the back/forward cache takes the page or returns
// it.

/**
 * Have a client act on it. Returns the function that ends that.
 *
 * @param {import("./client.js").Client<any>} client
 */
export function watchPage(client) {
  const page = new AbortController();
  let isAway = false; // in the cache, and not stopped before
  const on = (/** @type {string} */ name, /** @type {() => void} */ act) => {
    const listener = (/** @type {any} */ { persisted }) => persisted !== false && act();
    globalThis.addEventListener?.(name, listener, { signal: page.signal });
  };
  on("online", () => client.hurry());
  // The back/forward cache keeps no page with a connection, or with a lock that another tab waits for.
  on("pagehide", () => {
    isAway = !client.isStopped;
    client.halt();
    client.tabs?.hide();
  });
  on("pageshow", () => {
    client.tabs?.show();
    if (isAway) client.start();
    isAway = false;
  });
  return () => page.abort();
}
