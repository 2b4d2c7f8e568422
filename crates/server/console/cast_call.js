// The tab of a cast with its request: as it was made, as a command, and as calls of the vendors' SDKs.

import { castPath, get, mayOperate, post } from "./api.js";
import { asCurl, hiddenFields, requestLike } from "./cast_request.js";
import { CodeTabs, LANGUAGES } from "./code_tabs.js";
import { button, copyText, h, icon, setText } from "./dom.js";
import { formatDuration } from "./format.js";
import { readKeys } from "./access_keys.js";
import { address } from "./router.js";

/** A tab in `element`; `show` gives it the cast. */
export class RequestTab {
  #request = null;
  #keys = [];
  #cast = null;

  constructor({ cast, session }) {
    this.session = session;
    this.#cast = cast;
    this.hint = h("p", { class: "hint" });
    this.tabs = new CodeTabs("Request");
    this.key = h("select", { id: "call-key", on: { change: () => this.#showCode() } });
    this.keyLine = h("div", { class: "inline", hidden: true }, h("label", { for: "call-key" }, "Access key"), this.key);
    this.links = h("span", { class: "actions" });
    this.facts = h("dl", { class: "facts" });
    this.raw = h("pre", { class: "code", tabindex: "0", "aria-label": "Cast as the API shows it" });
    const whole = h("details", { class: "group" }, h("summary", null, h("b", null, "As the API shows it"), h("span", null, "all fields, now")),
      h("div", { class: "form" }, h("div", null, button("Copy", () => copyText(this.raw.textContent, "Cast"), { kind: "small", icon: "copy" })), this.raw));
    whole.addEventListener("toggle", () => this.#showRaw());
    this.whole = whole;
    this.element = h("div", { class: "form" },
      h("div", { class: "section-head" }, h("h2", null, "Request as it was made"), this.links), this.hint, this.keyLine, this.tabs.element,
      h("h2", null, "What it asks for"), this.facts, whole);
    this.#read();
  }

  show(cast) {
    this.#cast = cast;
    const { source } = cast;
    const facts = [
      ["Page", source.url], ["Size", `${source.width} × ${source.height}, ${source.fps} fps${source.scale_factor === 1 ? "" : `, scale ${source.scale_factor}`}`],
      ["Bitrate", `${source.bitrate_kbps} kbit/s at most`], ["Longest time", formatDuration(1000 * cast.max_time_s)],
      ["Length", cast.duration_s ? formatDuration(1000 * cast.duration_s) : null], ["Labels", cast.placement && cast.placement.labels.join(", ")],
      ["Created", cast.created_at], ["Started", cast.started_at], ["Live", cast.live_at], ["Ended", cast.ended_at], ["Id", cast.id],
    ].filter(([, value]) => value);
    const text = JSON.stringify(facts);
    if (text !== this.factText) {
      this.factText = text;
      this.facts.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, h("bdi", null, value))]));
    }
    this.#showRaw();
  }

  #showRaw() {
    if (this.whole.open) setText(this.raw, JSON.stringify(this.#cast, null, 2));
  }

  async #read() {
    const { id, app } = this.#cast;
    const made = await get(castPath(id, "request")).catch((error) => ({ request: null, error }));
    if (made.request) {
      this.#request = made;
    } else {
      // A cast of an older version has no request: what the API shows of it is close.
      const body = requestLike(this.#cast);
      const hidden = hiddenFields(body);
      this.#request = { api: "v1", action: "createCast", request: body };
      setText(this.hint, `${made.error ? made.error.message : "It was not kept."} This one is made from what the API shows, without secrets, scripts, headers and checks.${hidden.length ? ` Fill in ${hidden.join(" and ")}.` : ""}`);
    }
    if (this.#request.api !== "v1" && mayOperate(this.session)) this.#keys = await readKeys(this.session, app).catch(() => []);
    this.key.replaceChildren(...this.#keys.map((name) => h("option", { value: name }, name)));
    this.#showLinks();
    this.#showCode();
  }

  #showLinks() {
    const { api, action } = this.#request;
    const id = this.#cast.id;
    const again = api === "v1" ? ["/start", { from: id }] : ["/explorer", { action, from: id }];
    const text = api === "v1" ? "Start again" : "Open in the explorer";
    this.links.replaceChildren(...(mayOperate(this.session) ? [h("a", { class: "button small", href: address(...again) }, icon("again"), h("span", null, text))] : []));
  }

  #showCode() {
    const { api, action, request } = this.#request;
    const json = { name: "json", label: "JSON", text: JSON.stringify(request, null, 2) };
    if (!this.hint.textContent) {
      const origin = api === "v1" ? "By the REST API" : `By ${action} of the ${api} API`;
      setText(this.hint, `${origin}.${json.text.includes("…") ? " Secrets are shown as “…”." : ""}`);
    }
    if (api === "v1") {
      this.tabs.show([{ name: "curl", label: "curl", text: asCurl("POST", "/v1/casts", request) }, json]);
      return;
    }
    this.keyLine.hidden = this.#keys.length < 2;
    const key = this.key.value;
    let call;
    // One answer has the code in all languages.
    const read = () => (call ||= post("/v1/explorer/call", { app: this.#cast.app, key, action, parameters: request, send: false }));
    const languages = Object.entries(LANGUAGES).map(([name, label]) => ({ name, label, text: async () => (await read()).code[name] || "" }));
    this.tabs.show(key ? [json, ...languages] : [json]);
  }
}
