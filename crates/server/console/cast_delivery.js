// A callback as it was sent, and what the receiver answered.

import { castPath, get } from "./api.js";
import { button, copyText, errorLine, h, openDialog } from "./dom.js";
import { formatTime } from "./format.js";

/** Text with line breaks, if it is JSON. */
export function readableBody(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Headers of a message as a list. */
export const headerList = (headers) =>
  h("dl", { class: "facts headers" }, Object.entries(headers || {}).flatMap(([name, value]) => [h("dt", null, name), h("dd", { class: "mono" }, String(value))]));

/** A message over HTTP: its first line, headers and body. */
export function messageParts({ method = "POST", url, headers, body }) {
  return [
    h("div", { class: "section-head" }, h("h3", null, "Message"), button("Copy body", () => copyText(body, "Body"), { kind: "small", icon: "copy" })),
    h("p", { class: "mono request-line" }, h("b", null, method), " ", h("bdi", null, url)), headerList(headers),
    h("pre", { class: "code", tabindex: "0", "aria-label": "Body" }, readableBody(body)),
  ];
}

/** What a receiver answered: its status and the beginning of its text, or why there is none. */
export function answerParts({ status, answer, error, duration_ms: ms }) {
  const good = status >= 200 && status < 300 && !error;
  return [
    h("div", { class: "section-head" }, h("h3", null, "Answer"),
      h("span", { class: "state", data: { state: good ? "good" : "bad" } }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", null, status ? String(status) : "none")),
      h("span", { class: "hint" }, `${ms} ms`)),
    error && h("p", { class: "error" }, error),
    answer ? h("pre", { class: "code", tabindex: "0", "aria-label": "Beginning of the answer" }, answer) : status && h("p", { class: "hint" }, "Its body is empty, or was not kept."),
  ];
}

/** Opens the message of an attempt. */
export async function openDelivery(cast, attempt, name) {
  const body = h("div", { class: "dialog-body" }, h("p", { class: "loading" }, "Loading"));
  openDialog(`Event ${attempt.seq} ${name}, ${formatTime(attempt.at)}`, body, { wide: true });
  try {
    const { messages } = await get(castPath(cast.id, "deliveries", attempt.seq));
    const message = messages[attempt.part || 0] || messages[0];
    body.replaceChildren(...[...(message ? messageParts(message) : [h("p", { class: "hint" }, "This event has no message any more: its receiver was changed.")]), ...answerParts(attempt)].filter(Boolean));
  } catch (error) {
    body.replaceChildren(errorLine(error), ...answerParts(attempt).filter(Boolean));
  }
}
