// The audit: who changed what and when, newest first, page by page.

import { get } from "./api.js";
import { button, emptyState, errorLine, h, icon, iconButton } from "./dom.js";
import { formatCount, formatTime, plural, visible } from "./format.js";
import { addShortcut } from "./keys.js";
import { address, setQuery } from "./router.js";

/** Entries on a page. */
const PAGE_SIZE = 100;
/** Most entries that are loaded: beyond, the filter finds them faster. */
const MAX_ENTRIES = 5000;
/** Distance from the end of the list at which the next page is read, in pixels. */
const AHEAD_PX = 600;
/** Pause after a key before the search changes the address, in milliseconds. */
const SEARCH_MS = 120;

const COLUMNS = ["Time", "Who", "Did", "To what", "#Status", "~From"];

export function mount(outlet, context) {
  return new AuditView(outlet, context);
}

/** Name of an operation in words: `addPush` is "add push". */
const actionWords = (name) => String(name).replace(/([a-z])([A-Z])/g, (_, before, after) => `${before} ${after.toLowerCase()}`);

/** What an entry is about, with a link if the console shows it. */
function targetOf({ target }) {
  if (!target) return "";
  const text = visible(target.replace(/^\/(v1\/)?/, ""));
  const cast = /^(?:\/v1)?\/casts\/([0-9a-f]{32})(?:\/|$)/.exec(target);
  const application = /^(?:\/v1)?\/applications\/([a-z0-9_-]{1,64})(?:\/|$)/.exec(target);
  const to = cast ? `/casts/${cast[1]}` : application ? `/applications/${application[1]}` : "";
  return to ? h("a", { class: "link", href: address(to) }, text) : h("bdi", null, text);
}

function rowOf(entry) {
  const good = entry.status < 400;
  const scope = entry.role === "administrator" && !entry.app ? "" : entry.app || entry.role;
  return h("tr", { title: `Request ${entry.request_id}` },
    h("td", { class: "nowrap soft" }, h("time", { datetime: entry.at, title: entry.at }, formatTime(entry.at))),
    h("td", { class: "who" }, h("bdi", null, visible(entry.actor)), scope && h("span", { class: "soft" }, scope), entry.via === "console" && h("span", { class: "chip" }, "console")),
    h("td", null, actionWords(entry.action), entry.count > 1 && h("span", { class: "soft" }, ` ×${formatCount(entry.count)}`)),
    h("td", { class: "target" }, targetOf(entry)),
    h("td", { class: "number" }, h("span", { class: `chip ${good ? "" : "bad"}` }, String(entry.status))),
    h("td", { class: "nowrap soft optional" }, entry.address || ""));
}

class AuditView {
  #entries = [];
  #next = undefined;
  #loading = false;
  #failure = null;
  #generation = 0;
  #stops = [];
  #shown = 0;

