// Signing in, where rules are in force: a credential becomes a cookie, which no script can read.

import { $, h } from "./dom.js";
import { Refusal, post } from "./http.js";

const SESSION = "/v1/session";

/** The credential in the page's address (`#key=…`), which is removed from there at once; or null. */
function credentialOfAddress() {
  const credential = new URLSearchParams(location.hash.slice(1)).get("key");
  if (credential) history.replaceState(null, "", `${location.pathname}${location.search}`);
  return credential;
}

let principal = null; // whose page this is

/** Sign in, or continue the session of the cookie without a credential. Shows who it is. Throws as `get` does. */
async function signIn(credential) {
  const { sub } = await post(SESSION, { credential });
  // The views ask once what their user may do.
  if (principal !== null && principal !== sub) location.reload();
  principal = sub;
  const anonymous = sub === "anonymous";
  const leave = async () => {
    await post(SESSION, { method: "DELETE" });
    location.reload();
  };
  $("who").replaceChildren(...(anonymous ? [] : [h("span", {}, sub), h("button", { type: "button", class: "quiet", onclick: leave }, "Sign out")]));
  $("who").hidden = anonymous;
}

let asking = null; // the promise of the dialog that is open

/** Ask for a credential until one is accepted. `why`: the reason why it is needed. */
export function ask(why) {
  asking ??= new Promise((done) => {
    const field = h("input", { type: "password", id: "credential", autocomplete: "off", spellcheck: "false", required: true });
    const refused = h("p", { class: "why", role: "alert" }, why);
    const submit = async (event) => {
      event.preventDefault();
      try {
        await signIn(field.value.trim());
      } catch (error) {
        refused.textContent = error instanceof Refusal ? error.message : "The server can't be reached.";
        return field.select();
      }
      asking = null;
      $("sign-in").close();
      done();
    };
    const text = "A service key or a token. It is kept in a cookie of this server, until you sign out.";
    const form = h("form", { onsubmit: submit }, h("h2", { id: "sign-in-title" }, "Sign in"),
      h("p", {}, h("label", { for: "credential" }, text)), h("p", {}, field), refused,
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Sign in")));
    $("sign-in").replaceChildren(form);
    $("sign-in").addEventListener("cancel", (event) => event.preventDefault());
    $("sign-in").showModal();
  });
  return asking;
}

/** Sign in by the address or by the cookie; without either, the first answer says whether that is needed. */
export async function signInAtStart() {
  const credential = credentialOfAddress();
  try {
    await signIn(credential);
  } catch (error) {
    if (credential) await ask(error.message);
  }
}
