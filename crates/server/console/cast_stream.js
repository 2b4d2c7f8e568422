// All casts that are not closed, kept current by the event stream of /v1/casts.

import { readSession } from "./api.js";

/** Delays before the stream is opened again after the server refused it, in milliseconds. */
const MIN_RETRY_MS = 1000, MAX_RETRY_MS = 10000;
/** How long a hidden page keeps the stream, in milliseconds: a browser has six connections for all its tabs. */
const HIDDEN_MS = 60000;
/** Most closed casts that are kept; lists of ended casts are read page by page instead. */
const MAX_CLOSED = 500;
/** Longest history of a cast, in samples: at one a second, 40 minutes. */
const MAX_SAMPLES = 2400;
/** Most casts with a history: the ones that were opened last. */
const MAX_HISTORIES = 12;

class CastStream extends EventTarget {
  /** Casts by id. */
  casts = new Map();
  /** Number of casts by state, as the server counts them; null before the first event. */
  counts = null;
  /** `connecting`, `open` or `reconnecting`. */
  state = "connecting";
  #source = null;
  #app = "";
  #complete = false;
  #retryTimer = 0;
  #retryMs = MIN_RETRY_MS;
  #histories = new Map();
  #signedOut = () => {};
  #hiddenTimer = 0;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.#handleVisibility());
    // A page that the browser keeps for “back” would hold its connection.
    addEventListener("pagehide", () => this.#source && this.#source.close());
    addEventListener("pageshow", (event) => event.persisted && this.#source && this.#connect());
  }

  /** Opens the stream for one application, or for all. */
  open(app, signedOut) {
    if (signedOut) this.#signedOut = signedOut;
    if (this.#source && app === this.#app) return;
    this.close();
    this.#app = app;
    this.#connect();
  }

  /** Closes the stream and forgets all casts. */
  close() {
    clearTimeout(this.#retryTimer);
    if (this.#source) this.#source.close();
    this.#source = null;
    this.casts.clear();
    this.counts = null;
    this.#setState("connecting");
  }

  /** Measured values of a cast, oldest first, from now on; empty at first. */
  history(id) {
    const known = this.#histories.get(id) || [];
    this.#histories.delete(id);
    this.#histories.set(id, known);
    if (this.#histories.size > MAX_HISTORIES) this.#histories.delete(this.#histories.keys().next().value);
    return known;
  }

  /** Takes a cast that was read by other means, such as the answer to a request. */
  put(cast) {
    if (!this.casts.has(cast.id) && cast.closed) return;
    this.casts.set(cast.id, cast);
    this.#announce([cast.id], false);
  }

  #handleVisibility() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) {
      this.#hiddenTimer = setTimeout(() => this.#source && this.#source.close(), HIDDEN_MS);
    } else if (this.#source && this.#source.readyState === EventSource.CLOSED) {
      this.#connect();
    }
  }

  #connect() {
    clearTimeout(this.#retryTimer);
    if (this.#source) this.#source.close();
    const query = this.#app ? `?app=${encodeURIComponent(this.#app)}` : "";
    const source = (this.#source = new EventSource(`/v1/casts${query}`));
    source.onopen = () => {
      this.#complete = false;
      this.#retryMs = MIN_RETRY_MS;
      this.#setState("open");
    };
    source.addEventListener("casts", (event) => {
      if (source === this.#source) this.#apply(JSON.parse(event.data));
    });
    source.onerror = () => {
      if (source !== this.#source) return;
      this.#setState("reconnecting");
      // A browser tries again by itself after a lost connection, but not after an answer that is an error.
      if (source.readyState === EventSource.CLOSED) this.#retry();
    };
  }

  #retry() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(async () => {
      const session = await readSession().catch(() => undefined);
      if (session === null) return this.#signedOut();
      return this.#connect();
    }, this.#retryMs);
    this.#retryMs = Math.min(2 * this.#retryMs, MAX_RETRY_MS);
  }

  #apply({ casts = [], gone = [], counts }) {
    const first = !this.#complete;
    let moved = first;
    if (first) this.casts.clear();
    this.#complete = true;
    for (const cast of casts) {
      const known = this.casts.get(cast.id);
      moved ||= !known || known.state !== cast.state;
      this.casts.set(cast.id, cast);
      this.#sample(cast);
    }
    for (const id of gone) moved = this.casts.delete(id) || moved;
    if (counts) this.counts = counts;
    if (moved) this.#dropClosed();
    this.#announce(casts.map((cast) => cast.id), moved, gone);
  }

  #sample({ id, stats, room }) {
    const samples = stats && this.#histories.get(id);
    if (!samples) return;
    const last = samples[samples.length - 1];
    if (last && last.at === stats.at) return;
    samples.push({ ...stats, ms: Date.parse(stats.at), viewers: room && Number.isInteger(room.viewers) ? room.viewers : undefined });
    if (samples.length > MAX_SAMPLES) samples.splice(0, samples.length - MAX_SAMPLES);
  }

  #dropClosed() {
    const closed = [...this.casts.values()].filter((cast) => cast.closed);
    for (const cast of closed.slice(0, Math.max(0, closed.length - MAX_CLOSED))) this.casts.delete(cast.id);
  }

  /** `ids` were changed, `gone` were deleted; `moved` says that lists have to be sorted anew. */
  #announce(ids, moved, gone = []) {
    this.dispatchEvent(new CustomEvent("change", { detail: { ids, moved, gone } }));
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const castStream = new CastStream();
