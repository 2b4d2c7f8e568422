// The fleet: its nodes as they are measured, and the queue.

import { get, mayManage, post } from "./api.js";
import { castStream } from "./cast_stream.js";
import { ageOf, titleOf, waitReason } from "./cast_facts.js";
import { button, confirmAction, errorLine, h, runAction, setText, showMessage, stateLabel } from "./dom.js";
import { formatCores, formatDuration, formatMemory, plural } from "./format.js";
import { address } from "./router.js";

/** Time between two reads, in milliseconds: nodes measure themselves each second. */
const REFRESH_MS = 2000;
/** Age of a heartbeat after which a node is shown as late, in seconds; a healthy one sends one each second. */
const LATE_S = 5;
/** Most queued casts in the list. */
const MAX_QUEUED = 200;
/** Share of cores or memory in use from which a bar is amber, and red. */
const HIGH = 0.8, FULL = 0.95;

export function mount(outlet, { session }) {
  return new NodesView(outlet, mayManage(session));
}

function meter(name) {
  const value = h("span");
  const fill = h("div", { class: "fill" });
  const track = h("div", { class: "track", role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const element = h("div", { class: "meter" }, h("span", { class: "name" }, name), value, track);
  element.setShare = (share, text) => {
    const bounded = Math.max(0, Math.min(1, share || 0));
    element.className = `meter ${bounded >= FULL ? "bad" : bounded >= HIGH ? "warn" : ""}`;
    fill.style.transform = `scaleX(${bounded})`;
    track.setAttribute("aria-valuenow", Math.round(100 * bounded));
    track.setAttribute("aria-valuetext", text);
    setText(value, text);
  };
  return element;
}

/** State of a node as a word and a level. */
function stateOf(node) {
  if (node.heartbeat_age_s > LATE_S) return ["bad", `no heartbeat for ${Math.round(node.heartbeat_age_s)} s`];
  if (node.lease && node.lease.health !== "ok") return [node.lease.health === "late" ? "warn" : "bad", `leases ${node.lease.health}`];
  if (node.draining) return ["warn", "draining"];
  return ["good", "ready"];
}

class NodeCard {
  constructor(drain, mayDrain) {
    this.mayDrain = mayDrain;
    this.state = stateLabel("good");
    this.name = h("h2");
    this.cores = meter("Cores");
    this.memory = meter("Memory");
    this.values = {};
    const value = (key, label) => h("div", null, h("dt", null, label), (this.values[key] = h("dd")));
    this.chips = h("div", { class: "chips" });
    this.drain = button("Drain", (event) => drain(this.node, event.currentTarget), { kind: "small" });
    this.element = h("article", { class: "node-card" }, h("header", null, this.name, this.state), this.cores, this.memory,
      h("dl", { class: "numbers" }, h("div", null, h("dt", null, "Casts"), h("dd", null, (this.values.casts = h("a", { class: "link" })))), value("leases", "Leases"), value("heartbeat", "Heartbeat")),
      this.chips, h("div", { class: "actions" }, this.drain, h("span", { class: "hint" }, (this.version = h("span")))));
  }

  show(node) {
    this.node = node;
    const [level, word] = stateOf(node);
    this.state.setState(level, word);
    setText(this.name, node.name);
    this.cores.setShare(node.cores_used / node.cores, `${formatCores(node.cores_used)} of ${formatCores(node.cores)}`);
    const used = node.memory_bytes - node.memory_free_bytes;
    this.memory.setShare(used / node.memory_bytes, `${formatMemory(used)} of ${formatMemory(node.memory_bytes)}`);
    setText(this.values.casts, String(node.casts));
    this.values.casts.href = address("/casts", { q: node.name });
    setText(this.values.leases, node.lease ? `${node.lease.health}, ${node.lease.renewal_age_s.toFixed(1)} s` : "none");
    setText(this.values.heartbeat, `${node.heartbeat_age_s.toFixed(1)} s ago`);
    setText(this.version, `version ${node.version}`);
    this.drain.hidden = node.draining || !this.mayDrain;
    const words = [...node.roles.map((role) => ["good", role]), ...node.labels.map((label) => ["", label])];
    if (JSON.stringify(words) !== this.words) {
      this.words = JSON.stringify(words);
      this.chips.replaceChildren(...words.map(([kind, word]) => h("span", { class: `chip ${kind}` }, word)));
    }
  }
}

class NodesView {
  #cards = new Map();
  #timer = 0;
  #closed = false;

  constructor(outlet, mayDrain) {
    this.mayDrain = mayDrain;
    this.grid = h("div", { class: "nodes" });
    this.total = h("p", { class: "meta" });
    this.problem = h("div");
    this.queue = h("div");
    outlet.append(h("section", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, "Nodes"), this.total)),
      this.problem, this.grid, h("h2", null, "Queue"), this.queue));
    this.listener = () => this.#showQueue();
    castStream.addEventListener("change", this.listener);
    this.#showQueue();
    this.#read();
  }

  unmount() {
    this.#closed = true;
    clearTimeout(this.#timer);
    castStream.removeEventListener("change", this.listener);
  }

  async #read() {
    if (!document.hidden) {
      try {
        this.#show((await get("/v1/nodes")).nodes);
        this.problem.replaceChildren();
      } catch (error) {
        if (!this.#closed) this.problem.replaceChildren(errorLine(error));
      }
    }
    if (!this.#closed) this.#timer = setTimeout(() => this.#read(), REFRESH_MS);
  }

  #show(nodes) {
    if (this.#closed) return;
    for (const [name, card] of this.#cards) {
      if (nodes.some((node) => node.name === name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    nodes.forEach((node, index) => {
      let card = this.#cards.get(node.name);
      if (!card) this.#cards.set(node.name, (card = new NodeCard((shown, control) => this.#drain(shown, control), this.mayDrain)));
      card.show(node);
      if (this.grid.children[index] !== card.element) this.grid.insertBefore(card.element, this.grid.children[index] || null);
    });
    const sum = (read) => nodes.reduce((total, node) => total + read(node), 0);
    setText(this.total, `${plural(nodes.length, "node")} · ${plural(sum((node) => node.casts), "cast")} · ${formatCores(sum((node) => node.cores_used))} of ${formatCores(sum((node) => node.cores))} cores in use`);
  }

  async #drain(node, control) {
    const text = `${node.name} claims no more casts. Its ${plural(node.casts, "cast")} run until they end; then its service ends. It claims casts again when it is started again.`;
    if (!(await confirmAction({ title: `Drain ${node.name}?`, text, action: "Drain", dangerous: true }))) return;
    await runAction(control, async () => {
      await post(`/v1/nodes/${encodeURIComponent(node.name)}/drain`);
      showMessage(`${node.name} drains.`);
    });
  }

  #showQueue() {
    const position = (cast) => (cast.queue && cast.queue.position) || Infinity;
    const queued = [...castStream.casts.values()].filter((cast) => cast.state === "queued")
      .sort((a, b) => position(a) - position(b) || (a.id < b.id ? -1 : 1));
    const shape = JSON.stringify(queued.slice(0, MAX_QUEUED).map((cast) => [cast.id, cast.queue]));
    if (shape === this.shape && queued.length === this.queued) return;
    this.shape = shape;
    this.queued = queued.length;
    if (!queued.length) {
      this.queue.replaceChildren(h("p", { class: "hint" }, "The queue is empty: every cast has a node."));
      return;
    }
    const rows = queued.slice(0, MAX_QUEUED).map((cast) => {
      const { host, path } = titleOf(cast);
      return h("tr", null,
        h("td", { class: "number soft" }, cast.queue && cast.queue.position ? String(cast.queue.position) : "–"),
        h("td", null, h("a", { class: "link", href: address(`/casts/${cast.id}`) }, h("bdi", null, host, path))),
        h("td", { class: "soft" }, cast.app),
        h("td", { class: "soft" }, waitReason(cast), cast.placement && ` Labels: ${cast.placement.labels.join(", ")}.`),
        h("td", { class: "number soft" }, formatDuration(ageOf(cast, Date.now()))));
    });
    const rest = queued.length - rows.length;
    this.queue.replaceChildren(
      h("div", { class: "scroll-x" }, h("table", { class: "list stack queue" },
        h("thead", null, h("tr", null, ["#", "Page", "Application", "Waits for", "Age"].map((name) => h("th", { scope: "col", class: name === "#" || name === "Age" ? "number" : null }, name)))),
        h("tbody", null, rows))),
      rest > 0 ? h("p", { class: "hint" }, `and ${plural(rest, "more cast")}`) : "");
  }
}
