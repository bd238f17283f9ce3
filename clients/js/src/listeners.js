// Calls the functions of an application. What they throw is reported, and must not disturb the client.

/** @typedef {import("./options.js").ClientEvents} ClientEvents */

export class Listeners {
  /** @type {Map<keyof ClientEvents, Set<(detail: any) => void>>} */
  #listeners = new Map();
  #announced = ""; // the last status

  /** @param {(error: unknown) => void} report */
  constructor(report) {
    this.report = report;
  }

  /** @param {keyof ClientEvents} name @param {(detail: any) => void} listener @returns {() => void} */
  add(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** @template {keyof ClientEvents} Name @param {Name} name @param {ClientEvents[Name]} detail */
  tell(name, detail) {
    for (const listener of this.#listeners.get(name) ?? []) this.call(listener, detail);
  }

  /** Tell the status, if it is another one. @param {ClientEvents["status"]} status */
  announce(status) {
    const announced = JSON.stringify(status);
    if (announced === this.#announced) return;
    this.#announced = announced;
    this.tell("status", status);
  }

  /**
   * A function whose result is used; `instead` gives it where that throws. It runs while the client is at work, which
   * the report waits for.
   *
   * @template T
   * @param {(given: any) => T} its
   * @param {(given: any) => T} instead
   */
  guarded(its, instead) {
    return (/** @type {any} */ given) => {
      try {
        return its(given);
      } catch (error) {
        queueMicrotask(() => this.report(error));
        return instead(given);
      }
    };
  }

  /** @param {((detail: any) => void) | undefined} listener @param {any} detail */
  call(listener, detail) {
    try {
      listener?.(detail);
    } catch (error) {
      this.report(error);
    }
  }
}
