// A cast: its state, preview, outputs and timeline, and tabs with the details.

import { castPath, get, mayOperate, post } from "./api.js";
import { RequestTab } from "./cast_call.js";
import { castStream } from "./cast_stream.js";
import { ageOf, endReason, problemsOf, stateWord, titleOf, waitReason } from "./cast_facts.js";
import { FilesTab } from "./cast_files.js";
import { callbacksTab, eventsTab } from "./cast_tabs.js";
import { button, confirmAction, copyText, emptyState, h, icon, runAction, setText, showMessage, stateLabel } from "./dom.js";
import { evidenceTab, openEvidence, readEvidence } from "./evidence.js";
import { formatCores, formatDuration, formatFps, formatLevel, formatMemory, formatTime, isWebAddress, plural, visibleLines } from "./format.js";
import { addShortcut } from "./keys.js";
import { Preview } from "./preview.js";
import { outputsList } from "./pushes.js";
import { address, go, lastAddress, setQuery } from "./router.js";
import { Timeline } from "./timeline.js";
import { joinSamples } from "./timeline_model.js";

/** Least time between two reads of new events, in milliseconds. */
const EVENTS_MS = 2000;
/** Time after an event, or a request to deliver one again, until the deliveries are read again, in milliseconds. */
const DELIVERIES_MS = 1500;
/** Events on a page. */
const EVENTS_LIMIT = 1000;

const TABS = [["timeline", "Timeline"], ["events", "Events"], ["evidence", "Evidence"], ["files", "Files"], ["callbacks", "Callbacks"], ["request", "Request"]];

export function mount(outlet, context) {
  return new CastView(outlet, context);
}

class CastView {
  #stops = [];
  #eventsAt = 0;
  #eventsTimer = 0;
  #readingEvents = false;
  #deliveriesTimer = 0;
  #closed = false;

