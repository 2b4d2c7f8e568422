// Outputs of a cast: its room, recording and pushes, with their states. Pushes can be added and removed.

import { castPath, post, remove } from "./api.js";
import { button, confirmAction, h, openDialog, runAction, showMessage, stateLabel } from "./dom.js";
import { isWebAddress, plural, visibleLines, words } from "./format.js";

const LEVELS = { running: "good", connecting: "starting", recovering: "warn", failed: "bad", idle: "ended", disconnecting: "ended" };

function outputLine(name, state, details, ...actions) {
  const label = stateLabel(LEVELS[state] || "ended");
  label.setState(LEVELS[state] || "ended", words(state) || "waiting");
  return h("li", null, h("span", { class: "name" }, name), h("span", { class: "inline" }, label, actions),
    details.filter(Boolean).map((detail) => h("span", { class: "detail" }, visibleLines(detail))));
}

/** The list of outputs; `changed` gets the cast of an answer. A reader who may not change it has no buttons. */
export function outputsList(cast, { changed, mayChange }) {
  const lines = [];
  const { room, recording } = cast;
  const ended = cast.state === "ended";
  if (room) {
    const watch = isWebAddress(room.watch_url) && !ended && h("a", { class: "link", href: room.watch_url, target: "_blank", rel: "noopener" }, "Open");
    const viewers = ended || room.viewers === undefined || room.viewers === null ? "" : plural(room.viewers, "viewer");
    lines.push(outputLine(`Room ${room.room}`, ended ? "idle" : room.state, [viewers, room.error], watch));
  }
  if (recording) {
    const stored = recording.stored;
    const state = stored ? (stored.complete ? "running" : "failed") : recording.upload_error ? "recovering" : cast.state === "live" ? "running" : "idle";
    const line = outputLine(`Recording ${recording.name}`, state, [`${recording.format}${recording.to ? ` to ${recording.to}` : ""}`, recording.upload_error, stored && stored.error]);
    const word = stored ? (stored.complete ? "stored" : "incomplete") : recording.stopped ? "stopped" : recording.upload_error ? "upload failing" : cast.state === "live" ? "recording" : "waiting";
    line.querySelector(".word").textContent = word;
    lines.push(line);
  }
  for (const push of cast.pushes) {
    const removable = mayChange && !ended && push.state !== "disconnecting";
    const action = removable && h("button", {
      type: "button", class: "button small plain", "aria-label": `Remove push ${push.id}`, on: { click: (event) => removePush(event.currentTarget, cast, push, changed) },
    }, "Remove");
    lines.push(outputLine(`Push ${push.id}`, ended ? "idle" : push.state, [push.url, push.error], action));
  }
  const add = mayChange && !ended && button("Add push", () => openAdd(cast, changed), { kind: "small", icon: "start" });
  return h("section", { "aria-label": "Outputs" }, h("div", { class: "section-head" }, h("h2", null, "Outputs"), add), h("ul", { class: "outputs-list" }, lines));
}

function openAdd(cast, changed) {
  const problem = h("p", { class: "error", role: "alert", id: "push-problem" });
  const url = h("input", { id: "push-url", type: "text", required: true, autocomplete: "off", spellcheck: "false", placeholder: "rtmp://live.example.com/app/key", "aria-describedby": "push-problem" });
  const submit = h("button", { type: "submit", class: "button primary" }, "Add push");
  const form = h("form", { class: "dialog-body" },
    h("div", { class: "field" }, h("label", { for: "push-url" }, "Server"), url, h("p", { class: "help" }, "rtmp://HOST/APPLICATION/KEY, rtmps://… or srt://HOST:PORT?…")),
    problem, h("div", { class: "actions end" }, button("Cancel", () => dialog.close()), submit));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      changed(await post(castPath(cast.id, "pushes"), { url: url.value.trim() }));
      dialog.close();
      showMessage("The push is being added.");
    } catch (error) {
      problem.textContent = error.message;
      url.setAttribute("aria-invalid", "true");
    } finally {
      submit.disabled = false;
    }
  });
  const dialog = openDialog("Add a push", form);
  url.focus();
}

/** Removes a push by its number. */
async function removePush(control, cast, push, changed) {
  const text = `${push.url} gets no more of this cast.`;
  if (!(await confirmAction({ title: `Remove push ${push.id}?`, text, action: "Remove push", dangerous: true }))) return;
  const answer = await runAction(control, () => remove(castPath(cast.id, "pushes", push.id)));
  if (!answer) return;
  changed(answer);
  showMessage("The push is being removed.");
}
