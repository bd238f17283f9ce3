// IndexedDB by promises.

/**
 * What a request results in.
 *
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
export function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * Resolves once a transaction is stored, and rejects if nothing of it is.
 *
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
export function doneOf(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("it was aborted", "AbortError"));
  });
}

/**
 * Open a database, with these tables.
 *
 * @param {string} name
 * @param {number} version
 * @param {string[]} tables - Those that are not there are created.
 * @param {object} on
 * @param {(transaction: IDBTransaction) => void} on.created - It is new: what this stores is stored with it.
 * @param {(change: IDBVersionChangeEvent) => void} on.unwanted - Another tab wants to remove the database, or to have it in a newer version.
 * @param {() => void} on.closed - The browser has closed it.
 */
export async function openDatabase(name, version, tables, { created, unwanted, closed }) {
  const request = indexedDB.open(name, version);
  request.onupgradeneeded = ({ oldVersion }) => {
    const { result, transaction } = request;
    for (const table of tables) if (!result.objectStoreNames.contains(table)) result.createObjectStore(table);
    if (!oldVersion) created(/** @type {IDBTransaction} */ (transaction));
  };
  const database = await resultOf(request);
  database.onversionchange = unwanted;
  database.onclose = closed;
  return database;
}
