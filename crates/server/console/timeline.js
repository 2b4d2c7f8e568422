// The timeline of a cast: everything that happened and was measured, on one axis of time.

import { h, setText } from "./dom.js";
import { formatDuration, formatTime, timeOf, words } from "./format.js";
import { evidenceTimes, gapOf, lifeOf, metricLanes, outputLanes, pointsOf } from "./timeline_model.js";
import { paint, readColors } from "./timeline_paint.js";

const OVERVIEW_PX = 26, AXIS_PX = 22, LIFE_PX = 34, PICTURES_PX = 46, BAND_PX = 20, METRIC_PX = 46;
/** Spans that can be chosen, in milliseconds; 0 is the whole life. */
const SPANS = [["All", 0], ["1 h", 3600000], ["10 min", 600000], ["2 min", 120000]];
/** Shortest and longest visible time, in milliseconds. */
const MIN_SPAN_MS = 5000, MAX_SPAN_MS = 31 * 86400000;
/** A life longer than this is shown by its last ten minutes first, in milliseconds. */
const LONG_LIFE_MS = 1200000;
/** Distance at which a mark is shown under the pointer, in pixels. */
const MARK_PX = 7;
/** Width of a picture on the axis, in pixels. */
const PICTURE_PX = 64;
/** Least distance between two pictures, in pixels; of closer ones the later is not shown. */
const PICTURE_GAP_PX = 22;
/** Share of the visible time with values below which the page says since when it has them. */
const MIN_COVERAGE = 0.3;
/** Most pictures on the axis: the page of a cast keeps 50. */
const MAX_PICTURES = 50;

/** A timeline in `element`; `show` gives it new values. */
export class Timeline {
  #data = null;
  #span = null;
  #end = null;
  #cursor = null;
  #lanes = [];
  #colors = null;
  #frame = 0;
  #drag = null;
  #gap = 0;

