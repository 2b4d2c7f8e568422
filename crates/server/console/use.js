// What applications used, by day: as bars, as a table and as CSV.

import { get } from "./api.js";
import { button, emptyState, errorLine, h, icon, setText } from "./dom.js";
import { formatBytes, formatCount } from "./format.js";

const DAY_MS = 86400000;
const SPANS = [["7 days", 7], ["30 days", 30], ["90 days", 90]];

const hours = (value) => (value < 1 ? `${Math.round(60 * value)} min` : `${value < 99.5 ? value.toFixed(1) : formatCount(value)} h`);
const MEASURES = [
  { key: "cast_hours", label: "Cast-hours", format: hours }, { key: "core_hours", label: "Core-hours", format: hours },
  { key: "casts", label: "Casts", format: formatCount }, { key: "bytes", label: "Bytes", format: formatBytes },
];

const isoDay = (ms) => new Date(ms).toISOString().slice(0, 10);
const dayLabel = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", timeZone: "UTC" });

/** The block of use: of one application, or of all that the reader sees. */
export class UseBlock {
  #span = 30;
  #measure = MEASURES[0];
  #days = null;
  #generation = 0;

  constructor(app = "") {
    this.app = app;
    const choice = (label, list, chosen, choose) => h("div", { class: "choice small", role: "group", "aria-label": label }, list.map(([text, value]) =>
      h("button", { type: "button", "aria-pressed": String(value === chosen), on: { click: (event) => {
        for (const other of event.currentTarget.parentElement.children) other.setAttribute("aria-pressed", String(other === event.currentTarget));
        choose(value);
      } } }, text)));
    this.csv = h("a", { class: "button small", download: "" }, icon("download"), h("span", null, "CSV"));
    this.total = h("dl", { class: "figures" });
    this.chart = h("div");
    this.table = h("div");
    this.element = h("section", { class: "block use" },
      h("header", null, h("h2", null, "Use by day"), choice("Time", SPANS, this.#span, (days) => this.#read(days)), this.csv),
      this.total, choice("Measure", MEASURES.map((measure) => [measure.label, measure]), this.#measure, (measure) => {
        this.#measure = measure;
        this.#showChart();
      }), this.chart,
      h("details", { class: "more" }, h("summary", null, "As a table"), this.table));
    this.#read(this.#span);
  }

  async #read(span) {
    this.#span = span;
    const generation = (this.#generation += 1);
    const now = Date.now();
    const params = new URLSearchParams({ from: isoDay(now - (span - 1) * DAY_MS), to: isoDay(now) });
    if (this.app) params.set("app", this.app);
    this.csv.href = `/v1/use?${params}&format=csv`;
    this.csv.download = `use-${this.app || "all"}-${params.get("from")}-${params.get("to")}.csv`;
    try {
      const { days } = await get(`/v1/use?${params}`);
      if (generation !== this.#generation) return;
      this.#days = days;
      this.#show();
    } catch (error) {
      if (generation === this.#generation) this.chart.replaceChildren(errorLine(error), button("Try again", () => this.#read(span), { kind: "small" }));
    }
  }

  #show() {
    const sum = (key) => this.#days.reduce((total, day) => total + day[key], 0);
    this.total.replaceChildren(...MEASURES.map(({ key, label, format }) => h("div", null, h("dt", null, label), h("dd", null, format(sum(key))))));
    this.#showChart();
    this.#showTable();
  }

  /** Sums by day of the span; days without use are there as well. */
  #byDay() {
    const now = Date.now();
    const sums = new Map();
    for (let index = this.#span - 1; index >= 0; index -= 1) sums.set(isoDay(now - index * DAY_MS), 0);
    for (const day of this.#days) sums.set(day.day, (sums.get(day.day) || 0) + day[this.#measure.key]);
    return [...sums];
  }

  #showChart() {
    if (!this.#days) return;
    const { label, format } = this.#measure;
    const days = this.#byDay();
    const most = Math.max(...days.map(([, value]) => value));
    if (!most) {
      this.chart.replaceChildren(h("p", { class: "hint" }, "Nothing was used in this time."));
      return;
    }
    const read = h("span", { class: "hint" }, `Most in a day: ${format(most)}`);
    const bars = days.map(([day, value]) => {
      const fill = h("span", { class: "fill" });
      fill.style.height = `${(100 * value) / most}%`;
      return h("span", { class: "bar-slot", on: { pointerenter: () => setText(read, `${dayLabel.format(new Date(day))}: ${format(value)}`) } }, fill);
    });
    const leave = () => setText(read, `Most in a day: ${format(most)}`);
    this.chart.replaceChildren(read, h("div", { class: "bars", role: "img", "aria-label": `${label} by day, at most ${format(most)}. The table has all values.`, on: { pointerleave: leave } }, bars),
      h("div", { class: "bar-axis", "aria-hidden": "true" }, [days[0], days[Math.floor(days.length / 2)], days[days.length - 1]].map(([day]) => h("span", null, dayLabel.format(new Date(day))))));
  }

  #showTable() {
    const head = ["Day", ...(this.app ? [] : ["Application"]), ...MEASURES.map(({ label }) => `#${label}`)];
    const rows = [...this.#days].reverse().map((day) => h("tr", null, h("td", { class: "nowrap" }, day.day), !this.app && h("td", null, h("bdi", null, day.app)),
      MEASURES.map(({ key, format }) => h("td", { class: "number" }, format(day[key])))));
    this.table.replaceChildren(rows.length ? h("div", { class: "scroll-x use-table", tabindex: "0", role: "region", "aria-label": "Use by day as a table" }, h("table", { class: "list" },
      h("thead", null, h("tr", null, head.map((name) => h("th", { scope: "col", class: name.startsWith("#") ? "number" : null }, name.replace("#", ""))))), h("tbody", null, rows)))
      : emptyState("No use", "Nothing ran in this time."));
  }
}

/** The view for an application that is signed in. */
export function mount(outlet, { session }) {
  const block = new UseBlock(session.app || "");
  outlet.append(h("section", { class: "sheet" }, h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, "Use"), h("p", { class: "meta" }, session.app ? `Of the application ${session.app}.` : "Of all applications."))), block.element));
}
