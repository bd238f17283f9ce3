// Brings the steps of the shapes into a store, one after another. While one is being stored, those that follow are
// joined, so a slow store costs memory for the rows that changed and no more.

/** @typedef {import("./store.js").OpenStore} OpenStore */
/** @typedef {import("./store.js").Step} Step */

const AGAIN = 1000; // ms after a failure of the store

/**
 * Return the step that does the same as two, one after the other.
 *
 * @param {Step} first
 * @param {Step} second
 * @returns {Step}
 */
export function joined(first, second) {
  if (second.clear) return second;
  const put = new Map(first.put);
  const remove = new Set(first.remove);
  for (const id of second.remove) {
    put.delete(id);
    remove.add(id);
  }
  for (const [id, row] of second.put) {
    remove.delete(id);
    put.set(id, row);
  }
  return { position: second.position, put: [...put], remove: [...remove], clear: first.clear };
}

export class Persister {
  /** @type {Map<string, Step | "forget">} */
  #steps = new Map();
  /** @type {(() => Promise<void>)[]} What has to come after the steps before it. */
  #after = [];
  /** @type {Promise<void> | null} */
  #working = null;
  #finishing = false;
  #leads = true; // false while another tab stores
  #generation = 0; // counts the times that this has changed
  /** @type {((store: OpenStore) => Promise<void>) | null} What has to come before anything else. */
  #first = null;
  /** @type {{ timer: ReturnType<typeof setTimeout>, resolve: (value: undefined) => void } | null} */
  #pause = null;

  /**
   * @param {Promise<OpenStore>} store
   * @param {{ durable: (shape: string, position: string) => void, failed: (error: unknown) => void }} reports
   */
  constructor(store, reports) {
    this.store = store;
    this.reports = reports;
  }

  /** Store nothing from now on, and discard what is waiting: another tab stores. */
  follow() {
    this.#leads = false;
    this.#generation += 1;
    this.#first = null;
    this.#steps.clear();
    this.#after = [];
  }

  /**
   * Store from now on.
   *
   * @param {(store: OpenStore) => Promise<void>} first - Done before anything else.
   */
  lead(first) {
    this.#leads = true;
    this.#generation += 1;
    this.#first = first;
    this.#hurry();
    this.#work();
  }

  /** @param {string} shape @param {Step} step */
  apply(shape, step) {
    if (!this.#leads) return;
    const before = this.#steps.get(shape);
    // What follows a forgotten shape is a snapshot, which clears.
    this.#steps.set(shape, before && before !== "forget" ? joined(before, step) : step);
    this.#work();
  }

  /** @param {string} shape */
  forget(shape) {
    if (!this.#leads) return;
    this.#steps.set(shape, "forget");
    this.#work();
  }

  /**
   * Do something in the store once all steps so far are stored.
   *
   * @param {(store: OpenStore) => Promise<void>} action
   */
  then(action) {
    if (!this.#leads) return;
    this.#after.push(async () => action(await this.store));
    this.#work();
  }

  /** Resolves once everything so far is stored. */
  async settled() {
    await this.#working;
  }

  /** Store what is here, and give up at the first failure: the client ends. */
  async finish() {
    this.#finishing = true;
    this.#hurry();
    await this.#working;
  }

  #hurry() {
    clearTimeout(this.#pause?.timer);
    this.#pause?.resolve(undefined);
  }

  #work() {
    this.#working ??= this.#run().finally(() => (this.#working = null));
  }

  async #run() {
    while (this.#first || this.#steps.size || this.#after.length) {
      const [generation, steps, after] = [this.#generation, this.#steps, this.#after];
      const isCurrent = () => generation === this.#generation;
      [this.#steps, this.#after] = [new Map(), []];
      try {
        await this.#first?.(await this.store);
        if (isCurrent()) this.#first = null;
        for (const [shape, step] of steps) {
          if (!isCurrent()) break;
          await this.#store(shape, step);
          steps.delete(shape);
        }
        for (; after.length && isCurrent(); after.shift()) await after[0]();
      } catch (error) {
        this.reports.failed(error);
        if (!isCurrent()) continue;
        for (const [shape, step] of steps) {
          const later = this.#steps.get(shape);
          if (!later) this.#steps.set(shape, step);
          else if (later !== "forget" && step !== "forget") this.#steps.set(shape, joined(step, later));
        }
        this.#after = [...after, ...this.#after];
        if (this.#finishing) return;
        await new Promise((resolve) => (this.#pause = { resolve, timer: setTimeout(resolve, AGAIN) }));
        this.#pause = null;
      }
    }
  }

  /** @param {string} shape @param {Step | "forget"} step */
  async #store(shape, step) {
    const store = await this.store;
    if (step === "forget") return store.forget(shape);
    await store.apply(shape, step);
    this.reports.durable(shape, step.position);
  }
}
