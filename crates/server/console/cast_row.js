// A row of the list of casts, which is a card on a phone.

import { ageOf, endReason, outputsOf, problemsOf, stateWord, titleOf } from "./cast_facts.js";
import { h, setAttribute, setText, stateLabel } from "./dom.js";
import { formatCores, formatDuration, formatFps, formatTime } from "./format.js";
import { address } from "./router.js";

const COLUMNS = [
  ["picture", "Picture"], ["state", "State"], ["page", "Page"], ["app", "Application"], ["api", "API"], ["outputs", "Outputs"],
  ["node", "Node"], ["age", "Age"], ["cpu", "CPU"], ["fps", "fps"], ["problems", "Problems"],
];

/** Most problems that are shown in a row; the rest is a number. */
const MAX_PROBLEMS = 2;

/** The row of column names. */
export function headRow() {
  return h("div", { class: "head", role: "row", "aria-rowindex": "1" },
    COLUMNS.map(([name, label]) => h("span", { class: name, role: "columnheader" }, name === "picture" ? h("span", { class: "hidden" }, label) : label)));
}

/** An empty row. Its parts are kept, so that an update changes only text. */
export function createRow() {
  const cell = (name, ...children) => h("div", { class: name, role: "cell" }, children);
  const parts = {
    image: h("img", { alt: "", decoding: "async" }),
    state: stateLabel("queued"),
    host: h("span", { class: "host" }),
    path: h("span", { class: "path" }),
  };
  parts.link = h("a", { class: "page-link" }, h("bdi", null, parts.host, parts.path));
  for (const name of ["app", "api", "outputs", "node", "age", "cpu", "fps", "problems"]) parts[name] = cell(name);
  const row = h("div", { class: "row", role: "row" },
    cell("picture", parts.image), cell("state-cell", parts.state), cell("page", parts.link),
    parts.app, parts.api, parts.outputs, parts.node, parts.age, parts.cpu, parts.fps, parts.problems);
  row.parts = parts;
  return row;
}

/** Shows a cast in a row. */
export function fillRow(row, cast, now) {
  const { parts } = row;
  const running = cast.state === "live" || cast.state === "starting";
  const stats = running ? cast.stats : null;
  if (row.dataset.id !== cast.id) {
    row.dataset.id = cast.id;
    parts.link.href = address(`/casts/${cast.id}`);
  }
  setAttribute(row, "data-state", cast.state);
  parts.state.setState(cast.state, stateWord(cast));
  if (row.shownUrl !== cast.source.url) {
    row.shownUrl = cast.source.url;
    const { host, path } = titleOf(cast);
    setText(parts.host, host);
    setText(parts.path, path);
    parts.link.title = cast.source.url;
  }
  setText(parts.app, cast.app);
  setText(parts.api, cast.api);
  setText(parts.node, cast.node || "");
  setText(parts.age, formatDuration(ageOf(cast, now)));
  setAttribute(parts.age, "title", cast.ended_at ? `Ended ${formatTime(cast.ended_at)}` : `Created ${formatTime(cast.created_at)}`);
  setText(parts.cpu, stats ? formatCores(stats.cpu_cores) : "");
  setText(parts.fps, stats ? formatFps(stats.fps) : "");
  fillChips(parts.outputs, outputsOf(cast).map(({ word, state, detail }) => ({ word, kind: running ? state || "" : "", detail })));
  fillChips(parts.problems, problemWords(cast));
}

function problemWords(cast) {
  const found = problemsOf(cast).map(({ word, level, detail }) => ({ word, kind: level, detail }));
  const shown = found.slice(0, MAX_PROBLEMS);
  if (found.length > MAX_PROBLEMS) {
    const rest = found.slice(MAX_PROBLEMS);
    shown.push({ word: `+${rest.length}`, kind: "warn", detail: rest.map((problem) => problem.word).join("\n") });
  }
  if (!shown.length && cast.end) shown.push({ word: endReason(cast), kind: "quiet", detail: cast.end.message || "" });
  return shown;
}

function fillChips(cell, chips) {
  const text = JSON.stringify(chips);
  if (cell.shownChips === text) return;
  cell.shownChips = text;
  cell.replaceChildren(...chips.map(({ word, kind, detail }) => h("span", { class: `chip ${kind}`, title: detail || null }, word)));
}
