// The check of a page before a cast: the server opens it once for some seconds, and says what it saw.

import { post } from "./api.js";
import { button, h, icon, iconButton, openDialog, setText } from "./dom.js";
import { formatCores, formatFps, formatLevel, formatMemory, plural, visible, visibleLines, words } from "./format.js";

/** How long a check takes, in milliseconds: the bar is full then. */
const USUAL_MS = 9000;
/** Longest check, in milliseconds: a slow page, on a busy node. */
const TIMEOUT_MS = 60000;
/** Most failed requests and lines of the console that are shown at first. */
const MAX_SHOWN = 6;

const CODECS = { h264: "H.264", vp8: "VP8", vp9: "VP9", av1: "AV1", aac: "AAC", opus: "Opus" };

/** The panel of a check in `element`, hidden until the first one. */
export class CheckPanel {
  #abort = null;
  #checked = "";

  constructor() {
    this.status = h("p", { class: "hidden", role: "status" });
    this.content = h("div", { class: "check-content" });
    this.note = h("p", { class: "hint", hidden: true }, "The form has changed since this check.");
    this.element = h("section", { class: "block check-panel", "aria-label": "Check of the page", hidden: true }, this.content, this.note);
  }

  /** Whether a check is running. */
  get running() {
    return this.#abort !== null;
  }

