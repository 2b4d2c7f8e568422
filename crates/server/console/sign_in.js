// The sign-in view: a token, or the identity provider of the organization.

import { readMethods, signIn } from "./api.js";
import { h, icon } from "./dom.js";

/** Shows the form; `signedIn` gets the session. `message` says why the reader has to sign in. */
export function mountSignIn(outlet, { message, signedIn }) {
  const problem = h("p", { class: "error", role: "alert", id: "sign-in-error" });
  // A password field, so that browsers neither show nor log the token, and password managers keep it.
  const token = h("input", {
    type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false",
    "aria-describedby": "sign-in-error",
  });
  const submit = h("button", { type: "submit", class: "button primary" }, "Sign in");
  const provider = h("div", { class: "provider", hidden: true });
  const byToken = h("div", { class: "by-token" },
    h("label", { for: "token" }, "Token"), token, problem, submit,
    h("p", { class: "hint" }, "The administrator’s token is ", h("code", null, "admin_token"),
      " of the configuration. The token of an application shows that application only."));
  const form = h("form", { class: "sign-in", on: { submit: send } },
    h("div", { class: "mark large" }, icon("play")),
    h("h1", null, "Pagecast"),
    message && h("p", { class: "hint", role: "status" }, message), provider, byToken);

  async function showMethods() {
    // Without an answer, a token is what always works.
    const methods = await readMethods().catch(() => ({ token: true, oidc: null }));
    byToken.hidden = !methods.token;
    if (!methods.oidc || !form.isConnected) return;
    provider.hidden = false;
    provider.replaceChildren(h("a", { class: "button primary", href: "/v1/session/oidc" }, `Sign in with ${methods.oidc.label}`),
      methods.token ? h("p", { class: "or" }, h("span", null, "or")) : "");
    submit.classList.remove("primary");
    if (!token.value) provider.firstChild.focus();
  }

  async function send(event) {
    event.preventDefault();
    const value = token.value.trim();
    if (!value) return token.focus();
    submit.disabled = true;
    problem.textContent = "";
    try {
      signedIn(await signIn({ token: value }));
    } catch (error) {
      problem.textContent = error.status === 401 ? "This token is not known." : error.message;
      token.select();
    } finally {
      submit.disabled = false;
    }
    return undefined;
  }

  outlet.replaceChildren(h("main", { class: "sign-in-page" }, form));
  token.focus();
  showMethods();
}
