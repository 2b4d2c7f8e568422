// The list of casts: the running ones live, the ended ones page by page.

import { get } from "./api.js";
import { castStream } from "./cast_stream.js";
import { matches } from "./cast_facts.js";
import { createRow, fillRow, headRow } from "./cast_row.js";
import { button, emptyState, errorLine, h, icon, setText } from "./dom.js";
import { formatCount, plural } from "./format.js";
import { addShortcut } from "./keys.js";
import { address, go, query as currentQuery, setQuery } from "./router.js";
import { Thumbnails } from "./thumbnails.js";
import { VirtualList } from "./virtual_list.js";

/** Ended casts on a page. */
const PAGE_SIZE = 100;
/** Most ended casts that are loaded: beyond, filters find them faster. */
const MAX_ENDED = 5000;
/** Rows before the end of the list at which the next page is read. */
const PAGE_AHEAD = 20;
/** Time between two updates of ages, in milliseconds. */
const AGE_MS = 1000;
/** Pause after a key before the search changes the address, in milliseconds. */
const SEARCH_MS = 120;

const RUNNING = ["live", "starting", "queued"];
const STATES = [["", "All"], ["live", "Live"], ["starting", "Starting"], ["queued", "Queued"], ["ended", "Ended"]];
const APIS = [["", "All APIs"], ["v1", "v1"], ["volcengine", "volcengine"], ["tencent", "tencent"]];

/** Where the list was left: its session, filters, position, ended casts, and the cast that was opened. */
let left = null;

export function mount(outlet, context) {
  return new CastsView(outlet, context);
}

class CastsView {
  #ended = new Map();
  #next = undefined;
  #loading = false;
  #failure = null;
  #keys = [];
  #generation = 0;
  #stops = [];
  #restore = null;

  constructor(outlet, { session, query }) {
    this.session = session;
    this.filters = query;
    this.#build(outlet);
    castStream.open(query.app || "");
    this.#listen(castStream, "change", (event) => this.#change(event.detail));
    this.#listen(castStream, "state", () => this.#show());
    const timer = setInterval(() => document.hidden || this.list.refreshAll(), AGE_MS);
    this.#stops.push(() => clearInterval(timer), () => this.list.close(), () => this.thumbnails.close());
    this.#addKeys();
    if (left && left.session === session && JSON.stringify(left.filters) === JSON.stringify(query)) this.#return(left);
    else this.#restart();
  }

