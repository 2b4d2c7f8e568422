// The explorer of the vendors' APIs: calls that the server signs, and explanations of refused requests.

import { readExplorer, readKeys } from "./access_keys.js";
import { castPath, get, post } from "./api.js";
import { headerList, readableBody } from "./cast_delivery.js";
import { CodeTabs, LANGUAGES } from "./code_tabs.js";
import { button, copyText, emptyState, h, icon, setText, stateLabel, whileDisabled } from "./dom.js";
import { mountExplain } from "./explorer_explain.js";
import { formSchema } from "./explorer_schema.js";
import { setQuery } from "./router.js";
import { createControl, partsOf } from "./schema_form.js";

/** Longest call, in milliseconds: what the vendors' SDKs wait. */
const TIMEOUT_MS = 30000;

const VENDORS = { volcengine: "Volcengine", tencent: "Tencent" };

export function mount(outlet, context) {
  return new ExplorerView(outlet, context);
}

class ExplorerView {
  #closed = false;
  #generation = 0;

  constructor(outlet, { session, query }) {
    this.session = session;
    this.outlet = outlet;
    this.query = query;
    outlet.append(h("section", { class: "sheet" }, h("p", { class: "loading" }, "Loading")));
    this.#load();
  }

  update(query) {
    this.query = query;
    if (this.description) this.#show();
  }

  unmount() {
    this.#closed = true;
  }