  constructor({ openPicture }) {
    this.openPicture = openPicture;
    this.spans = h("div", { class: "choice", role: "group", "aria-label": "Visible time" }, SPANS.map(([label, ms]) =>
      h("button", { type: "button", data: { ms }, on: { click: () => this.#choose(ms) } }, label)));
    this.now = h("button", { type: "button", class: "button small", hidden: true, on: { click: () => this.#follow() } }, "Now");
    this.at = h("span", { class: "at" });
    this.labels = h("div", { class: "timeline-labels" });
    this.canvas = h("canvas");
    this.pictures = h("div");
    this.tip = h("div", { class: "timeline-tip", hidden: true });
    this.surface = h("div", {
      class: "timeline-canvas", tabindex: "0", role: "img",
      "aria-label": "Timeline. The tabs Events and Evidence have the same as text. Arrow keys move, plus and minus zoom.",
    }, this.canvas, this.tip);
    this.surface.addEventListener("pointermove", (event) => this.#move(event));
    this.surface.addEventListener("pointerleave", () => this.#setCursor(null));
    this.surface.addEventListener("pointerdown", (event) => this.#grab(event));
    this.surface.addEventListener("pointerup", () => (this.#drag = null));
    this.surface.addEventListener("pointercancel", () => (this.#drag = null));
    this.surface.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.surface.addEventListener("keydown", (event) => this.#key(event));
    this.field = h("div", { class: "timeline-field" }, this.labels, h("div", { class: "timeline-stack" }, this.surface, this.pictures));
    this.element = h("div", { class: "timeline" }, h("div", { class: "timeline-tools" }, this.spans, this.now, this.at), this.field);
    this.resize = new ResizeObserver(() => this.#schedule());
    this.resize.observe(this.surface);
    this.themed = () => {
      this.#colors = null;
      this.#schedule();
    };
    addEventListener("themechange", this.themed);
    this.scheme = matchMedia("(prefers-color-scheme: light)");
    this.scheme.addEventListener("change", this.themed);
    this.timer = setInterval(() => this.#data && !document.hidden && !this.#data.cast.closed && this.#schedule(), 1000);
  }

  /** Shows `{ cast, events, samples, files }`. */
  show(data) {
    this.#data = data;
    if (this.#span === null) {
      const life = Date.now() - timeOf(data.cast.created_at);
      this.#span = !data.cast.ended_at && life > LONG_LIFE_MS ? 600000 : 0;
    }
    this.#layOut();
    this.#schedule();
  }

  close() {
    cancelAnimationFrame(this.#frame);
    clearInterval(this.timer);
    this.resize.disconnect();
    removeEventListener("themechange", this.themed);
    this.scheme.removeEventListener("change", this.themed);
  }

  /** Begin and end of the whole life. */
  #life() {
    const { cast, events } = this.#data;
    const last = events.length ? timeOf(events[events.length - 1].at) : 0;
    const end = cast.closed ? Math.max(timeOf(cast.ended_at) || 0, last) : Date.now();
    const begin = timeOf(cast.created_at);
    const margin = Math.max(500, (end - begin) * 0.015);
    return { begin: begin - margin, end: end + margin };
  }

  /** Visible time. */
  #range() {
    const { begin, end } = this.#life();
    if (this.#span && this.#end === null && !this.#data.cast.closed) return { from: Date.now() - this.#span * 0.99, to: Date.now() + this.#span * 0.01 };
    const to = this.#end === null ? end : this.#end;
    const span = this.#span || Math.max(MIN_SPAN_MS, this.#end === null ? end - begin : MIN_SPAN_MS);
    return { from: to - span, to };
  }

  #layOut() {
    const { cast, events, samples, files } = this.#data;
    const life = lifeOf(cast, events);
    const lanes = [{ key: "life", label: "Life", type: "life", height: LIFE_PX, ...life }];
    this.life = life;
    this.#gap = gapOf(samples);
    this.shownPictures = evidenceTimes(files, cast, events).filter((picture) => Number.isFinite(picture.at)).slice(0, MAX_PICTURES);
    if (this.shownPictures.length) lanes.push({ key: "pictures", label: "Evidence", type: "pictures", height: PICTURES_PX });
    lanes.push(...outputLanes(cast, events).map((lane) => ({ ...lane, height: BAND_PX })));
    lanes.push(...metricLanes(cast, samples).map((lane) => ({ ...lane, height: METRIC_PX, points: pointsOf(lane, samples) })));
    let top = OVERVIEW_PX + AXIS_PX;
    for (const lane of lanes) {
      lane.top = top;
      top += lane.height;
    }
    this.surface.style.height = `${top + 4}px`;
    lanes.unshift({ key: "overview", label: "All", type: "overview", top: 0, height: OVERVIEW_PX });
    const shape = lanes.map((lane) => `${lane.key} ${lane.top}`).join();
    if (shape !== this.shape) {
      this.shape = shape;
      this.values = new Map();
      this.labels.replaceChildren(...lanes.map((lane) => {
        const value = h("b");
        this.values.set(lane.key, value);
        const label = h("div", { class: `lane-label ${lane.type}` }, h("span", { class: "name" }, lane.label), value);
        label.style.top = `${lane.top + (lane.type === "metric" ? 5 : lane.type === "pictures" ? 12 : 0)}px`;
        return label;
      }));
      this.#drawPictures(lanes.find((lane) => lane.type === "pictures"));
    } else if (this.shownPictures.length !== this.pictureButtons.length) {
      this.#drawPictures(lanes.find((lane) => lane.type === "pictures"));
    }
    this.#lanes = lanes;
  }

  #drawPictures(lane) {
    this.pictureButtons = this.shownPictures.map((picture) => {
      const label = `Picture of ${words(picture.fault)} at ${formatTime(picture.at)}`;
      const image = h("img", { alt: "", src: picture.file.href, loading: "lazy", decoding: "async" });
      const control = h("button", { type: "button", class: "evidence-mark", "aria-label": label, title: label, on: { click: () => this.openPicture(picture.file) } }, image);
      control.style.top = `${lane.top + 4}px`;
      return control;
    });
    this.pictures.replaceChildren(...this.pictureButtons);
  }

  #schedule() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    if (!this.#data || !this.surface.isConnected) return;
    this.#colors ||= readColors(this.surface);
    const { from, to } = this.#range();
    const now = this.#data.cast.closed ? this.#life().end : Date.now();
    const overview = { ...this.#life(), life: this.life, height: OVERVIEW_PX };
    paint(this.canvas, { from, to, now, lanes: this.#lanes, gap: this.#gap, cursor: this.#cursor, overview }, this.#colors);
    const width = this.canvas.clientWidth;
    let last = -Infinity;
    this.shownPictures.forEach((picture, index) => {
      const left = ((picture.at - from) / (to - from)) * width;
      const visible = left > -PICTURE_PX / 2 && left < width + PICTURE_PX / 2 && left - last >= PICTURE_GAP_PX;
      if (visible) last = left;
      this.pictureButtons[index].hidden = !visible;
      this.pictureButtons[index].style.left = `${Math.max(PICTURE_PX / 2, Math.min(width - PICTURE_PX / 2, left))}px`;
    });
    for (const control of this.spans.children) control.setAttribute("aria-pressed", String(Number(control.dataset.ms) === this.#span && this.#end === null));
    this.now.hidden = this.#end === null;
    this.#showValues(from, to, width);
  }

  /** Values at the pointer, or the last ones. */
  #showValues(from, to, width) {
    const at = this.#cursor === null ? null : from + (this.#cursor / width) * (to - from);
    for (const lane of this.#lanes) setText(this.values.get(lane.key), valueAt(lane, at, this.#gap));
    const begin = timeOf(this.#data.cast.live_at || this.#data.cast.created_at);
    setText(this.at, at === null ? this.#coverage(to - from) : `${formatTime(at)}${at >= begin ? ` · ${formatDuration(at - begin)}` : ""}`);
    this.#showTip(at, from, to, width);
  }

  /** Says why the lanes are empty, while they mostly are. */
  #coverage(span) {
    const { samples, cast } = this.#data;
    if (cast.state === "ended" && !samples.length) return "Nothing was measured";
    const covered = samples.length ? samples[samples.length - 1].ms - samples[0].ms : 0;
    return cast.state === "live" && covered < span * MIN_COVERAGE ? "Older values are not kept" : "";
  }

  #showTip(at, from, to, width) {
    const near = at === null ? null : nearestMark(this.#lanes, at, ((to - from) / width) * MARK_PX);
    this.tip.hidden = !near;
    if (!near) return;
    setText(this.tip, `${formatTime(near.at)} ${near.text}`);
    this.tip.style.top = `${OVERVIEW_PX + AXIS_PX + LIFE_PX + 2}px`;
    this.tip.style.left = `${Math.max(0, Math.min(this.#cursor + 10, width - this.tip.offsetWidth))}px`;
  }

  #choose(ms) {
    this.#span = ms;
    this.#follow();
  }

  #follow() {
    this.#end = null;
    this.#schedule();
  }

  #setCursor(x) {
    this.#cursor = x;
    this.#schedule();
  }

  #move(event) {
    const box = this.surface.getBoundingClientRect();
    if (this.#drag) this.#pan(this.#drag.end - ((event.clientX - this.#drag.x) / box.width) * this.#drag.span);
    this.#setCursor(Math.max(0, Math.min(box.width, event.clientX - box.left)));
  }

  #grab(event) {
    if (event.button || event.target.closest("button")) return;
    const box = this.surface.getBoundingClientRect();
    const { from, to } = this.#range();
    this.#drag = { x: event.clientX, end: to, span: to - from };
    if (event.clientY - box.top < OVERVIEW_PX) {
      // In the overview, the visible time goes to where the pointer is.
      const life = this.#life();
      const span = Math.min(to - from, (life.end - life.begin) / 4);
      this.#span = span;
      this.#pan(life.begin + ((event.clientX - box.left) / box.width) * (life.end - life.begin) + span / 2);
      this.#drag = { x: event.clientX, end: this.#range().to, span: life.begin - life.end };
    }
    this.surface.setPointerCapture(event.pointerId);
  }

  /** Moves the visible time so that it ends at `end`; at the end of the life it follows again. */
  #pan(end) {
    const life = this.#life();
    const { from, to } = this.#range();
    this.#span ||= to - from;
    const earliest = life.begin + this.#span * 0.2;
    this.#end = end >= life.end ? null : Math.max(earliest, end);
    this.#schedule();
  }

  #zoom(factor, share = 1) {
    const { from, to } = this.#range();
    const life = this.#life();
    const span = Math.min(MAX_SPAN_MS, Math.max(MIN_SPAN_MS, (to - from) * factor));
    const fixed = from + share * (to - from);
    if (span >= life.end - life.begin) {
      this.#choose(0);
      return;
    }
    this.#span = span;
    this.#pan(fixed + (1 - share) * span);
  }

  #wheel(event) {
    const box = this.surface.getBoundingClientRect();
    if (event.ctrlKey) {
      event.preventDefault();
      this.#zoom(Math.exp(event.deltaY / 300), (event.clientX - box.left) / box.width);
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      event.preventDefault();
      const { from, to } = this.#range();
      this.#pan(to + (((event.deltaX || event.deltaY) * (to - from)) / box.width));
    }
  }

  #key(event) {
    const { from, to } = this.#range();
    const step = (to - from) / 10;
    const keys = {
      ArrowLeft: () => this.#pan(to - step), ArrowRight: () => this.#pan(to + step), "+": () => this.#zoom(0.6, 0.5), "=": () => this.#zoom(0.6, 0.5),
      "-": () => this.#zoom(1.6, 0.5), Home: () => this.#pan(this.#life().begin), End: () => this.#follow(),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  }
}

/** What a lane shows at a time, or at its end. */
function valueAt(lane, at, gap) {
  if (lane.type === "metric") {
    let best = null;
    if (at === null) best = lane.points[lane.points.length - 1];
    else for (const point of lane.points) if (!best || Math.abs(point.at - at) < Math.abs(best.at - at)) best = point;
    if (!best || !Number.isFinite(best.value) || (at !== null && Math.abs(best.at - at) > gap)) return "";
    return lane.format(best.value);
  }
  if (!lane.bands) return "";
  const band = at === null ? lane.bands[lane.bands.length - 1] : lane.bands.find((entry) => at >= entry.from && at < entry.to);
  if (!band || (at === null && band.to !== Infinity)) return "";
  return band.kind;
}

function nearestMark(lanes, at, distance) {
  let best = null;
  for (const lane of lanes) {
    const marks = [...(lane.marks || []), ...(lane.type === "band" ? lane.bands.filter((band) => band.text).map((band) => ({ at: band.from, text: `${lane.label} ${band.kind}: ${band.text}` })) : [])];
    for (const mark of marks) {
      const away = Math.abs(mark.at - at);
      if (away <= distance && (!best || away < best.away)) best = { ...mark, away };
    }
  }
  return best;
}
