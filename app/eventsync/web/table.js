// Shows the documents as a grid: bounded, sorted by id, drawn once a frame, and only where something changed.

import { h, onFrame } from "./dom.js";
import { brief, isEditable, kindOf, show } from "./values.js";

const ROWS = 200;
const COLUMNS = 14;

/** Order id texts: integers as numbers, everything else by its characters (which orders ObjectIds by age). */
export function compareIds(left, right) {
  if (left.startsWith("int:") && right.startsWith("int:")) return Number(left.slice(4)) - Number(right.slice(4));
  return left < right ? -1 : left > right ? 1 : 0;
}

/** The paths that get a column: objects of one structure are opened, others stay one cell. */
export function columnsOf(documents, limit = COLUMNS) {
  const found = [];
  grow([], documents, found);
  const kept = new Set([...found].sort((a, b) => b.count - a.count).slice(0, limit));
  return found.filter((column) => kept.has(column)).map((column) => column.tokens);
}

function grow(path, nodes, found) {
  const counts = new Map();
  for (const node of nodes) for (const key of Object.keys(node)) counts.set(key, (counts.get(key) ?? 0) + 1);
  for (const [key, count] of counts) {
    if (!path.length && key === "_id") continue;
    const children = nodes.map((node) => node[key]).filter((value) => kindOf(value) === "object");
    const tokens = [...path, key];
    if (children.length * 2 > count && tokens.length < 4 && alike(children)) grow(tokens, children, found);
    else found.push({ tokens, count });
  }
}

/** Return true if most names in these objects are in most of them. Keys that are data are not. */
function alike(objects) {
  const counts = new Map();
  for (const object of objects) for (const key of Object.keys(object)) counts.set(key, (counts.get(key) ?? 0) + 1);
  const common = [...counts.values()].filter((count) => count * 2 >= objects.length).length;
  return common > 0 && common * 2 >= counts.size;
}

/** The value at `tokens`, or undefined. */
export function valueAt(document, tokens) {
  return tokens.reduce((node, token) => (kindOf(node) === "object" && Object.hasOwn(node, token) ? node[token] : undefined), document);
}

/** The text that the filter searches: a document's values as shown, without the names of its fields. */
export function searchable(value) {
  const kind = kindOf(value);
  if (kind === "array") return value.map(searchable).join("\n");
  if (kind === "object") return Object.values(value).map(searchable).join("\n");
  return show(value);
}

export class DocumentTable {
  #rows = new Map(); // id → { tr, entry, cells }
  #shown = []; // ids, in order
  #columns = [];
  #known = new Set(); // top-level names that the columns were made from
  #changed = new Map(); // id → differences not drawn yet
  #reordered = true;
  #text = new WeakMap(); // entry → what the filter searches
  #filter = "";
  #documents = new Map();

