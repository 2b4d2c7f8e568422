// Where an application's callbacks and recordings go, with a test of each.

import { applicationPath, post } from "./api.js";
import { answerParts, messageParts } from "./cast_delivery.js";
import { button, h, openDialog, runAction } from "./dom.js";
import { words } from "./format.js";

/** Longest test, in milliseconds: a receiver or a bucket may be slow. */
const TIMEOUT_MS = 45000;

/** Settings of the receivers, and the APIs whose events they get. */
const RECEIVERS = [["native", "v1", "REST API"], ["volcengine", "volcengine", "Volcengine"], ["tencent", "tencent", "Tencent"]];
const STORAGES = [["default", "Recordings"], ["backup", "Backup"]];

const stateLine = (good, ...text) => h("span", { class: "state", data: { state: good ? "good" : "bad" } }, h("span", { class: "dot", "aria-hidden": "true" }), text);

/** A place with a button that tests it, and what came of it. `test` returns what is shown. */
function place(label, target, action, test) {
  const result = h("div", { class: "result", role: "status" });
  const run = (event) => runAction(event.currentTarget, async () => {
    result.replaceChildren(h("span", { class: "hint" }, "Testing"));
    try {
      result.replaceChildren(...await test());
    } catch (error) {
      result.replaceChildren(h("span", { class: "error" }, error.message));
    }
  });
  return h("li", null, h("div", { class: "name" }, h("span", null, label), h("span", { class: "detail" }, h("bdi", null, target))),
    action && h("button", { type: "button", class: "button small", "aria-label": `${action}: ${label}`, on: { click: run } }, action), result);
}

/** The block of callbacks. */
export function callbacksBlock({ name, settings }, mayOperate) {
  const receivers = RECEIVERS.filter(([key]) => settings.callbacks && settings.callbacks[key]);
  const test = (api, label) => async () => {
    const sent = await post(applicationPath(name, "callbacks", "test"), { api }, { timeoutMs: TIMEOUT_MS });
    const good = sent.status >= 200 && sent.status < 300 && !sent.error;
    const show = () => openDialog(`Test message, ${label}`, h("div", { class: "dialog-body" }, [...messageParts(sent), ...answerParts(sent)].filter(Boolean)), { wide: true });
    return [stateLine(good, h("span", null, sent.status ? `${sent.status} after ${sent.duration_ms} ms` : sent.error || "no answer")), button("Show", show, { kind: "small plain" })];
  };
  return h("section", { class: "block" }, h("header", null, h("h2", null, "Callbacks")),
    receivers.length
      ? h("ul", { class: "places" }, receivers.map(([key, api, label]) => place(label, settings.callbacks[key].url, mayOperate && "Send a test", test(api, label))))
      : h("p", { class: "hint" }, "There is no receiver. Set callbacks.native.url, or one for an API of a vendor; a request may name its own."));
}

/** The block of storage. */
export function storageBlock({ name, settings }, mayOperate) {
  const storage = settings.storage || {};
  const test = (key) => async () => {
    const { ok, steps } = await post(applicationPath(name, "storage", "test"), { storage: key }, { timeoutMs: TIMEOUT_MS });
    return [stateLine(ok, h("span", null, ok ? "It works" : "It does not work")), h("ul", { class: "steps" }, steps.map((step) =>
      h("li", { class: step.ok ? "good" : "bad" }, h("span", null, `${words(step.step)}, ${step.duration_ms} ms`), step.message && h("span", { class: step.ok ? "hint" : "error" }, step.message))))];
  };
  const places = STORAGES.filter(([key]) => storage[key]);
  return h("section", { class: "block" }, h("header", null, h("h2", null, "Storage")),
    places.length
      ? h("ul", { class: "places" }, places.map(([key, label]) => place(label, storage[key].to, mayOperate && "Test write", test(key))))
      : h("p", { class: "hint" }, "Recordings stay in the server’s folder. Set storage.default.to for a bucket; a request may name its own."));
}