  constructor(outlet, { query }) {
    this.filters = query;
    let timer = 0;
    this.search = h("input", {
      type: "search", placeholder: "Search", "aria-label": "Search in who, action, target and address", autocomplete: "off", spellcheck: "false",
      on: { input: () => {
        clearTimeout(timer);
        timer = setTimeout(() => setQuery({ q: this.search.value.trim() }), SEARCH_MS);
      } },
    });
    this.app = h("select", { "aria-label": "Application", on: { change: () => setQuery({ app: this.app.value }, { push: true }) } });
    const again = iconButton("Refresh", "again", () => this.#restart());
    this.rows = h("tbody");
    this.table = h("table", { class: "list stack audit", "aria-label": "Audit" }, h("thead", null, h("tr", null, COLUMNS.map((name) =>
      h("th", { scope: "col", class: { "#": "number", "~": "optional" }[name[0]] || null }, name.replace(/^[#~]/, ""))))), this.rows);
    this.end = h("div", { class: "list-end" });
    this.outlet = outlet;
    outlet.append(h("section", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, "Audit"), h("p", { class: "meta" }, "Every request that changed something, or was refused.")),
        h("div", { class: "filters" }, h("label", { class: "search" }, icon("search"), this.search, h("kbd", { "aria-hidden": "true" }, "/")), this.app, again)),
      this.table, this.end));
    const onScroll = () => this.#loadAhead();
    outlet.addEventListener("scroll", onScroll, { passive: true });
    this.#stops.push(() => outlet.removeEventListener("scroll", onScroll), () => clearTimeout(timer), addShortcut({ key: "/", label: "Search", run: () => this.search.focus() }));
    this.#fillFilters();
    this.#readApplications();
    this.#restart();
  }

  update(query) {
    const before = this.filters;
    this.filters = query;
    this.#fillFilters();
    if (before.app !== query.app) this.#restart();
    else this.#show();
  }

  unmount() {
    this.#generation += 1;
    for (const stop of this.#stops) stop();
  }

  async #readApplications() {
    const { applications } = await get("/v1/applications").catch(() => ({ applications: [] }));
    this.names = applications.map((application) => application.name);
    this.#fillFilters();
  }

  #fillFilters() {
    const { app = "", q = "" } = this.filters;
    const names = [...new Set([...(this.names || []), app].filter(Boolean))].sort();
    this.app.replaceChildren(h("option", { value: "" }, "All apps"), ...names.map((name) => h("option", { value: name }, name)));
    this.app.value = app;
    if (document.activeElement !== this.search) this.search.value = q;
  }

  #restart() {
    this.#generation += 1;
    this.#entries = [];
    this.#next = undefined;
    this.#loading = false;
    this.#failure = null;
    this.#load();
  }

  #loadAhead() {
    const { scrollTop, clientHeight, scrollHeight } = this.outlet;
    if (!this.filters.q && scrollTop + clientHeight > scrollHeight - AHEAD_PX) this.#load();
  }

  async #load() {
    if (this.#loading || this.#failure || this.#next === null || this.#entries.length >= MAX_ENTRIES) return;
    this.#loading = true;
    const generation = this.#generation;
    const params = new URLSearchParams({ limit: PAGE_SIZE });
    if (this.filters.app) params.set("app", this.filters.app);
    if (this.#next !== undefined) params.set("after", this.#next);
    try {
      const { entries, next } = await get(`/v1/audit?${params}`);
      if (generation !== this.#generation) return;
      if (this.#next === undefined) this.#shown = 0;
      this.#entries.push(...entries);
      this.#next = next ?? null;
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#failure = error;
    }
    this.#loading = false;
    this.#show(true);
    if (!this.#failure) this.#loadAhead();
  }

  /** Shows the entries; after a page was added, only new ones are appended. */
  #show(added = false) {
    const needles = (this.filters.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (entry) => {
      const text = [entry.actor, entry.app, entry.role, actionWords(entry.action), entry.action, entry.target, entry.address, entry.status, entry.request_id, entry.via].join("\n").toLowerCase();
      return needles.every((needle) => text.includes(needle));
    };
    const from = added ? this.#shown : 0;
    const rows = this.#entries.slice(from).filter((entry) => !needles.length || fits(entry)).map(rowOf);
    if (from) this.rows.append(...rows);
    else this.rows.replaceChildren(...rows);
    this.#shown = this.#entries.length;
    this.table.hidden = !this.rows.children.length;
    this.#showEnd(needles.length > 0);
  }

  #showEnd(searching) {
    const content = [];
    if (this.#failure) {
      content.push(errorLine(this.#failure), button("Try again", () => {
        this.#failure = null;
        this.#load();
      }));
    } else if (searching && this.#next) {
      content.push(h("p", { class: "hint" }, `The search covers ${plural(this.#entries.length, "entry").replace("entrys", "entries")} so far.`), button("Load older ones", () => this.#load()));
    } else if (this.#entries.length >= MAX_ENTRIES && this.#next) {
      content.push(h("p", { class: "hint" }, `Older entries than these ${formatCount(MAX_ENTRIES)} are not listed: choose an application.`));
    } else if (!this.rows.children.length && this.#next === null) {
      content.push(searching ? emptyState("Nothing found", "No entry has all words of the search.") : emptyState("Nothing yet", "Who starts, stops or changes something is listed here."));
    } else if (this.#next) {
      content.push(h("p", { class: "hint loading" }, "Loading"));
    }
    this.end.replaceChildren(...content);
  }
}
