// Describes what a change did to a document, for people.

import { PatchError, equal, parsePointer, read } from "./patch.js";
import { brief } from "./values.js";

/** `[{ tokens, before, after }]` of a Replica's change; `before` or `after` is undefined where there was, or is, nothing. */
export function differences({ before, after, event }) {
  if (!event?.patch) return topLevel(before?.doc ?? {}, after?.doc ?? {});
  return event.patch.map(({ op, path, value }) => {
    const tokens = parsePointer(path);
    // An `add` inside a list moves the following items; it replaces nothing.
    const pushed = op === "add" && Array.isArray(find(before?.doc, tokens.slice(0, -1)));
    return { tokens, before: pushed ? undefined : find(before?.doc, tokens), after: op === "remove" ? undefined : value };
  });
}

function topLevel(before, after) {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names]
    .filter((name) => name !== "_id" && !equal(before[name], after[name]))
    .map((name) => ({ tokens: [name], before: before[name], after: after[name] }));
}

function find(document, tokens) {
  try {
    return document && read(document, tokens);
  } catch (error) {
    if (error instanceof PatchError) return undefined;
    throw error;
  }
}

/** The difference in one line of text. */
export function sentence({ tokens, before, after }) {
  const field = tokens.join(".") || "the document";
  if (after === undefined && before === undefined) return `${field} removed`;
  if (after === undefined) return `${field} removed, was ${brief(before, 40)}`;
  if (before === undefined) return `${field}: ${brief(after, 40)}`;
  return `${field}: ${brief(before, 40)} → ${brief(after, 40)}`;
}