  constructor(outlet, { params, query, session }) {
    [this.id] = params;
    this.session = session;
    this.mayChange = mayOperate(session);
    this.outlet = outlet;
    this.tab = query.tab || "timeline";
    this.cast = castStream.casts.get(this.id) || null;
    this.events = [];
    this.files = [];
    this.history = [];
    this.deliveries = null;
    this.failures = {};
    this.recent = castStream.history(this.id);
    if (this.cast) this.#build();
    else outlet.append(h("p", { class: "sheet loading" }, "Loading"));
    this.#read();
    const listen = (type, listener) => {
      castStream.addEventListener(type, listener);
      this.#stops.push(() => castStream.removeEventListener(type, listener));
    };
    listen("change", (event) => this.#change(event.detail));
    // What was measured meanwhile is read after an interruption.
    listen("state", () => castStream.state === "open" && this.preview && this.#readStats());
    const timer = setInterval(() => this.cast && this.cast.state !== "ended" && this.#showMeta(), 1000);
    this.#stops.push(() => clearInterval(timer), () => clearTimeout(this.#eventsTimer), () => clearTimeout(this.#deliveriesTimer));
    this.#stops.push(addShortcut({ key: "Escape", label: "Back to the list", run: () => go(lastAddress("casts", "/casts")) }));
    TABS.forEach(([name, label], index) => this.#stops.push(addShortcut({ key: String(index + 1), label, run: () => this.#choose(name) })));
  }

  update(query) {
    this.tab = query.tab || "timeline";
    if (this.cast) this.#showTab();
  }

  unmount() {
    this.#closed = true;
    for (const stop of this.#stops) stop();
    if (this.preview) this.preview.close();
    if (this.timeline) this.timeline.close();
    if (this.filesTab) this.filesTab.close();
  }

  /** Reads the cast, and what belongs to it. */
  async #read() {
    try {
      this.#take(await get(castPath(this.id)));
    } catch (error) {
      if (this.#closed) return;
      if (error.status === 404 || !this.cast) this.#showMissing(error);
      return;
    }
    await Promise.all([this.#readEvents({ first: true }), this.#readEvidence(), this.#readStats()]);
  }

  /** Reads what was measured so far. Without it, the timeline has what is measured from now on. */
  async #readStats() {
    const { samples } = await get(castPath(this.id, "stats")).catch(() => ({ samples: this.history }));
    if (this.#closed) return;
    this.history = samples.map((sample) => ({ ...sample, ms: Date.parse(sample.at) }));
    this.#showTab();
  }

  #showMissing(error) {
    if (this.preview) this.preview.close();
    if (this.timeline) this.timeline.close();
    this.preview = this.timeline = this.cast = null;
    const back = h("a", { class: "button", href: address("/casts") }, "All casts");
    this.outlet.replaceChildren(error.status === 404
      ? emptyState("There is no such cast", "It was deleted with its history, or belongs to another application.", back)
      : emptyState("The cast could not be read", error.message, button("Try again", () => this.#read()), back));
  }

  #take(cast) {
    if (this.#closed) return;
    const first = !this.cast || !this.preview;
    this.cast = cast;
    if (first) this.#build();
    else this.#show();
  }

  /** Follows the stream, whose casts may lack details of outputs. */
  #change({ ids, gone }) {
    if (gone.includes(this.id)) return this.#showMissing({ status: 404 });
    if (!ids.includes(this.id) || !castStream.casts.has(this.id)) return undefined;
    this.#take(this.cast ? withOutputs(castStream.casts.get(this.id), this.cast) : castStream.casts.get(this.id));
    return this.#scheduleEvents();
  }

  #scheduleEvents() {
    clearTimeout(this.#eventsTimer);
    const wait = Math.max(0, this.#eventsAt + EVENTS_MS - Date.now());
    this.#eventsTimer = setTimeout(() => this.#readEvents(), wait);
  }

  async #readEvents({ first = false } = {}) {
    if (this.#readingEvents) return;
    this.#readingEvents = true;
    this.#eventsAt = Date.now();
    let found = 0;
    try {
      let more = true;
      while (more && !this.#closed) {
        const after = this.events.length ? this.events[this.events.length - 1].seq : 0;
        const page = await get(`${castPath(this.id, "events")}?after=${after}&limit=${EVENTS_LIMIT}`);
        this.events.push(...page.events);
        found += page.events.length;
        more = page.events.length === EVENTS_LIMIT;
      }
      this.failures.events = null;
    } catch (error) {
      this.failures.events = error;
    }
    this.#readingEvents = false;
    if (this.#closed || (!found && !this.failures.events)) return;
    if (!first && this.events.some((event) => event.fault || event.end)) this.#readEvidence();
    if (!first && this.filesTab && this.events.some((event) => event.stored)) this.filesTab.read();
    if (found && this.tab === "callbacks") this.#readDeliveriesSoon();
    if (found && !first && this.preview) {
      get(castPath(this.id)).then((cast) => {
        this.#take({ ...cast, stats: this.cast.stats || cast.stats });
        if (!this.#closed) this.#showTab();
      }, () => {});
    }
    this.#showTab();
  }

  async #readEvidence() {
    try {
      this.files = await readEvidence(this.id);
      this.failures.evidence = null;
    } catch (error) {
      this.failures.evidence = error;
    }
    if (!this.#closed) this.#showTab();
  }

  /** Deliveries follow their event after a moment. */
  #readDeliveriesSoon() {
    clearTimeout(this.#deliveriesTimer);
    this.#deliveriesTimer = setTimeout(() => this.#readDeliveries(), DELIVERIES_MS);
  }

  async #readDeliveries() {
    try {
      this.deliveries = await get(castPath(this.id, "deliveries"));
      this.failures.deliveries = null;
    } catch (error) {
      this.failures.deliveries = error;
    }
    if (!this.#closed && this.tab === "callbacks") this.#showTab();
  }

  #build() {
    this.state = stateLabel(this.cast.state);
    this.meta = h("p", { class: "meta" });
    this.buttons = h("div", { class: "actions" });
    this.problems = h("ul", { class: "problem-list", "aria-label": "Problems" });
    this.figures = h("dl", { class: "figures" });
    this.outputs = h("div");
    this.heading = h("h1");
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Details" }, TABS.map(([name, label]) =>
      h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "cast-panel", data: { name }, on: { click: () => this.#choose(name), keydown: (event) => this.#tabKey(event) } },
        label, h("span", { class: "count" }))));
    this.panel = h("div", { class: "panel", id: "cast-panel", role: "tabpanel", tabindex: "-1" });
    this.preview = new Preview();
    this.timeline = new Timeline({ openPicture: (file) => openEvidence(file) });
    this.filesTab = this.requestTab = null;
    this.shownTab = "";
    this.outlet.replaceChildren(h("article", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, this.heading, this.meta), this.buttons),
      this.problems,
      h("div", { class: "cast-body" },
        h("div", { class: "aside" }, this.preview.element, this.figures, this.outputs),
        h("div", null, this.tabs, this.panel))));
    this.#show();
  }

  #choose(name) {
    setQuery({ tab: name === "timeline" ? "" : name }, { push: true });
  }

  #tabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const index = TABS.findIndex(([name]) => name === this.tab);
    this.#choose(TABS[(index + step + TABS.length) % TABS.length][0]);
    this.tabs.querySelector('[aria-selected="true"]').focus();
  }

  #show() {
    const { cast } = this;
    const { host, path } = titleOf(cast);
    const title = `${host}${path}`;
    if (this.heading.title !== cast.source.url) {
      this.heading.title = cast.source.url;
      this.heading.replaceChildren(h("bdi", null, host, h("span", { class: "path" }, path)));
      document.title = `${title} · Pagecast`;
    }
    this.state.setState(cast.state, stateWord(cast));
    this.preview.show(cast);
    this.#showMeta();
    this.#showButtons();
    this.#showProblems();
    this.#showFigures();
    this.#showOutputs();
    if (this.tab === "timeline" || this.shownState !== cast.state) this.#showTab();
    this.shownState = cast.state;
  }

  #showMeta() {
    const { cast } = this;
    const parts = [cast.app, cast.api, cast.node, formatDuration(ageOf(cast, Date.now()))];
    if (cast.ended_at) parts.push(`ended ${formatTime(cast.ended_at)}`, endReason(cast));
    const text = parts.filter(Boolean).join(" · ");
    if (!this.metaText) {
      this.metaText = h("span");
      this.meta.replaceChildren(this.state, this.metaText, h("button", {
        type: "button", class: "button small plain mono", title: "Copy the id", on: { click: () => copyText(this.id, "Id") },
      }, this.id));
    }
    setText(this.metaText, text);
  }

  #showButtons() {
    const { cast } = this;
    const shape = `${cast.state} ${cast.stop_requested} ${Boolean(cast.room && cast.room.watch_url)}`;
    if (shape === this.buttonShape) return;
    this.buttonShape = shape;
    const open = cast.state !== "ended";
    const watch = open && cast.room && isWebAddress(cast.room.watch_url) && cast.room.watch_url;
    this.buttons.replaceChildren(...[
      watch && h("a", { class: "button", href: watch, target: "_blank", rel: "noopener" }, icon("watch"), h("span", null, "Open room")),
      this.mayChange && h("a", { class: "button", href: address("/start", { from: this.id }) }, icon("again"), h("span", null, "Start again")),
      this.mayChange && open && button("Move", (event) => this.#move(event.currentTarget), { icon: "move", disabled: cast.stop_requested }),
      this.mayChange && open && button(cast.stop_requested ? "Stopping" : "Stop", (event) => this.#stop(event.currentTarget), { kind: "danger", icon: "stop", disabled: cast.stop_requested }),
    ].filter(Boolean));
  }

  async #move(control) {
    const text = "Another node takes the cast, if there is one; otherwise its page begins anew on this one. The outputs pause for some seconds, and the page loses its state.";
    if (!(await confirmAction({ title: "Move this cast?", text, action: "Move" }))) return;
    const cast = await runAction(control, () => post(castPath(this.id, "move")));
    if (!cast || this.#closed) return;
    this.#take({ ...this.cast, ...cast, stats: this.cast.stats });
    showMessage("The cast is moving.");
  }

  async #stop(control) {
    const text = "All outputs end. A recording is stored completely; the cast cannot be continued.";
    if (!(await confirmAction({ title: "Stop this cast?", text, action: "Stop", dangerous: true }))) return;
    const cast = await runAction(control, () => post(castPath(this.id, "stop")));
    if (!cast) return;
    this.#take({ ...this.cast, ...cast, stop_requested: true });
    showMessage("The cast is stopping.");
  }

  #showProblems() {
    const found = problemsOf(this.cast);
    const text = JSON.stringify(found);
    if (text === this.problemText) return;
    this.problemText = text;
    this.problems.hidden = !found.length;
    this.problems.replaceChildren(...found.map(({ word, level, detail }) => h("li", { class: level }, h("b", null, word), detail && h("span", null, visibleLines(detail)))));
  }

  #showFigures() {
    const { stats, queue, source, state } = this.cast;
    const figures = [];
    if (state === "queued") {
      figures.push(["Position", queue && queue.position ? String(queue.position) : "–"]);
      setText(this.preview.note, waitReason(this.cast));
    }
    if (stats && state !== "ended") {
      figures.push(["fps", formatFps(stats.fps)], ["CPU", formatCores(stats.cpu_cores)], ["Memory", formatMemory(stats.memory_bytes)],
        ["Level", formatLevel(Math.max(...stats.peak))], ["Length", formatDuration(stats.elapsed_ms)]);
      if (stats.room_rtt_ms !== undefined && stats.room_rtt_ms !== null) figures.push(["Room RTT", `${Math.round(stats.room_rtt_ms)} ms`]);
      if (stats.upload_pending) figures.push(["Uploads", plural(stats.upload_pending, "file")]);
    }
    if (!figures.length) figures.push(["Size", `${source.width}×${source.height}`], ["fps", String(source.fps)]);
    const names = figures.map(([name]) => name).join();
    if (names !== this.figureNames) {
      this.figureNames = names;
      this.figures.replaceChildren(...figures.map(([name]) => h("div", null, h("dt", null, name), h("dd"))));
    }
    figures.forEach(([, value], index) => setText(this.figures.children[index].lastChild, value));
  }