  /** Checks a page. Errors that name a field are thrown for the form; all others are shown here. */
  async run(body) {
    this.close();
    const abort = (this.#abort = new AbortController());
    this.#checked = JSON.stringify(body);
    this.note.hidden = true;
    this.element.hidden = false;
    this.#showProgress();
    try {
      const result = await post("/v1/casts/check", body, { signal: abort.signal, timeoutMs: TIMEOUT_MS });
      if (this.#abort === abort) this.#showResult(result);
    } catch (error) {
      if (this.#abort !== abort) return;
      if (error.field) {
        this.element.hidden = true;
        throw error;
      }
      this.#showFailure(error);
    } finally {
      if (this.#abort === abort) this.#abort = null;
    }
  }

  /** Stops a check that is running, and hides the panel. */
  close() {
    if (this.#abort) this.#abort.abort();
    this.#abort = null;
    this.element.hidden = true;
    this.content.replaceChildren();
    setText(this.status, "");
  }

  /** Says whether the form is still as it was checked. */
  compare(body) {
    this.note.hidden = this.element.hidden || this.running || JSON.stringify(body) === this.#checked;
  }

  #showProgress() {
    setText(this.status, "Opening the page");
    const bar = h("div", { class: "progress", "aria-hidden": "true" }, h("div", { class: "fill" }));
    bar.firstChild.style.animationDuration = `${USUAL_MS}ms`;
    this.content.replaceChildren(h("div", { class: "check-head" }, h("b", null, "Opening the page"),
      h("span", { class: "hint" }, "A node shows it for some seconds and measures. Nothing is recorded or sent."),
      button("Cancel", () => this.close(), { kind: "small" })), bar);
  }

  #showFailure(error) {
    const wait = error.retryAfterS ? ` Try again in ${error.retryAfterS} s.` : "";
    setText(this.status, `${error.message}${wait}`);
    this.content.replaceChildren(h("div", { class: "check-head" }, h("span", { class: "error" }, error.message, wait), this.#dismiss()));
  }

  #dismiss() {
    return iconButton("Close the check", "close", () => this.close());
  }

  #showResult(result) {
    const { ok, problem, fits_now: fits, fits_reason: reason, node } = result;
    const good = ok && !problem;
    const verdict = problem ? capital(words(problem.kind)) : ok ? "The page works" : "The page does not work";
    const place = !ok ? "" : fits ? `It fits now, on ${node}.` : `It does not fit now${reason ? `: ${reason}` : "."}`;
    setText(this.status, `${verdict}. ${place}`.trim());
    this.content.replaceChildren(
      h("div", { class: "check-head" },
        h("span", { class: "state", data: { state: good ? "good" : "bad" } }, h("span", { class: "dot", "aria-hidden": "true" }), h("b", null, verdict)),
        place && h("span", { class: fits ? "hint" : "warn-text" }, place), this.#dismiss()),
      h("div", { class: "check-body" }, picture(result), h("div", { class: "check-facts" },
        h("div", { class: "check-title" }, h("p", { class: "name" }, h("bdi", null, visible(result.title || "No title"))), h("p", { class: "hint" }, h("bdi", null, visible(result.url)))),
        problem && problem.message && h("p", { class: "error" }, visibleLines(problem.message)), figures(result), abilities(result))),
      ...[warnings(result), failed(result), logged(result)].filter(Boolean));
  }
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The picture that the page had. Only pictures inside of the answer are shown. */
function picture({ picture: data, title }) {
  if (!/^data:image\/(jpeg|png|webp);base64,/.test(data || "")) return h("div", { class: "check-picture none" }, h("span", { class: "hint" }, "No picture"));
  const alt = `Picture of the page ${title || ""}`.trim();
  const show = () => openDialog("Picture of the page", h("div", { class: "dialog-body" }, h("img", { src: data, alt })), { wide: true });
  return h("button", { type: "button", class: "check-picture", "aria-label": "Open the picture", on: { click: show } }, h("img", { src: data, alt }));
}

const seconds = (ms) => (ms > 0 ? `${(ms / 1000).toFixed(1)} s` : "–");

function figures(result) {
  const { sound } = result;
  const level = sound.streams ? formatLevel(Math.max(...sound.peak)) : "none";
  const status = result.http_status;
  const list = [
    ["HTTP status", status ? String(status) : "–", status >= 400 ? "bad" : ""], ["Loaded in", seconds(result.load_ms), ""],
    ["Ready in", seconds(result.ready_ms), ""], ["fps", formatFps(result.fps), ""], ["CPU cores", formatCores(result.cpu_cores), ""],
    ["Memory", formatMemory(result.memory_bytes), ""], ["Sound", level, ""],
  ];
  return h("dl", { class: "figures" }, list.map(([name, value, kind]) => h("div", null, h("dt", null, name), h("dd", { class: kind || null }, value))));
}

function abilities({ codecs, autoplay }) {
  const chip = (works, word, detail) => h("li", { class: `chip ${works ? "good" : "missing"}`, title: detail }, word, !works && h("span", { class: "hidden" }, ", not available"));
  return h("ul", { class: "chips", "aria-label": "Codecs and autoplay" },
    Object.entries(codecs || {}).map(([name, works]) => chip(works, CODECS[name] || name, works ? "The page can play it" : "The page cannot play it")),
    autoplay && chip(autoplay.allowed, autoplay.allowed ? "autoplay" : "no autoplay", autoplay.allowed ? "Sound plays without a click" : "The page has to be clicked before sound plays"));
}

function warnings({ warnings: list }) {
  if (!list || !list.length) return null;
  return h("ul", { class: "problem-list", "aria-label": "Warnings" }, list.map(({ kind, message }) => h("li", null, h("b", null, words(kind)), h("span", null, visibleLines(message)))));
}

/** A list of which the first lines are shown, and the others on demand. */
function section(title, lines, hint) {
  const list = h("ul", { class: "check-list" }, lines.slice(0, MAX_SHOWN));
  const rest = lines.length - MAX_SHOWN;
  const more = rest > 0 && button(`Show ${plural(rest, "more line")}`, () => {
    list.append(...lines.slice(MAX_SHOWN));
    more.remove();
  }, { kind: "small plain" });
  return h("div", { class: "check-section" }, h("h2", null, title, " ", h("span", { class: "count" }, String(lines.length))), hint && h("p", { class: "hint" }, hint), list, more || null);
}

function failed({ failed_requests: list }) {
  if (!list || !list.length) return null;
  return section("Failed to load", list.map(({ url, reason, status, type }) => h("li", null,
    h("span", { class: "tag bad" }, String(status || "failed")), h("span", { class: "mono" }, h("bdi", null, visible(url))),
    h("span", { class: "hint" }, [type && String(type).toLowerCase(), reason && reason !== String(status) ? reason : ""].filter(Boolean).join(" · ")))));
}

function logged({ console: list }) {
  if (!list || !list.length) return null;
  const kinds = { error: "bad", exception: "bad", warning: "warn", warn: "warn" };
  return section("Console", list.map(({ level, text }) => h("li", null, h("span", { class: `tag ${kinds[level] || ""}` }, level), h("span", { class: "mono" }, visibleLines(text)))));
}

/** The button that checks, with an icon. */
export const checkButton = (onClick) => h("button", { type: "button", class: "button", on: { click: onClick } }, icon("check"), h("span", null, "Check the page"));
