// The preview of a cast: a picture each second, or the room's stream when the reader wants it.

import { castPath, send } from "./api.js";
import { button, h, iconButton, setText } from "./dom.js";
import { words } from "./format.js";

/** Time between two pictures, in milliseconds. */
const SNAPSHOT_MS = 1000;
/** Pause after a failed picture, in milliseconds. */
const FAILURE_MS = 3000;
/** Longest time until the stream's first frame, in milliseconds. */
const FIRST_FRAME_MS = 12000;

/** Address of a room's WHEP endpoint with its token, if the room is on this server. */
function whepEndpoint(watchUrl) {
  try {
    const url = new URL(watchUrl, location.href);
    return url.origin === location.origin ? { path: `${url.pathname.replace(/\/+$/, "")}/whep`, token: url.searchParams.get("token") } : null;
  } catch {
    return null;
  }
}

/** A preview; `show` gives it the cast, `close` ends it. */
export class Preview {
  #cast = null;
  #timer = 0;
  #url = "";
  #connection = null;
  #session = "";
  #closed = false;

  constructor() {
    this.image = h("img", { alt: "" });
    this.note = h("p", { class: "note" });
    this.controls = h("div", { class: "controls" });
    this.element = h("div", { class: "preview" }, this.note, this.image, this.controls);
  }

  show(cast) {
    const before = this.#cast;
    this.#cast = cast;
    const running = ["starting", "live"].includes(cast.state);
    if (!before || before.state !== cast.state) {
      this.#describe();
      if (running) this.#next(0);
      else {
        clearTimeout(this.#timer);
        this.#stopStream();
        if (cast.state !== "ended") this.#setPicture("");
        this.#fit();
      }
    }
    if (!before || before.state !== cast.state || this.#watchable(before) !== this.#watchable(cast)) this.#showControls();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#stopStream();
    this.#setPicture("");
  }

  #watchable(cast) {
    return cast.state === "live" && cast.room && cast.room.watch_url ? cast.room.watch_url : "";
  }

  #describe() {
    const texts = { queued: "The picture appears when a node runs the cast.", starting: "Opening the page", ended: "The cast has ended.", live: "Waiting for a picture" };
    setText(this.note, texts[this.#cast.state] || words(this.#cast.state));
    this.image.alt = this.#cast.state === "ended" ? "Last picture of the page" : "Current picture of the page";
  }

  /** An ended cast without a picture needs no room for one. */
  #fit() {
    this.element.classList.toggle("over", this.#cast.state === "ended" && !this.#url);
  }

  #showControls() {
    const url = this.#cast && this.#watchable(this.#cast);
    const controls = [];
    if (this.#connection) {
      controls.push(button("Pictures", () => this.#stopStream(true), { kind: "small" }));
      controls.push(iconButton("Sound", this.video.muted ? "silent" : "sound", () => {
        this.video.muted = !this.video.muted;
        this.#showControls();
      }), iconButton("Full screen", "full", () => this.video.requestFullscreen()));
    } else if (url && whepEndpoint(url) && "RTCPeerConnection" in window) {
      controls.push(button("Watch live", () => this.#startStream(url), { kind: "small", icon: "play" }));
    }
    this.controls.replaceChildren(...controls);
  }

  #setPicture(url) {
    const old = this.#url;
    this.#url = url;
    if (url) this.image.src = url;
    else this.image.removeAttribute("src");
    if (old) URL.revokeObjectURL(old);
    if (this.#cast) this.#fit();
  }

  #next(delay) {
    clearTimeout(this.#timer);
    if (!this.#closed) this.#timer = setTimeout(() => this.#load(), delay);
  }

  async #load() {
    if (document.hidden || this.#connection) return this.#next(SNAPSHOT_MS);
    const began = performance.now();
    try {
      const response = await send("GET", castPath(this.#cast.id, "snapshot.jpg"), undefined, { headers: { Accept: "image/*" } });
      const picture = await response.blob();
      if (this.#closed) return undefined;
      this.#setPicture(URL.createObjectURL(picture));
      return this.#next(Math.max(0, SNAPSHOT_MS - (performance.now() - began)));
    } catch (error) {
      if (!this.#url && !this.#closed && this.#cast.state === "live") setText(this.note, error.message);
      return ["starting", "live"].includes(this.#cast.state) ? this.#next(FAILURE_MS) : undefined;
    }
  }

  /** Plays the room by WHEP (as a viewer of it, which its count shows). */
  async #startStream(url) {
    const { path, token } = whepEndpoint(url);
    const connection = (this.#connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" }));
    const stream = new MediaStream();
    this.video = h("video", { playsinline: true, autoplay: true });
    this.video.muted = true;
    for (const kind of ["audio", "video"]) stream.addTrack(connection.addTransceiver(kind, { direction: "recvonly" }).receiver.track);
    const failed = (text) => {
      if (this.#connection !== connection) return;
      this.#stopStream(true);
      setText(this.note, text);
    };
    const timer = setTimeout(() => failed("The room does not answer."), FIRST_FRAME_MS);
    connection.onconnectionstatechange = () => connection.connectionState === "failed" && failed("The connection to the room failed.");
    this.#showControls();
    try {
      await connection.setLocalDescription();
      const headers = { "Content-Type": "application/sdp", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
      const answer = await fetch(path, { method: "POST", headers, body: connection.localDescription.sdp });
      const text = await answer.text();
      if (!answer.ok) throw new Error(text.trim() || `The room answered ${answer.status}.`);
      this.#session = new URL(answer.headers.get("Location"), location.href).href;
      if (this.#connection !== connection) return this.#endSession();
      await connection.setRemoteDescription({ type: "answer", sdp: text });
      this.video.srcObject = stream;
      this.video.addEventListener("loadeddata", () => {
        clearTimeout(timer);
        if (this.#connection === connection) this.image.after(this.video);
      });
      return await this.video.play().catch(() => {});
    } catch (error) {
      clearTimeout(timer);
      return failed(error.message);
    }
  }

  #endSession() {
    // Without this request, the room ends the session after a timeout.
    if (this.#session) fetch(this.#session, { method: "DELETE", keepalive: true }).catch(() => {});
    this.#session = "";
  }

  #stopStream(show = false) {
    this.#endSession();
    if (this.#connection) {
      this.#connection.onconnectionstatechange = null;
      this.#connection.close();
      this.#connection = null;
      this.video.remove();
    }
    if (show) this.#showControls();
  }
}