  /** Shows the list as it was left. */
  #return({ ended, next, top, id }) {
    this.#ended = ended;
    this.#next = next;
    this.#show();
    this.#restore = () => {
      this.scroller.scrollTop = top;
      const row = id && this.list.reveal(this.#keys.indexOf(id));
      if (row) row.parts.link.focus({ preventScroll: true });
    };
    if (castStream.counts) this.#finishReturn();
  }

  #finishReturn() {
    const restore = this.#restore;
    this.#restore = null;
    if (restore) restore();
  }

  /** Follows the query of the address. */
  update(query) {
    const before = this.filters;
    this.filters = query;
    castStream.open(query.app || "");
    if (before.app !== query.app || before.api !== query.api) this.#restart();
    else this.#show();
    this.#fillFilters();
    if (before.state !== query.state) this.scroller.scrollTop = 0;
  }

  unmount() {
    this.#generation += 1;
    const row = document.activeElement && document.activeElement.closest(".row");
    left = { session: this.session, filters: this.filters, top: this.scroller.scrollTop, ended: this.#ended, next: this.#next, id: row ? row.dataset.id : "" };
    for (const stop of this.#stops) stop();
    castStream.open("");
  }

  #listen(target, type, listener) {
    target.addEventListener(type, listener);
    this.#stops.push(() => target.removeEventListener(type, listener));
  }

  #build(outlet) {
    this.states = h("div", { class: "states", role: "group", "aria-label": "State" }, STATES.map(([value, label]) =>
      h("button", { type: "button", data: { value }, on: { click: () => setQuery({ state: value }, { push: true }) } },
        h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "label" }, label), h("span", { class: "count" }))));
    let timer = 0;
    this.search = h("input", {
      type: "search", placeholder: "Search", "aria-label": "Search in page, application, node, room and id", autocomplete: "off", spellcheck: "false",
      on: { input: () => {
        clearTimeout(timer);
        timer = setTimeout(() => setQuery({ q: this.search.value.trim() }), SEARCH_MS);
      } },
    });
    this.#stops.push(() => clearTimeout(timer));
    this.app = h("select", { "aria-label": "Application", on: { change: () => setQuery({ app: this.app.value }, { push: true }) } });
    this.api = h("select", { "aria-label": "API", on: { change: () => setQuery({ api: this.api.value }, { push: true }) } },
      APIS.map(([value, label]) => h("option", { value }, label)));
    const filters = h("div", { class: "filters" },
      h("label", { class: "search" }, icon("search"), this.search, h("kbd", { "aria-hidden": "true" }, "/")),
      this.session.role === "administrator" && this.app, this.api);
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.table = h("div", { class: "table", role: "table", "aria-label": "Casts" },
      h("div", { role: "rowgroup", class: "head-group" }, headRow()), this.body);
    this.end = h("div", { class: "list-end" });
    this.scroller = h("div", { class: "scroller" }, this.table, this.end);
    outlet.append(h("section", { class: "casts" }, h("h1", { class: "hidden" }, "Casts"), h("div", { class: "toolbar" }, this.states, filters), this.scroller));
    this.thumbnails = new Thumbnails(this.scroller);
    this.list = new VirtualList({
      scroller: this.scroller,
      body: this.body,
      heightOf: () => parseFloat(getComputedStyle(this.table).getPropertyValue("--row")),
      create: createRow,
      fill: (row, id) => this.#fill(row, id),
    });
    this.list.onDraw = (last) => last > this.#keys.length - PAGE_AHEAD && this.#loadMore();
    this.#fillFilters();
    if (this.session.role === "administrator") this.#loadApplications();
  }

  async #loadApplications() {
    const { applications } = await get("/v1/applications").catch(() => ({ applications: [] }));
    this.applications = applications.map((application) => application.name);
    this.#fillFilters();
  }

  #fillFilters() {
    const { state = "", app = "", api = "", q = "" } = this.filters;
    for (const control of this.states.children) control.setAttribute("aria-pressed", String(control.dataset.value === state));
    const names = [...new Set([...(this.applications || []), app].filter(Boolean))].sort();
    this.app.replaceChildren(h("option", { value: "" }, "All apps"), ...names.map((name) => h("option", { value: name }, name)));
    this.app.value = app;
    this.api.value = api;
    if (document.activeElement !== this.search) this.search.value = q;
  }

  #fill(row, id) {
    const cast = castStream.casts.get(id) || this.#ended.get(id);
    if (!cast) return;
    fillRow(row, cast, Date.now());
    this.thumbnails.watch(row.parts.image, cast);
  }

  #change({ ids, moved }) {
    if (moved || this.filters.q) this.#show();
    else this.#showCounts();
    this.list.refresh(ids);
    this.#finishReturn();
  }

  /** Reads the ended casts again, from the first page. */
  #restart() {
    this.#generation += 1;
    this.#ended.clear();
    this.#next = undefined;
    this.#loading = false;
    this.#failure = null;
    this.#show();
  }

  async #loadMore() {
    const { state = "", app = "", api = "" } = this.filters;
    if (this.#loading || this.#failure || this.#next === null || (state && state !== "ended") || this.#ended.size >= MAX_ENDED) return;
    this.#loading = true;
    const generation = this.#generation;
    const params = new URLSearchParams({ state: "ended", limit: PAGE_SIZE });
    if (app) params.set("app", app);
    if (api) params.set("api", api);
    if (this.#next) params.set("after", this.#next);
    try {
      const { casts, next } = await get(`/v1/casts?${params}`);
      if (generation !== this.#generation) return;
      for (const cast of casts) this.#ended.set(cast.id, cast);
      this.#next = next || null;
    } catch (error) {
      if (generation === this.#generation) this.#failure = error;
    }
    if (generation !== this.#generation) return;
    this.#loading = false;
    this.#show();
  }

  /** Chooses and sorts the casts of the list. */
  #show() {
    const { state = "", api = "", q = "" } = this.filters;
    const needles = q.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (cast) => (!api || cast.api === api) && (!needles.length || matches(cast, needles));
    const groups = { live: [], starting: [], queued: [], ended: [] };
    for (const cast of castStream.casts.values()) if (groups[cast.state] && fits(cast)) groups[cast.state].push(cast.id);
    for (const cast of this.#ended.values()) if (!castStream.casts.has(cast.id) && fits(cast)) groups.ended.push(cast.id);
    const newestFirst = (a, b) => (a < b ? 1 : a > b ? -1 : 0);
    const running = state ? (groups[state] && state !== "ended" ? groups[state] : []) : RUNNING.flatMap((name) => groups[name]);
    running.sort(newestFirst);
    groups.ended.sort(newestFirst);
    this.#keys = !state || state === "ended" ? [...running, ...groups.ended] : running;
    this.found = groups;
    this.table.setAttribute("aria-rowcount", this.#keys.length + 1);
    this.list.setKeys(this.#keys);
    this.#showCounts();
    this.#showEnd();
  }

  #showCounts() {
    const { api, q } = this.filters;
    const filtered = Boolean(api || q);
    const counts = castStream.counts;
    for (const control of this.states.children) {
      const name = control.dataset.value;
      let count = null;
      if (name && filtered) count = name === "ended" && this.#next !== null ? null : this.found[name].length;
      else if (name && counts) count = counts[name];
      setText(control.querySelector(".count"), count === null || count === undefined ? "" : formatCount(count));
    }
  }

  #showEnd() {
    const { state = "", q = "" } = this.filters;
    const shown = this.#keys.length;
    const content = [];
    const complete = castStream.counts && this.#next !== undefined;
    this.table.hidden = shown === 0;
    if (this.#failure) {
      content.push(errorLine(this.#failure), button("Try again", () => {
        this.#failure = null;
        this.#loadMore();
      }));
    } else if (q && this.#next && (!state || state === "ended")) {
      content.push(h("p", { class: "hint" }, `The search covers ${plural(this.#ended.size, "ended cast")} so far.`));
      content.push(button("Load older ones", () => this.#loadMore()));
    } else if (this.#ended.size >= MAX_ENDED) {
      content.push(h("p", { class: "hint" }, `Older casts than these ${formatCount(MAX_ENDED)} are not listed: choose an application or an API.`));
    } else if (!shown && (complete || (castStream.counts && state && state !== "ended"))) {
      content.push(this.#emptyState());
    }
    this.end.replaceChildren(...content);
    if (!shown && !this.#loading && (!state || state === "ended")) this.#loadMore();
  }

  #emptyState() {
    const { state, app, api, q } = this.filters;
    const reset = button("Show all casts", () => go(address("/casts")));
    if (q) return emptyState("Nothing found", "No cast has all words of the search in its page, application, node, room or id.", reset);
    if (state || app || api) return emptyState(state ? `No cast is ${state}` : "No casts", "Choose another filter.", reset);
    return emptyState("No casts yet", "A cast opens a page and makes it live video: a recording, a room or a push.",
      h("a", { class: "button primary", href: address("/start") }, icon("start"), h("span", null, "Start a cast")));
  }

  #addKeys() {
    const move = (step) => () => {
      const row = document.activeElement && document.activeElement.closest(".row");
      const index = row && row.dataset.id ? this.#keys.indexOf(row.dataset.id) : -1;
      const next = index < 0 ? this.list.firstVisible() : Math.min(this.#keys.length - 1, Math.max(0, index + step));
      const element = this.list.reveal(next);
      if (!element) return false;
      element.parts.link.focus({ preventScroll: true });
      return true;
    };
    this.#stops.push(
      addShortcut({ key: "j", also: ["ArrowDown"], label: "Next cast", run: move(1) }),
      addShortcut({ key: "k", also: ["ArrowUp"], label: "Previous cast", run: move(-1) }),
      addShortcut({ key: "/", label: "Search", run: () => this.search.focus() }),
      addShortcut({ key: "Escape", label: "Clear the search", run: () => {
        if (!currentQuery().q) return false;
        this.search.value = "";
        setQuery({ q: "" });
        return true;
      } }));
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        this.search.blur();
        move(1)();
      }
    });
  }
}
