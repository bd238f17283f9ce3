// Shows short notices at the edge of the page. One with choices stays until the user chooses.

import { $, h } from "./dom.js";

const STAY = 6000; // ms

/** `choices`: `[{ text, primary?, run }]`. */
export function notify(title, { detail, bad = false, choices = [] } = {}) {
  const notice = h("div", { class: bad ? "bad" : null }, h("p", {}, title), detail ? h("p", {}, detail) : null);
  if (choices.length) {
    const buttons = choices.map(({ text, primary, run }) => {
      const chosen = () => {
        notice.remove();
        run?.();
      };
      return h("button", { type: "button", class: primary ? "primary" : null, onclick: chosen }, text);
    });
    notice.append(h("div", { class: "buttons" }, ...buttons));
  } else {
    setTimeout(() => notice.remove(), STAY);
  }
  $("notices").append(notice);
  return notice;
}
