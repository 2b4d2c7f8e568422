// Evidence of a page's faults: pictures and console logs.

import { castPath, get, send } from "./api.js";
import { emptyState, errorLine, h, openDialog } from "./dom.js";
import { formatBytes, formatTime, words } from "./format.js";
import { evidenceTimes } from "./timeline_model.js";

/** Most characters of a log that are shown; the whole file can be opened. */
const MAX_LOG_CHARACTERS = 400000;

/** Evidence files of a cast. */
export const readEvidence = async (id) => (await get(castPath(id, "evidence"))).files;

/** Opens a picture or a log in a dialog. */
export function openEvidence(file, caption) {
  const link = h("a", { class: "link", href: file.href, target: "_blank", rel: "noopener" }, "Open the file");
  const body = h("div", { class: "dialog-body" });
  openDialog(caption || file.name, body, { wide: true });
  if (file.name.endsWith(".png")) body.append(h("img", { src: file.href, alt: caption || file.name }), link);
  else showLog(body, file, link);
}

async function showLog(body, file, link) {
  const pre = h("pre", { class: "code", tabindex: "0", "aria-busy": "true" }, "Loading");
  body.append(pre, link);
  try {
    const text = (await (await send("GET", file.href, undefined, { headers: { Accept: "*/*" } })).text()).slice(-MAX_LOG_CHARACTERS);
    const lines = text.split("\n").map((line) => {
      const level = /\b(error|warning|warn)\b/i.exec(line.slice(0, 60));
      return h("span", { class: `log-line ${level ? (/^error/i.test(level[1]) ? "error" : "warning") : ""}` }, `${line}\n`);
    });
    pre.replaceChildren(...lines);
  } catch (error) {
    pre.replaceWith(errorLine(error));
  }
  pre.removeAttribute("aria-busy");
}

/** The tab: pictures in the order of time, then the other files. */
export function evidenceTab({ cast, events, files, failure }) {
  if (failure) return [errorLine(failure)];
  if (!files.length) {
    return [emptyState("No evidence", "When the page freezes, crashes or stays blank, a picture and its console log are kept here.")];
  }
  const times = evidenceTimes(files, cast, events);
  const logs = new Map(files.filter((file) => file.name.endsWith(".log")).map((file) => [file.name, file]));
  const figures = times.map(({ file, fault, number, at }) => {
    const caption = `${number}. ${words(fault)}${Number.isFinite(at) ? `, ${formatTime(at)}` : ""}`;
    const log = logs.get(file.name.replace(/png$/, "log"));
    logs.delete(log && log.name);
    return h("figure", null,
      h("button", { type: "button", "aria-label": `Open picture ${caption}`, on: { click: () => openEvidence(file, caption) } },
        h("img", { src: file.href, alt: "", loading: "lazy", decoding: "async" })),
      h("figcaption", null, h("b", null, words(fault)), h("span", null, Number.isFinite(at) ? formatTime(at) : "time unknown"),
        log && h("button", { type: "button", class: "button small", on: { click: () => openEvidence(log, `Console of ${caption}`) } }, "Console log")));
  });
  const rest = [...logs.values(), ...files.filter((file) => !/\.(png|log)$/.test(file.name))];
  const rows = rest.map((file) => h("tr", null,
    h("td", null, h("button", { type: "button", class: "button small", on: { click: () => openEvidence(file) } }, file.name)),
    h("td", { class: "number" }, formatBytes(file.bytes))));
  return [
    figures.length ? h("div", { class: "pictures" }, figures) : null,
    rows.length ? h("table", { class: "list" }, h("thead", null, h("tr", null, h("th", null, "Log"), h("th", { class: "number" }, "Size"))), h("tbody", null, rows)) : null,
  ];
}
