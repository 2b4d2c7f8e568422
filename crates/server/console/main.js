// Starts the console: the session, the bar above all views, and the views.

import { handleSignedOut, mayOperate, readSession, signIn, signOut } from "./api.js";
import { castStream } from "./cast_stream.js";
import { button, h, icon, iconButton, openDialog, runAction, setText } from "./dom.js";
import { formatTime } from "./format.js";
import { addShortcut, listenForKeys, showKeys } from "./keys.js";
import * as router from "./router.js";
import { mountSignIn } from "./sign_in.js";

/** How long the stream may be interrupted before the page says so, in milliseconds: a reconnect often is faster. */
const RECONNECT_GRACE_MS = 1500;
/** Pause between attempts to reach a server that does not answer, in milliseconds. */
const RETRY_MS = 3000;

/** Pause until the other views are loaded, in milliseconds, where the browser does not say when it is idle. */
const PRELOAD_MS = 2000;

const NAVIGATION = [
  { name: "casts", label: "Casts", path: "/casts", key: "c" },
  { name: "start", label: "Start", path: "/start", key: "n", changes: true },
  { name: "nodes", label: "Nodes", path: "/nodes", key: "o", administrator: true },
  { name: "applications", label: "Applications", path: "/applications", key: "a", administrator: true },
  { name: "use", label: "Use", path: "/use", key: "u", administrator: false },
  { name: "explorer", label: "Explorer", path: "/explorer", key: "e", changes: true },
  { name: "audit", label: "Audit", path: "/audit", key: "l", administrator: true },
];

const ROUTES = [
  { name: "casts", pattern: /^\/casts$/, load: () => import("./casts.js") },
  { name: "cast", pattern: /^\/casts\/([^/]+)$/, load: () => import("./cast.js") },
  { name: "start", pattern: /^\/start$/, load: () => import("./start.js"), changes: true },
  { name: "nodes", pattern: /^\/nodes$/, load: () => import("./nodes.js"), administrator: true },
  { name: "applications", pattern: /^\/applications$/, load: () => import("./applications.js"), administrator: true },
  { name: "explorer", pattern: /^\/explorer$/, load: () => import("./explorer.js"), changes: true },
  { name: "audit", pattern: /^\/audit$/, load: () => import("./audit.js"), administrator: true },
  { name: "use", pattern: /^\/use$/, load: () => import("./use.js"), administrator: false },
  { name: "application", pattern: /^\/applications\/([^/]+)$/, load: () => import("./application.js"), administrator: true },
];

const TITLES = { casts: "Casts", cast: "Cast", start: "Start a cast", nodes: "Nodes", applications: "Applications", application: "Application", use: "Use", explorer: "Explorer", audit: "Audit" };

const PERMISSIONS = { viewer: "Viewer: sees everything, changes nothing", operator: "Operator: runs casts", admin: "Administrator: changes everything" };

/** Why a sign-in with the identity provider failed, by the code that the service puts into the address. */
const PROBLEMS = {
  "oidc-expired": "The sign-in took too long, or was started in another browser. Try again.",
  "oidc-refused": "The identity provider refused the sign-in.",
  "oidc-no-role": "You are signed in there, but have no role here. Ask the administrator for one.",
  "oidc-failed": "The identity provider does not answer as it should. Try again, or sign in with a token.",
};

let session = null;

/** Who is signed in, in a word or two. */
const who = () => session.name || (session.role === "administrator" ? "Administrator" : session.app);

function openAccount() {
  const scope = session.role === "administrator" ? "All applications" : `Application ${session.app}`;
  const end = (everywhere) => (event) =>
    runAction(event.currentTarget, async () => {
      await signOut(everywhere);
      dialog.close();
      showSignIn();
    });
  const body = h("div", { class: "dialog-body" },
    h("dl", { class: "facts" },
      h("dt", null, "Signed in as"), h("dd", null, who()),
      h("dt", null, "Sees"), h("dd", null, scope),
      session.permission && [h("dt", null, "Permission"), h("dd", null, PERMISSIONS[session.permission] || session.permission)],
      h("dt", null, "Until"), h("dd", null, session.expires_at ? formatTime(session.expires_at) : "–")),
    h("p", { class: "hint" }, "“Everywhere” ends all sessions that were started with the same token."),
    h("div", { class: "actions end" },
      button("Sign out everywhere", end(true), { kind: "danger" }), button("Sign out", end(false), { kind: "primary" })));
  const dialog = openDialog("Session", body);
}

