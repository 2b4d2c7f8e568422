// The tabs of a cast with lists: events and callbacks.

import { castPath, post } from "./api.js";
import { openDelivery } from "./cast_delivery.js";
import { endReason } from "./cast_facts.js";
import { button, emptyState, errorLine, h, runAction, showMessage } from "./dom.js";
import { formatDuration, formatTime, plural, timeOf, visibleLines, words } from "./format.js";

/** Most events in the list, the latest; the API has all. */
const MAX_EVENTS = 1000;

const time = (text) => h("time", { datetime: text, title: text }, formatTime(text));

function list(columns, rows, { stack = true } = {}) {
  const head = columns.map((column) => h("th", { scope: "col", class: column.startsWith("#") ? "number" : null },
    column === "#" ? h("span", { class: "hidden" }, "Actions") : column.replace("#", "")));
  return h("div", { class: "scroll-x" }, h("table", { class: stack ? "list stack" : "list" }, h("thead", null, h("tr", null, head)), h("tbody", null, rows)));
}

const EVENT_LEVELS = { reloaded: "warn", moved: "warn", restarted: "warn", "lost-node": "bad", resumed: "good", live: "good", warning: "warn", "recording-stopped": "warn" };

/** What an event says, besides its name. */
function eventDetail(event) {
  const parts = [];
  if (event.fault) parts.push(words(event.fault));
  if (event.node) parts.push(event.node);
  if (event.room) parts.push(event.room.state, event.room.error);
  if (event.push) parts.push(`${event.push.id}: ${event.push.state}`, event.push.url, event.push.error);
  if (event.upload) parts.push(event.upload.failing ? "failing" : "works", `${plural(event.upload.pending, "file")} waiting`, event.upload.error);
  if (event.warning) parts.push(event.warning.message);
  if (event.end) parts.push(endReason(event), event.end.message);
  if (event.stored) parts.push(event.stored.complete ? "complete" : "incomplete", plural(event.stored.files.length, "file"), event.stored.error);
  return visibleLines(parts.filter(Boolean).join(" · "));
}

function levelOf(event) {
  const state = (event.push || event.room || {}).state;
  if (event.upload) return event.upload.failing ? "bad" : "good";
  if (state) return { failed: "bad", recovering: "warn", running: "good" }[state] || "ended";
  if (event.end && event.end.fault) return "bad";
  return EVENT_LEVELS[event.event] || "ended";
}

/** The events, newest first. */
export function eventsTab({ cast, events, failure }) {
  if (failure) return [errorLine(failure)];
  if (!events.length) return [emptyState("No events yet", "Everything that happens to the cast is listed here.")];
  const begin = timeOf(cast.live_at || cast.created_at);
  const rows = events.slice(-MAX_EVENTS).reverse().map((event) => {
    const after = timeOf(event.at) - begin;
    return h("tr", null,
      h("td", { class: "nowrap" }, h("span", { class: "state", data: { state: levelOf(event) } }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", null, words(event.event)))),
      h("td", { class: "nowrap number soft" }, time(event.at)),
      h("td", { class: "nowrap number soft" }, after >= 0 ? `+${formatDuration(after)}` : `−${formatDuration(-after)}`),
      h("td", null, eventDetail(event)));
  });
  const dropped = cast.events_dropped ? h("p", { class: "hint" }, `${plural(cast.events_dropped, "event")} are missing: the history of a cast ends at 10 000.`) : null;
  return [dropped, list(["Event", "#Time", "#After live", "Details"], rows)];
}

/** Attempts to deliver callbacks. */
export function callbacksTab({ cast, deliveries, events, mayChange, failure, reload }) {
  if (failure) return [errorLine(failure)];
  if (!deliveries) return [h("p", { class: "hint" }, "Loading")];
  const { attempts, backlog } = deliveries;
  const redeliver = (seq) => (event) => runAction(event.currentTarget, async () => {
    const answer = await post(castPath(cast.id, "deliveries", "redeliver"), seq ? { seq } : {});
    showMessage(answer.requeued ? `${plural(answer.requeued, "event")} will be delivered again.` : "Nothing was given up.");
    reload();
  });
  const backlogLine = backlog && (backlog.pending || backlog.given_up)
    ? h("div", { class: "inline" }, h("p", null, `${plural(backlog.pending, "event")} waiting, ${backlog.given_up} given up.`),
      backlog.given_up && mayChange ? button("Deliver all again", redeliver(null), { kind: "small", icon: "again" }) : null)
    : null;
  if (!attempts.length) {
    return [backlogLine, emptyState("No callbacks", "Each attempt to deliver an event to the receiver is listed here. Receivers are set in the application, or in the request.")];
  }
  const names = new Map(events.map((event) => [event.seq, event.event]));
  const rows = [...attempts].reverse().map((attempt) => {
    const ok = attempt.status >= 200 && attempt.status < 300 && !attempt.error;
    return h("tr", null,
      h("td", { class: "nowrap" }, h("span", { class: "state", data: { state: ok ? "good" : "bad" } }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", null, String(attempt.status || "no answer")))),
      h("td", { class: "nowrap" }, `${attempt.seq} ${words(names.get(attempt.seq))}${attempt.part ? `, part ${attempt.part + 1}` : ""}`),
      h("td", { class: "nowrap soft number" }, time(attempt.at)),
      h("td", { class: "number soft" }, `${attempt.duration_ms} ms`),
      h("td", null, h("span", { class: "soft" }, attempt.url), attempt.error && h("div", { class: "error" }, visibleLines(attempt.error))),
      h("td", { class: "number" }, h("span", { class: "actions end nowrap" },
        h("button", { type: "button", class: "button small", "aria-label": `Show message of event ${attempt.seq}`, on: { click: () => openDelivery(cast, attempt, words(names.get(attempt.seq))) } }, "Show"),
        mayChange && h("button", { type: "button", class: "button small", "aria-label": `Deliver event ${attempt.seq} again`, on: { click: redeliver(attempt.seq) } }, "Again"))));
  });
  return [backlogLine, list(["Answer", "Event", "#Time", "#Took", "Receiver", "#"], rows)];
}
