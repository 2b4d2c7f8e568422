// Outputs of a cast: its room, recording and pushes, with their states. Pushes can be added and removed.

import { castPath, post, remove } from "./api.js";
import { button, confirmAction, h, openDialog, runAction, showMessage, stateLabel } from "./dom.js";
import { isWebAddress, plural, words } from "./format.js";

const LEVELS = { running: "good", connecting: "starting", recovering: "warn", failed: "bad", idle: "ended", disconnecting: "ended" };

function outputLine(name, state, details, ...actions) {
  const label = stateLabel(LEVELS[state] || "ended");
  label.setState(LEVELS[state] || "ended", words(state) || "waiting");
  return h("li", null, h("span", { class: "name" }, name), h("span", { class: "inline" }, label, actions),
    details.filter(Boolean).map((detail) => h("span", { class: "detail" }, detail)));
}

/** The list of outputs; `changed` gets the cast of an answer. */
export function outputsList(cast, changed) {
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
    const removable = !ended && push.state !== "disconnecting";
    const action = removable && h("button", {
      type: "button", class: "button small plain", "aria-label": `Remove push ${push.id}`, on: { click: (event) => removePush(event.currentTarget, cast, push, changed) },
    }, "Remove");
    lines.push(outputLine(`Push ${push.id}`, ended ? "idle" : push.state, [push.url, push.error], action));
  }
  const add = !ended && button("Add push", () => openAdd(cast, changed), { kind: "small", icon: "start" });
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

/** Removes a push. The API wants its full address, of which it shows no stream key: the reader fills it in. */
async function removePush(control, cast, push, changed) {
  if (!push.url.includes("…")) {
    const text = `${push.url} gets no more of this cast.`;
    if (!(await confirmAction({ title: `Remove push ${push.id}?`, text, action: "Remove", dangerous: true }))) return;
    await runAction(control, async () => changed(await remove(castPath(cast.id, "pushes"), { url: push.url })));
    return;
  }
  const problem = h("p", { class: "error", role: "alert" });
  const url = h("input", { id: "push-url", type: "text", value: push.url, autocomplete: "off", spellcheck: "false" });
  const submit = h("button", { type: "submit", class: "button danger" }, "Remove push");
  const form = h("form", { class: "dialog-body" },
    h("p", null, "Put the stream key in place of “…”: the service does not show it, and removes a push by its whole address."),
    h("div", { class: "field" }, h("label", { for: "push-url" }, "Address of the push"), url), problem,
    h("div", { class: "actions end" }, button("Cancel", () => dialog.close()), submit));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (url.value.includes("…")) {
      problem.textContent = "The address still has “…”.";
      return url.focus();
    }
    submit.disabled = true;
    try {
      changed(await remove(castPath(cast.id, "pushes"), { url: url.value.trim() }));
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      submit.disabled = false;
    }
    return undefined;
  });
  const dialog = openDialog(`Remove push ${push.id}`, form);
  url.focus();
}