function connectionLabel() {
  const element = h("span", { class: "connection", role: "status" });
  let timer = 0;
  castStream.addEventListener("state", () => {
    clearTimeout(timer);
    if (castStream.state === "reconnecting") {
      timer = setTimeout(() => {
        setText(element, "Reconnecting");
        document.body.classList.add("offline");
      }, RECONNECT_GRACE_MS);
    } else if (castStream.state === "open") {
      setText(element, "");
      document.body.classList.remove("offline");
    }
  });
  return element;
}

function showShell() {
  const isAdministrator = session.role === "administrator";
  const allowed = (entry) => (entry.administrator ?? isAdministrator) === isAdministrator && (!entry.changes || mayOperate(session));
  const links = NAVIGATION.filter(allowed).map((entry) =>
    h("a", { href: router.address(entry.path), data: { name: entry.name } }, icon(entry.name), h("span", null, entry.label)));
  const outlet = h("main", { id: "view", tabindex: "-1" });
  const skip = h("button", { type: "button", class: "skip", on: { click: () => outlet.focus() } }, "Skip to content");
  const bar = h("header", { class: "bar" },
    h("a", { class: "brand", href: router.address("/casts"), "aria-label": "Pagecast, casts" }, h("span", { class: "mark" }, icon("play")), h("span", { class: "name" }, "Pagecast")),
    h("nav", { "aria-label": "Views" }, links),
    h("span", { class: "space" }),
    connectionLabel(),
    iconButton("Keys", "keys", showKeys, { class: "icon-button keys-button" }),
    iconButton("Dark or light", "theme", () => window.switchTheme()),
    h("button", { type: "button", class: "account", "aria-label": `Session of ${who()}`, on: { click: openAccount } }, icon("person"), h("span", null, who())));
  document.body.replaceChildren(skip, bar, outlet);
  document.body.className = "";
  router.setContext({ session });
  router.defineRoutes(ROUTES.filter(allowed), {
    outlet,
    start: "/casts",
    shown: (name) => {
      document.title = `${TITLES[name]} · Pagecast`;
      const section = { cast: "casts", application: "applications" }[name] || name;
      for (const link of links) {
        if (link.dataset.name === section) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      }
    },
  });
  for (const entry of NAVIGATION.filter(allowed)) {
    addShortcut({ key: entry.key, prefix: "g", label: `Go to ${entry.label}`, run: () => router.go(router.address(entry.path)) });
  }
}

/** Loads all views while the browser has nothing else to do, so that the next one is there at once. */
function preloadViews() {
  const load = () => ROUTES.forEach((route) => route.load().catch(() => {}));
  if (window.requestIdleCallback) requestIdleCallback(load);
  else setTimeout(load, PRELOAD_MS);
}

let routing = false;

function enter(started) {
  session = started;
  castStream.close();
  showShell();
  castStream.open("", showSignIn);
  if (location.pathname.startsWith("/console/sign-in")) history.replaceState(null, "", router.address("/casts"));
  if (routing) router.show();
  else router.start();
  if (!routing) preloadViews();
  routing = true;
}

function showSignIn(message) {
  if (document.body.classList.contains("signing-in")) return;
  if (routing) router.leave();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  castStream.close();
  session = null;
  document.title = "Sign in · Pagecast";
  document.body.className = "signing-in";
  mountSignIn(document.body, { message: typeof message === "string" ? message : "", signedIn: enter });
}

/** Signs in with the code of a one-time link, which then leaves the address and the history. */
async function useCode(code) {
  history.replaceState(null, "", "/console/sign-in");
  try {
    enter(await signIn({ code }));
  } catch (error) {
    showSignIn(error.status === 401 ? "This link was used already, or has expired. Sign in with a token." : error.message);
  }
}

async function begin() {
  handleSignedOut(() => session && showSignIn("Your session has ended. Sign in again."));
  const told = new URLSearchParams(location.hash.slice(1));
  if (told.has("code")) return useCode(told.get("code"));
  const problem = told.get("problem");
  if (problem) history.replaceState(null, "", "/console/sign-in");
  try {
    const known = await readSession();
    if (known) enter(known);
    else showSignIn(problem ? PROBLEMS[problem] || "The sign-in failed. Try again." : "");
  } catch (error) {
    document.body.replaceChildren(h("p", { class: "empty", role: "status" }, `${error.message} Trying again.`));
    setTimeout(begin, RETRY_MS);
  }
  return undefined;
}

listenForKeys();
addShortcut({ key: "t", label: "Dark or light", run: () => window.switchTheme() });
begin();
