// Addresses below /console/: the path selects the view, the query holds its state.

const BASE = "/console";

let routes = [];
let fallback = "/casts";
let outlet;
let current = null;
let context = {};
let onShow = () => {};
const lastAddresses = new Map();
let moved = false;

/** Address of a view: path below the console, and query values; empty ones are left out. */
export function address(path, query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== "" && value !== null && value !== undefined) params.set(name, value);
  const text = params.toString();
  return BASE + path + (text ? `?${text}` : "");
}

/** The query of the current address. */
export const query = () => Object.fromEntries(new URLSearchParams(location.search));

/** The address at which a view was last, with its query; of one that was not shown yet, its plain path. */
export const lastAddress = (name, path) => lastAddresses.get(name) || address(path);

/** Goes to a view; `replace` keeps the history as it is. */
export function go(to, { replace = false } = {}) {
  if (to !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", to);
  show();
}

/** Changes values of the query without a new view. `push` makes it a step of the history. */
export function setQuery(changes, { push = false } = {}) {
  const to = address(location.pathname.slice(BASE.length), { ...query(), ...changes });
  if (to === location.pathname + location.search) return;
  history[push ? "pushState" : "replaceState"](null, "", to);
  show();
}

/** Sets the routes, `{ pattern, name, load }`, where `load` imports a module with `mount(outlet, context)`. */
export function defineRoutes(list, { outlet: element, start, shown }) {
  routes = list;
  outlet = element;
  fallback = start;
  onShow = shown;
}

/** Sets what every view gets, like the session. */
export function setContext(values) {
  context = values;
}

/** Leaves the current view, so that the next one starts anew. */
export function leave() {
  if (current && current.view && current.view.unmount) current.view.unmount();
  current = null;
  outlet.replaceChildren();
}

function match() {
  const path = location.pathname.slice(BASE.length).replace(/\/+$/, "");
  for (const route of routes) {
    const found = route.pattern.exec(path);
    if (!found) continue;
    try {
      return { route, params: found.slice(1).map(decodeURIComponent), path };
    } catch {
      // An address with a broken escape names nothing.
      return null;
    }
  }
  return null;
}

/** Shows the view of the current address. */
export async function show() {
  const found = match();
  if (!found) return go(address(fallback), { replace: true });
  onShow(found.route.name);
  lastAddresses.set(found.route.name, location.pathname + location.search);
  if (current && current.path === found.path) {
    if (current.view && current.view.update) current.view.update(query());
    return undefined;
  }
  leave();
  const entry = (current = { path: found.path, view: null });
  try {
    const module = await found.route.load();
    // Another view was chosen while this one was loading.
    if (current !== entry) return undefined;
    outlet.replaceChildren();
    outlet.scrollTop = 0;
    entry.view = module.mount(outlet, { ...context, params: found.params, query: query() }) || {};
    // Screen readers and the keyboard go on in the new view, unless it took the focus itself.
    if (moved && !outlet.contains(document.activeElement)) outlet.focus({ preventScroll: true });
    moved = true;
  } catch (error) {
    console.error(error);
    if (current === entry) {
      const text = document.createElement("p");
      text.className = "empty";
      text.textContent = "This view could not be loaded. Reload the page.";
      outlet.replaceChildren(text);
    }
  }
  return undefined;
}

/** Follows links of the console without loading the page again. */
export function start() {
  addEventListener("popstate", show);
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest && event.target.closest("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.pathname !== BASE && !link.pathname.startsWith(`${BASE}/`)) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
  return show();
}
