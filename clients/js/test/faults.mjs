// What can go wrong at a request to IndexedDB, and what makes it go wrong.

const REQUESTS = ["get", "getAll", "getKey", "getAllKeys", "count", "openKeyCursor", "put", "delete", "clear"];

/** Call `fault(make, transaction)` in place of each request; `make` makes it. Returns the function that ends this. */
export function intercept(fault) {
  const prototype = IDBObjectStore.prototype;
  const originals = REQUESTS.map((name) => [name, prototype[name]]);
  for (const [name, original] of originals) {
    prototype[name] = function (...values) {
      return fault(() => original.apply(this, values), this.transaction);
    };
  }
  return () => originals.forEach(([name, original]) => (prototype[name] = original));
}

export const FAULTS = {
  "aborted before it": (make, transaction) => {
    transaction.abort();
    return make();
  },
  "aborted behind it": (make, transaction) => {
    const request = make();
    transaction.abort();
    return request;
  },
  "aborted after its success": (make, transaction) => {
    const request = make();
    request.addEventListener("success", () => transaction.abort());
    return request;
  },
  "a full disk": (make, transaction) => {
    const request = make();
    transaction._abort("QuotaExceededError"); // of fake-indexeddb: what a browser does by itself
    return request;
  },
  "a request that cannot be made": () => {
    throw new DOMException("no", "DataCloneError");
  },
};

/** Run an action with a fault at its request number `at`. Returns the number of requests and the error. */
export async function withFault(fault, at, action) {
  let requests = 0;
  const end = intercept((make, transaction) => ((requests += 1) === at ? fault(make, transaction) : make()));
  const error = await action().then(() => null, (reason) => reason);
  end();
  return { requests, error };
}