  #showOutputs() {
    const { room, recording, pushes, state } = this.cast;
    const text = JSON.stringify([room, recording, pushes, state]);
    if (text === this.outputText) return;
    this.outputText = text;
    this.outputs.replaceChildren(outputsList(this.cast, { mayChange: this.mayChange, changed: (cast) => this.#take({ ...cast, stats: this.cast.stats }) }));
  }

  #showTab() {
    if (!this.panel) return;
    const counts = { events: this.events.length, evidence: this.files.filter((file) => file.name.endsWith(".png")).length, files: this.filesTab && this.filesTab.count ? this.filesTab.count : this.cast.recording && this.cast.recording.stored ? this.cast.recording.stored.files.length : 0 };
    for (const tab of this.tabs.children) {
      const selected = tab.dataset.name === this.tab;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      setText(tab.lastChild, counts[tab.dataset.name] ? String(counts[tab.dataset.name]) : "");
    }
    this.panel.setAttribute("aria-labelledby", `tab-${this.tab}`);
    const chosen = this.tabs.querySelector('[aria-selected="true"]');
    // On a narrow screen the tabs scroll.
    if (chosen && this.shownTab !== this.tab) this.tabs.scrollLeft = chosen.offsetLeft - this.tabs.offsetLeft - chosen.offsetWidth;
    const { cast, events, files, deliveries } = this;
    if (this.tab !== "files" && this.filesTab) this.filesTab.close();
    const parts = { timeline: () => this.timeline, files: () => this.#filesTab(), request: () => (this.requestTab ||= new RequestTab({ cast, session: this.session })) };
    const part = parts[this.tab] && parts[this.tab]();
    if (part) {
      if (this.panel.firstChild !== part.element) this.panel.replaceChildren(part.element);
      if (this.tab === "timeline") part.show({ cast, events, samples: joinSamples(this.history, this.recent), files });
      else part.show(cast);
    } else {
      const content = {
        events: () => eventsTab({ cast, events, failure: this.failures.events }),
        evidence: () => evidenceTab({ cast, events, files, failure: this.failures.evidence }),
        callbacks: () => callbacksTab({ cast, deliveries, events, mayChange: this.mayChange, failure: this.failures.deliveries, reload: () => this.#readDeliveriesSoon() }),
      }[this.tab] || (() => [emptyState("There is no such tab", "Choose another one.")]);
      if (this.tab === "callbacks" && this.shownTab !== "callbacks") this.#readDeliveries();
      this.panel.replaceChildren(...content().flat().filter(Boolean));
    }
    this.shownTab = this.tab;
  }

  /** The tab with the files, which are read each time it is opened. */
  #filesTab() {
    this.filesTab ||= new FilesTab({ id: this.id });
    if (this.shownTab !== "files") this.filesTab.read().then(() => !this.#closed && this.#showTab());
    return this.filesTab;
  }
}

/** A cast of the stream with the details of outputs that only the cast itself has: errors, warnings, files, added pushes. */
function withOutputs(streamed, known) {
  const merged = { ...streamed, warnings: known.warnings, reloads: Math.max(streamed.reloads || 0, known.reloads || 0) };
  for (const part of ["room", "recording"]) if (streamed[part] && known[part]) merged[part] = { ...known[part], ...streamed[part] };
  if (merged.room && merged.room.state === "running") delete merged.room.error;
  const states = new Map(streamed.stats ? streamed.pushes.map((push) => [push.id, push.state]) : []);
  merged.pushes = known.pushes.map((push) => {
    const state = states.get(push.id) || push.state;
    return { ...push, state, error: state === "running" ? undefined : push.error };
  });
  return merged;
}
