// The tab of a cast with its files: played here, or downloaded.

import { castPath, get } from "./api.js";
import { emptyState, errorLine, h, icon, iconButton, setText } from "./dom.js";
import { formatBytes, formatDuration, formatTime, timeOf, visible } from "./format.js";

/** Content types of playlists. Some browsers play them themselves. */
const PLAYLISTS = ["application/vnd.apple.mpegurl", "application/x-mpegurl"];

/** Whether this browser plays a file. */
function isPlayable({ playable, content_type: type = "" }) {
  const plain = type.split(";")[0].trim().toLowerCase();
  if (PLAYLISTS.includes(plain)) return document.createElement("video").canPlayType(plain) !== "";
  return playable;
}

/** A tab in `element`. It stays as it is while a file plays: `show` changes only what differs. */
export class FilesTab {
  #files = null;
  #failure = null;
  #cast = null;
  #playing = "";

  constructor({ id }) {
    this.id = id;
    this.player = h("div", { class: "player", hidden: true });
    this.list = h("div", { class: "form" });
    this.element = h("div", { class: "form" }, this.player, this.list);
  }

  get count() {
    return this.#files ? this.#files.length : 0;
  }

  /** Reads the files again. */
  async read() {
    try {
      ({ files: this.#files } = await get(castPath(this.id, "files")));
      this.#failure = null;
    } catch (error) {
      this.#failure = error;
    }
    if (this.#cast) this.show(this.#cast);
  }

  show(cast) {
    this.#cast = cast;
    const shape = JSON.stringify([this.#files, this.#failure && this.#failure.message, cast.recording, cast.state]);
    if (shape === this.shape) return;
    this.shape = shape;
    this.list.replaceChildren(...this.#content().filter(Boolean));
    this.#markPlaying();
  }

  /** Stops what plays, so that it loads no more. */
  close() {
    this.#playing = "";
    const video = this.player.querySelector("video");
    if (video) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
    this.player.hidden = true;
    this.player.replaceChildren();
    this.#markPlaying();
  }

  #content() {
    const { recording } = this.#cast;
    const files = this.#files || [];
    if (this.#failure) return [errorLine(this.#failure)];
    if (!this.#files) return [h("p", { class: "loading" }, "Loading")];
    if (!files.length) {
      if (!recording) return [emptyState("No recording", "This cast is not recorded. Choose a recording when you start a cast.")];
      if (recording.stored) return [emptyState("No files", "The storage has no file of this recording.")];
      const where = recording.to ? `the bucket ${recording.to}` : "the server’s folder";
      return [emptyState("Not stored yet", `The files ${recording.name}… are listed here when the recording is complete in ${where}.`)];
    }
    const stored = recording && recording.stored;
    const known = new Map(((stored && stored.files) || []).map((file) => [file.name, file]));
    return [
      stored && !stored.complete && h("p", { class: "error" }, stored.error || "Files are missing."),
      stored && stored.backup && h("p", { class: "hint" }, "These files are in the backup storage."),
      h("div", { class: "scroll-x" }, h("table", { class: "list files", "aria-label": "Files" },
        h("thead", null, h("tr", null, ["File", "#Size", "#Length", "~First frame", "#"].map((name) =>
          h("th", { scope: "col", class: { "#": "number", "~": "optional" }[name[0]] || null }, name === "#" ? h("span", { class: "hidden" }, "Actions") : name.replace(/^[#~]/, ""))))),
        h("tbody", null, files.map((file) => this.#row(file, known.get(file.name) || {}))))),
    ];
  }

  #row(file, { begin_at: begin, end_at: end, media_id: media }) {
    const actions = [
      isPlayable(file) && h("button", { type: "button", class: "button small play", data: { name: file.name }, "aria-label": `Play ${file.name}`, on: { click: () => this.#play(file) } }, icon("play"), h("span", { class: "wide-only" }, "Play")),
      h("a", { class: "button small", href: `${file.href}?download=true`, download: file.name, "aria-label": `Download ${file.name}` }, icon("download"), h("span", { class: "wide-only" }, "Download")),
    ];
    return h("tr", null,
      h("td", null, h("bdi", null, visible(file.name)), media && h("div", { class: "soft" }, `media id ${media}`)),
      h("td", { class: "number" }, formatBytes(file.bytes)),
      h("td", { class: "number soft" }, begin ? formatDuration(timeOf(end) - timeOf(begin)) : ""),
      h("td", { class: "nowrap soft optional" }, begin && h("time", { datetime: begin, title: begin }, formatTime(begin))),
      h("td", { class: "number" }, h("span", { class: "actions end nowrap" }, actions)));
  }

  #play(file) {
    this.close();
    this.#playing = file.name;
    const problem = h("p", { class: "error", role: "alert" });
    const video = h("video", { controls: true, playsinline: true, preload: "metadata", src: file.href, "aria-label": file.name });
    video.addEventListener("error", () => setText(problem, `The file cannot be played here${video.error && video.error.message ? `: ${video.error.message}` : ""}. Download it instead.`));
    this.player.replaceChildren(
      h("div", { class: "section-head" }, h("h2", null, h("bdi", null, visible(file.name))), iconButton("Close the player", "close", () => this.close())), video, problem);
    this.player.hidden = false;
    this.#markPlaying();
    this.player.scrollIntoView({ block: "nearest" });
    // A browser may want another click; the controls are there.
    video.play().catch(() => {});
    video.focus({ preventScroll: true });
  }

  #markPlaying() {
    for (const control of this.list.querySelectorAll(".play")) control.setAttribute("aria-pressed", String(control.dataset.name === this.#playing));
  }
}
