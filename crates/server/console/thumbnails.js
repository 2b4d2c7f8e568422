// Pictures of running casts: refreshed only while they and the page are visible, a few at a time.

/** Time between two pictures of a cast, in milliseconds: each is work for its node. */
const REFRESH_MS = 5000;
/** Most pictures that are requested at once: a browser has six connections, and others need some. */
const MAX_IN_FLIGHT = 2;
/** How long nothing is requested after the server refused because of its limits, in milliseconds. */
const BACK_OFF_MS = 10000;
/** Longest request, in milliseconds: the server waits five seconds for a picture. */
const TIMEOUT_MS = 7000;
/** Most pictures that are kept, so that a row has one at once when it is shown again. */
const MAX_PICTURES = 120;

const RUNNING = ["starting", "live"];

/** Refreshes the pictures of the images given to `watch`. */
export class Thumbnails {
  #pictures = new Map();
  #images = new Map();
  #visible = new Set();
  #inFlight = 0;
  #pausedUntil = 0;
  #timer = 0;
  #observer;

  constructor(root) {
    this.#observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#visible.add(target);
        else this.#visible.delete(target);
      }
      this.#fill();
    }, { root });
    this.#timer = setInterval(() => this.#fill(), 500);
  }

  /** Shows the picture of a cast in an image from now on; null shows none. */
  watch(image, cast) {
    const id = cast && RUNNING.includes(cast.state) ? cast.id : null;
    if (this.#images.has(image) && this.#images.get(image) === id) return;
    if (!this.#images.has(image)) this.#observer.observe(image);
    this.#images.set(image, id);
    this.#show(image, id && this.#pictures.get(id));
  }

  /** Stops all requests and frees the pictures. */
  close() {
    clearInterval(this.#timer);
    this.#observer.disconnect();
    for (const picture of this.#pictures.values()) if (picture.url) URL.revokeObjectURL(picture.url);
    this.#pictures.clear();
    this.#images.clear();
    this.#visible.clear();
  }

  #show(image, picture) {
    const url = picture && picture.url;
    if (url) image.src = url;
    else image.removeAttribute("src");
    image.classList.toggle("shown", Boolean(url));
  }

  #fill() {
    const now = performance.now();
    if (document.hidden || now < this.#pausedUntil) return;
    const due = [];
    for (const image of this.#visible) {
      const id = this.#images.get(image);
      const picture = id && this.#pictures.get(id);
      if (!id || (picture && (picture.pending || now - picture.at < REFRESH_MS))) continue;
      due.push({ id, at: picture ? picture.at : -Infinity });
    }
    due.sort((a, b) => a.at - b.at);
    for (const { id } of due) {
      if (this.#inFlight >= MAX_IN_FLIGHT) return;
      this.#load(id);
    }
  }

  async #load(id) {
    const picture = this.#pictures.get(id) || { url: "", at: 0, pending: false };
    this.#pictures.delete(id);
    this.#pictures.set(id, picture);
    picture.pending = true;
    this.#inFlight += 1;
    try {
      const options = { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) };
      const response = await fetch(`/v1/casts/${encodeURIComponent(id)}/snapshot.jpg`, options);
      if (response.status === 429 || response.status >= 500) this.#pausedUntil = performance.now() + BACK_OFF_MS / (response.status === 504 ? 10 : 1);
      if (response.ok) this.#replace(id, picture, URL.createObjectURL(await response.blob()));
    } catch {
      // The next round tries again.
    } finally {
      picture.at = performance.now();
      picture.pending = false;
      this.#inFlight -= 1;
      this.#fill();
    }
  }

  #replace(id, picture, url) {
    // The view was closed meanwhile.
    if (this.#pictures.get(id) !== picture) return URL.revokeObjectURL(url);
    const old = picture.url;
    picture.url = url;
    for (const [image, shown] of this.#images) if (shown === id) this.#show(image, picture);
    if (old) URL.revokeObjectURL(old);
    if (this.#pictures.size > MAX_PICTURES) {
      const [oldest, dropped] = this.#pictures.entries().next().value;
      if (dropped.url) URL.revokeObjectURL(dropped.url);
      this.#pictures.delete(oldest);
    }
    return undefined;
  }
}