  /** Calls `edit(cell, id, tokens)` and `open(id)` for the user, and `counted(shown, matching, all)` after drawing. */
  constructor(table, { edit, open, counted }) {
    this.table = table;
    this.handlers = { edit, open, counted };
    this.draw = onFrame(() => this.#draw());
    table.addEventListener("click", (event) => this.#activate(event.target.closest("td, tbody th")));
    table.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show another collection. */
  reset(documents) {
    this.#documents = documents;
    this.#rows.clear();
    this.#columns = [];
    this.#known.clear();
    this.#changed.clear();
    this.table.tBodies[0].replaceChildren();
    this.table.tHead.replaceChildren();
    this.#reordered = true;
    this.draw();
  }

  filter(text) {
    this.#filter = text.trim().toLowerCase();
    this.#reordered = true;
    this.draw();
  }

  /** Record changes: `[{ id, before, after, differences }]`. */
  note(documents, changes) {
    this.#documents = documents;
    for (const { id, before, after, differences } of changes) {
      if (!before || !after || this.#filter) this.#reordered = true;
      this.#changed.set(id, [...(this.#changed.get(id) ?? []), ...differences]);
    }
    this.draw();
  }

  #draw() {
    if (this.#reordered) this.#order();
    this.#makeColumns();
    const { activeElement } = document;
    this.#place();
    for (const [id, differences] of this.#changed) {
      const row = this.#rows.get(id);
      if (row) this.#update(row, id, differences);
    }
    this.#changed.clear();
    if (activeElement !== document.activeElement && activeElement.isConnected) activeElement.focus();
  }

  #order() {
    const ids = [...this.#documents.keys()].filter((id) => this.#matches(id)).sort(compareIds);
    this.#shown = ids.slice(0, ROWS);
    this.#reordered = false;
    this.table.setAttribute("aria-rowcount", String(ids.length + 1));
    this.handlers.counted(this.#shown.length, ids.length, this.#documents.size);
  }

  #matches(id) {
    if (!this.#filter) return true;
    const entry = this.#documents.get(id);
    if (!this.#text.has(entry)) this.#text.set(entry, `${id}\n${searchable(entry.doc)}`.toLowerCase());
    return this.#text.get(entry).includes(this.#filter);
  }

  #makeColumns() {
    const documents = this.#shown.map((id) => this.#documents.get(id)?.doc).filter(Boolean);
    const names = documents.flatMap((doc) => Object.keys(doc)).filter((name) => !this.#known.has(name));
    if (!names.length) return;
    for (const name of names) this.#known.add(name);
    this.#columns = columnsOf(documents);
    const heads = this.#columns.map((tokens) => {
      const within = tokens.slice(0, -1).map((token) => `${token}.`).join("");
      return h("th", { scope: "col" }, within && h("span", { class: "within" }, within), tokens.at(-1));
    });
    this.table.tHead.replaceChildren(
      h("tr", {}, h("th", { scope: "col" }, "_id"), h("th", { scope: "col", class: "version" }, "version"), ...heads),
    );
    this.#rows.clear();
    this.table.tBodies[0].replaceChildren();
  }

  /** Bring the rows into the order of `#shown`, moving only those that are out of place. */
  #place() {
    const body = this.table.tBodies[0];
    const wanted = new Set(this.#shown);
    for (const [id, { tr }] of this.#rows) {
      if (wanted.has(id)) continue;
      tr.remove();
      this.#rows.delete(id);
    }
    let next = body.firstElementChild;
    for (const id of this.#shown) {
      if (!this.#rows.has(id)) this.#rows.set(id, this.#make(id));
      const { tr } = this.#rows.get(id);
      if (tr === next) next = next.nextElementSibling;
      else body.insertBefore(tr, next);
    }
    if (!this.table.querySelector("tbody [tabindex='0']")) body.querySelector("th, td")?.setAttribute("tabindex", "0");
  }

  #make(id) {
    const head = h("th", { scope: "row", tabindex: "-1" }, h("span", { title: id }, id));
    const cells = this.#columns.map((tokens) => {
      const cell = h("td", { tabindex: "-1" });
      cell.tokens = tokens;
      return cell;
    });
    const version = h("td", { class: "version", tabindex: "-1", "aria-readonly": "true" });
    const row = { tr: h("tr", {}, head, version, ...cells), cells, version, entry: undefined };
    row.tr.documentId = id;
    this.#fill(row, id);
    return row;
  }

  #fill(row, id) {
    row.entry = this.#documents.get(id);
    row.version.textContent = row.entry.version;
    for (const cell of row.cells) {
      if (cell.classList.contains("editing")) continue;
      const value = valueAt(row.entry.doc, cell.tokens);
      const text = brief(value, 80);
      if (cell.textContent !== text) cell.textContent = text;
      cell.dataset.kind = kindOf(value);
      cell.title = text.length > 24 ? show(value).slice(0, 1000) : "";
      cell.toggleAttribute("data-edit", isEditable(value));
      cell.setAttribute("aria-readonly", String(!isEditable(value)));
    }
  }

  #update(row, id, differences) {
    const fresh = row.entry !== this.#documents.get(id);
    if (fresh) this.#fill(row, id);
    flash(row.version);
    for (const cell of row.cells) {
      if (differences.some(({ tokens }) => overlaps(tokens, cell.tokens))) flash(cell);
    }
  }

  /** Draw a cell again, after a cancelled edit. */
  redraw(id) {
    const row = this.#rows.get(id);
    if (row && this.#documents.has(id)) this.#fill(row, id);
  }

  #activate(cell) {
    if (!cell || cell.classList.contains("editing")) return;
    const id = cell.parentElement.documentId;
    this.#focus(cell);
    if (cell.hasAttribute("data-edit")) this.handlers.edit(cell, id, cell.tokens);
    else this.handlers.open(id);
  }

  #focus(cell) {
    for (const old of this.table.querySelectorAll("tbody [tabindex='0']")) old.setAttribute("tabindex", "-1");
    cell.setAttribute("tabindex", "0");
    cell.focus();
  }

  #key(event) {
    const cell = event.target;
    if (!cell.matches("tbody td, tbody th") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === "F2") {
      event.preventDefault();
      this.#activate(cell);
      return;
    }
    const target = neighbour(cell, event.key);
    if (!target) return;
    event.preventDefault();
    this.#focus(target);
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function neighbour(cell, key) {
  const row = cell.parentElement;
  const at = cell.cellIndex;
  const steps = {
    ArrowLeft: () => cell.previousElementSibling,
    ArrowRight: () => cell.nextElementSibling,
    ArrowUp: () => row.previousElementSibling?.cells[at],
    ArrowDown: () => row.nextElementSibling?.cells[at],
    Home: () => row.cells[0],
    End: () => row.cells[row.cells.length - 1],
    PageUp: () => row.parentElement.rows[Math.max(0, row.sectionRowIndex - 15)].cells[at],
    PageDown: () => row.parentElement.rows[Math.min(row.parentElement.rows.length - 1, row.sectionRowIndex + 15)].cells[at],
  };
  return Object.hasOwn(steps, key) ? steps[key]() : undefined;
}

function overlaps(left, right) {
  const shorter = Math.min(left.length, right.length);
  return left.slice(0, shorter).every((token, at) => token === right[at]);
}

function flash(cell) {
  for (const animation of cell.getAnimations()) animation.cancel();
  cell.classList.remove("flash");
  requestAnimationFrame(() => cell.classList.add("flash"));
}
