// A list of any length, of which only the visible rows are in the document.

/** Rows that are kept above and below the visible ones. */
const OVERSCAN = 6;

/** Time after the last change until the rows are put in order for the Tab key and screen readers, in milliseconds. */
const ORDER_MS = 120;

/**
 * Draws rows for `keys` into `body`, which scrolls in `scroller`. `heightOf()` is the height of a row in pixels;
 * `create()` makes an empty row, `fill(row, key)` shows what the key stands for.
 */
export class VirtualList {
  #keys = [];
  #rows = new Map();
  #spare = [];
  #height = 0;
  #frame = 0;
  #orderTimer = 0;
  #onScroll = () => this.#schedule();
  #resize;

  constructor({ scroller, body, heightOf, create, fill }) {
    Object.assign(this, { scroller, body, heightOf, create, fill });
    scroller.addEventListener("scroll", this.#onScroll, { passive: true });
    this.#resize = new ResizeObserver(() => this.#schedule(true));
    this.#resize.observe(scroller);
  }

  /** Replaces the keys. */
  setKeys(keys) {
    this.#keys = keys;
    this.#height = this.heightOf();
    const total = `${keys.length * this.#height}px`;
    if (this.body.style.height !== total) this.body.style.height = total;
    this.#draw();
  }

  /** Fills the rows of these keys again, if they are visible. */
  refresh(keys) {
    for (const key of keys) {
      const row = this.#rows.get(key);
      if (row) this.fill(row.element, key);
    }
  }

  /** Fills all visible rows again. */
  refreshAll() {
    this.refresh([...this.#rows.keys()]);
  }

  /** Index of the first row that is visible completely. */
  firstVisible() {
    return Math.max(0, Math.ceil((this.scroller.scrollTop - this.#top()) / this.#height));
  }

  /** Scrolls a row into view, and returns it. */
  reveal(index) {
    if (index < 0 || index >= this.#keys.length) return null;
    const top = this.#top() + index * this.#height;
    const bottom = top + this.#height;
    const head = this.body.previousElementSibling ? this.body.previousElementSibling.offsetHeight : 0;
    if (top - head < this.scroller.scrollTop) this.scroller.scrollTop = top - head;
    else if (bottom > this.scroller.scrollTop + this.scroller.clientHeight) this.scroller.scrollTop = bottom - this.scroller.clientHeight;
    this.#draw();
    return this.#rows.get(this.#keys[index]).element;
  }

  /** Stops listening. */
  close() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#orderTimer);
    this.scroller.removeEventListener("scroll", this.#onScroll);
    this.#resize.disconnect();
  }

  #top() {
    return this.body.offsetTop - this.scroller.offsetTop;
  }

  #schedule(resized = false) {
    if (resized && this.#height !== this.heightOf()) return this.setKeys(this.#keys);
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
    return undefined;
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const begin = Math.max(0, this.scroller.scrollTop - this.#top());
    const first = Math.max(0, Math.floor(begin / this.#height) - OVERSCAN);
    const last = Math.min(this.#keys.length, Math.ceil((begin + this.scroller.clientHeight) / this.#height) + OVERSCAN);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) wanted.add(this.#keys[index]);
    for (const [key, row] of this.#rows) {
      // A row with the focus stays, so that the focus does.
      if (wanted.has(key) || row.element.contains(document.activeElement)) continue;
      this.#rows.delete(key);
      row.element.hidden = true;
      this.#spare.push(row.element);
    }
    for (let index = first; index < last; index += 1) this.#place(index);
    this.#moveKept(wanted);
    clearTimeout(this.#orderTimer);
    this.#orderTimer = setTimeout(() => this.#order(), ORDER_MS);
    if (this.onDraw) this.onDraw(last);
  }

  #place(index) {
    const key = this.#keys[index];
    let row = this.#rows.get(key);
    if (!row) {
      const element = this.#spare.pop() || this.body.appendChild(this.create());
      element.hidden = false;
      row = { element, index: -1 };
      this.#rows.set(key, row);
      this.fill(element, key);
    }
    if (row.index !== index) {
      row.element.style.transform = `translateY(${index * this.#height}px)`;
      row.element.setAttribute("aria-rowindex", index + 2);
      row.index = index;
    }
  }

  /** Rows that are kept because of the focus follow their item, or leave with it. */
  #moveKept(wanted) {
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      const index = this.#keys.indexOf(key);
      if (index < 0) {
        this.#rows.delete(key);
        row.element.remove();
      } else {
        row.index = index;
        row.element.style.transform = `translateY(${index * this.#height}px)`;
      }
    }
  }

  /** Puts the rows in the order of their positions. The one with the focus stays where it is, or it would lose it. */
  #order() {
    const rows = [...this.#rows.values()].sort((a, b) => a.index - b.index).map((row) => row.element);
    const focused = rows.findIndex((element) => element.contains(document.activeElement));
    for (let at = focused - 1; at >= 0; at -= 1) {
      if (rows[at].nextSibling !== rows[at + 1]) this.body.insertBefore(rows[at], rows[at + 1]);
    }
    for (let at = Math.max(focused + 1, 1); at < rows.length; at += 1) {
      if (rows[at].previousSibling !== rows[at - 1]) rows[at - 1].after(rows[at]);
    }
  }
}