  async #load() {
    try {
      const [description, apps] = await Promise.all([readExplorer(), this.#readApplications()]);
      if (this.#closed) return;
      this.description = description;
      this.apps = apps;
      this.#build();
    } catch (error) {
      if (!this.#closed) this.outlet.replaceChildren(emptyState("The explorer could not be read", error.message, button("Try again", () => this.#load())));
    }
  }

  async #readApplications() {
    if (this.session.role !== "administrator") return [this.session.app];
    return (await get("/v1/applications")).applications.map((application) => application.name);
  }

  #build() {
    const views = [["", "Call an action"], ["explain", "Explain a refused request"]];
    this.views = h("div", { class: "choice", role: "group", "aria-label": "What to do" }, views.map(([view, label]) =>
      h("button", { type: "button", data: { view }, on: { click: () => setQuery({ view }, { push: true }) } }, label)));
    this.actions = h("div", { class: "action-choice" }, Object.entries(VENDORS).map(([api, vendor]) => h("div", { class: "choice", role: "group", "aria-label": vendor },
      h("span", { class: "vendor" }, vendor), this.description.actions.filter((action) => action.api === api).map(({ action }) =>
        h("button", { type: "button", data: { action }, on: { click: () => setQuery({ action, from: "" }, { push: true }) } }, action)))));
    this.summary = h("p", { class: "hint" });
    this.app = h("select", { id: "explorer-app", on: { change: () => this.#showKeys() } }, this.apps.map((name) => h("option", { value: name }, name)));
    this.keyField = h("div", { class: "field" });
    this.fields = h("div", { class: "form" });
    this.problem = h("p", { class: "error", role: "alert", tabindex: "-1" });
    this.send = h("button", { type: "submit", class: "button primary" }, icon("send"), h("span", null, "Send the call"));
    this.sign = button("Only sign it", () => this.#call(false));
    const form = h("form", { class: "form", novalidate: true, on: { submit: (event) => {
      event.preventDefault();
      this.#call(true);
    } } }, this.actions, this.summary,
    h("div", { class: "fields" }, this.apps.length > 1 && h("div", { class: "field" }, h("label", { for: "explorer-app" }, "Application"), this.app), this.keyField),
    this.fields, this.problem, h("div", { class: "actions" }, this.send, this.sign, h("span", { class: "space" }), button("Fill with examples", () => this.#fillExamples(), { kind: "plain" })));
    this.result = h("div", { class: "form", "aria-label": "Result", role: "region" });
    this.callView = h("div", { class: "explorer-layout" }, form, this.result);
    this.explainView = h("div");
    this.outlet.replaceChildren(h("section", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, "Explorer"), h("p", { class: "meta" }, "The vendors’ APIs, tried from here. The server signs: the secret of a key never leaves it.")), this.views),
      this.callView, this.explainView));
    this.#showKeys();
    this.#show();
  }

  #show() {
    const explaining = this.query.view === "explain";
    for (const control of this.views.children) control.setAttribute("aria-pressed", String(control.dataset.view === (this.query.view || "")));
    this.callView.hidden = explaining;
    this.explainView.hidden = !explaining;
    if (explaining) {
      if (!this.explainView.firstChild) mountExplain(this.explainView);
      return;
    }
    const action = this.description.actions.find((entry) => entry.action === this.query.action) || this.description.actions[0];
    if (action && action !== this.action) this.#showAction(action);
  }

  #showAction(action) {
    this.action = action;
    this.#generation += 1;
    for (const control of this.actions.querySelectorAll("button")) control.setAttribute("aria-pressed", String(control.dataset.action === action.action));
    setText(this.summary, `${action.summary} Version ${action.version}.`);
    setText(this.problem, "");
    const changed = () => this.#preview();
    const schema = formSchema(action.parameters);
    this.controls = new Map(action.parameters.map((parameter) => {
      const { name, type, parameters = [] } = parameter;
      const group = !parameter.required && (parameters.length > 0 || type === "object");
      return [name, createControl({}, name, schema.properties[name], { required: parameter.required, changed, bare: group && type === "object", label: name })];
    }));
    const element = ({ name }) => this.controls.get(name).element;
    const isGroup = ({ required, type, parameters = [] }) => !required && (parameters.length > 0 || type === "object");
    const needed = action.parameters.filter(({ required }) => required);
    const rest = action.parameters.filter((parameter) => !parameter.required && !isGroup(parameter));
    this.groups = action.parameters.filter(isGroup).map((parameter) => {
      const chip = h("span", { class: "chip good", hidden: true }, "set");
      const details = h("details", { class: "group" }, h("summary", null, h("b", null, parameter.name), h("span", null, firstSentence(parameter.description)), chip), h("div", { class: "fields" }, element(parameter)));
      return { name: parameter.name, chip, details };
    });
    const optional = rest.length > 0 && h("details", { class: "group" }, h("summary", null, h("b", null, "Optional"), h("span", null, rest.map(({ name }) => name).join(", "))), h("div", { class: "fields" }, rest.map(element)));
    this.fields.replaceChildren(...[h("div", { class: "fields" }, needed.map(element)), h("div", null, optional || null, this.groups.map(({ details }) => details))].filter(Boolean));
    this.#preview();
    if (this.query.from) this.#fillFrom(this.query.from);
  }

  /** Fills the form with the request of a cast. */
  async #fillFrom(id) {
    const generation = this.#generation;
    try {
      const [cast, made] = await Promise.all([get(castPath(id)), get(castPath(id, "request"))]);
      if (generation !== this.#generation || this.#closed || !made.request || made.action !== this.action.action) return;
      if (this.apps.includes(cast.app)) this.app.value = cast.app;
      await this.#showKeys();
      for (const [name, control] of this.controls) {
        if (made.request[name] === undefined) continue;
        control.write(made.request[name]);
        control.check();
        const details = control.element.closest("details");
        if (details) details.open = true;
      }
      this.#preview();
    } catch (error) {
      if (!this.#closed) setText(this.problem, error.message);
    }
  }

  #fillExamples() {
    for (const { name, required, example } of this.action.parameters) {
      if (!required || example === undefined || example === null) continue;
      const control = this.controls.get(name);
      if (control.read() === undefined) control.write(example);
    }
    this.#preview();
  }

  async #showKeys() {
    const app = this.app.value || this.session.app;
    const keys = await readKeys(this.session, app).catch(() => []);
    if (this.#closed) return;
    this.key = keys.length
      ? h("select", { id: "explorer-key" }, keys.map((id) => h("option", { value: id }, id)))
      : h("input", { id: "explorer-key", type: "text", autocomplete: "off", spellcheck: "false" });
    this.keyField.replaceChildren(h("label", { for: "explorer-key" }, "Access key"), this.key,
      h("p", { class: "help" }, keys.length ? "It signs the call, on the server." : "This application has no key that is enabled: add one, or give the id of one."));
  }

  #parameters() {
    const entries = [...this.controls].map(([name, control]) => [name, control.read()]).filter(([, value]) => value !== undefined);
    return Object.fromEntries(entries);
  }

  #preview() {
    const parameters = this.#parameters();
    for (const { name, chip } of this.groups) chip.hidden = parameters[name] === undefined;
    setText(this.problem, "");
    if (this.answered) return;
    this.preview ||= h("pre", { class: "code", tabindex: "0", "aria-label": "Parameters as JSON" });
    setText(this.preview, JSON.stringify(parameters, null, 2));
    if (this.preview.parentElement !== this.result) this.result.replaceChildren(h("div", { class: "section-head" }, h("h2", null, "Parameters")), this.preview, h("p", { class: "hint" }, "The signed request, the answer and the same call as code appear here."));
  }

  async #call(send) {
    setText(this.problem, "");
    const parameters = this.#parameters();
    const wrong = [...this.controls.values()].filter((control) => !control.check());
    // What is wrong may be what the reader wants to try: only a hidden secret is never sent.
    if (send && wrong.length && JSON.stringify(parameters).includes("…")) return wrong[0].focus();
    const body = { app: this.app.value || this.session.app, key: this.key.value.trim(), action: this.action.action, parameters, send };
    if (!body.key) delete body.key;
    try {
      const answer = await whileDisabled(this.sign, () => whileDisabled(this.send, () => post("/v1/explorer/call", body, { timeoutMs: TIMEOUT_MS })));
      if (!this.#closed) this.#showResult(answer);
    } catch (error) {
      if (!this.#closed) this.#showProblem(error);
    }
    return undefined;
  }

  #showProblem(error) {
    const [first, ...path] = partsOf(error.field);
    const [name, ...rest] = first === "parameters" ? path : [];
    const control = this.controls.get(name);
    if (!control) {
      setText(this.problem, error.message);
      return;
    }
    const found = control.find(rest);
    found.show(error.message);
    found.focus();
  }

  #showResult({ request, canonical_request: canonical, string_to_sign: toSign, authorization, response, code }) {
    this.answered = true;
    this.code ||= new CodeTabs("Call as code");
    this.code.show(Object.entries(LANGUAGES).filter(([name]) => code[name]).map(([name, label]) => ({ name, label, text: code[name] })));
    const part = (title, hint, open, ...content) => h("details", { class: "group", open }, h("summary", null, h("b", null, title), h("span", null, hint)), h("div", { class: "form part" }, content));
    this.result.replaceChildren(h("div", { class: "section-head" }, h("h2", null, this.action.action), button("Close", () => this.#clear(), { kind: "small plain" })), h("div", null,
      part("Answer", response ? "" : "the call was only signed", true, response ? answer(response) : h("p", { class: "hint" }, "Nothing was sent.")),
      part("Request", `${request.method} with ${Object.keys(request.headers).length} headers`, !response, h("p", { class: "mono request-line" }, h("b", null, request.method), " ", h("bdi", null, request.url)), headerList(request.headers),
        request.body && copyable("Body", readableBody(request.body))),
      part("Signature", "how it is made, step by step", !response, copyable("1. Canonical request", canonical), copyable("2. String to sign", toSign), copyable("3. Authorization", authorization)),
      part("Code", "the same call", true, this.code.element)));
    if (matchMedia("(max-width: 900px)").matches) this.result.scrollIntoView({ block: "start" });
  }

  #clear() {
    this.answered = false;
    this.result.replaceChildren();
    this.#preview();
  }
}

const firstSentence = (text) => (text || "").replace(/`/g, "").split(/\.\s|\.$/)[0];

function answer({ status, headers, body }) {
  const state = stateLabel("good");
  state.setState(status < 400 ? "good" : "bad", `HTTP ${status}`);
  return [h("div", { class: "section-head" }, h("span", { class: "space" }, state), button("Copy", () => copyText(body, "Answer"), { kind: "small", icon: "copy" })),
    h("pre", { class: "code", tabindex: "0", "aria-label": "Answer" }, readableBody(body)),
    h("details", { class: "more" }, h("summary", null, "Headers"), headerList(headers))];
}

/** Text with a title and a button that copies it. */
export function copyable(title, text) {
  return h("div", { class: "code-tabs" }, h("div", { class: "section-head" }, h("h3", null, title), button("Copy", () => copyText(text, title), { kind: "small", icon: "copy" })),
    h("pre", { class: "code", tabindex: "0", "aria-label": title }, text));
}
