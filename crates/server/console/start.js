// The form that starts a cast, made from the schema of the request.

import { get, post, readOpenApi, castPath } from "./api.js";
import { castStream } from "./cast_stream.js";
import { checkButton, CheckPanel } from "./check.js";
import { asCurl, hiddenFields, requestLike } from "./cast_request.js";
import { button, copyText, emptyState, errorLine, h, setText, showMessage, whileDisabled } from "./dom.js";
import { address, go } from "./router.js";
import { createControl, partsOf } from "./schema_form.js";

const SIZES = [["720p", 1280, 720], ["1080p", 1920, 1080], ["1440p", 2560, 1440], ["Portrait", 720, 1280], ["Square", 1080, 1080]];
const RATES = [15, 25, 30, 60];

/** Fields in front, and groups of the others. What no group names is in the last one, so new fields appear by themselves. */
const FRONT = ["app", "url", "width", "height", "fps", "max_time_s", "recording", "room", "pushes"];
const GROUPS = [
  { title: "Page", hint: "when it is ready, how it appears, what is injected", fields: ["ready", "locale", "timezone", "color_scheme", "mobile", "scale_factor", "user_agent", "css", "script"] },
  { title: "Access", hint: "headers, cookies, passwords, certificates", fields: ["headers", "cookies", "basic_auth", "tls"] },
  { title: "Time and place", hint: "length, queue, nodes", fields: ["duration_s", "queue_timeout_s", "placement"] },
  { title: "Quality and health", hint: "bitrate, checks of the page", fields: ["bitrate_kbps", "checks"] },
  { title: "Callbacks", hint: "who gets the events", fields: ["callback"] },
  { title: "More", hint: "", fields: [] },
];

/** The request of a cast: as it was made, or else as far as the API shows it. */
async function readRequest(id) {
  const [cast, made] = await Promise.all([get(castPath(id)), get(castPath(id, "request")).catch(() => null)]);
  const complete = Boolean(made && made.request) && made.api === "v1";
  return { id, complete, body: complete ? { app: cast.app, ...made.request } : requestLike(cast) };
}

export function mount(outlet, context) {
  return new StartView(outlet, context);
}

class StartView {
  #closed = false;

  constructor(outlet, { session, query }) {
    this.session = session;
    this.outlet = outlet;
    this.query = query;
    outlet.append(h("section", { class: "sheet" }, h("p", { class: "loading" }, "Loading")));
    this.#load();
  }

  unmount() {
    this.#closed = true;
    if (this.check) this.check.close();
  }

  async #load() {
    try {
      const administrator = this.session.role === "administrator";
      const [api, list, original] = await Promise.all([
        readOpenApi(),
        administrator ? get("/v1/applications") : { applications: [] },
        this.query.from ? readRequest(this.query.from).catch(() => null) : null,
      ]);
      if (this.#closed) return;
      this.apps = list.applications.map((application) => application.name);
      if (administrator && !this.apps.length) this.#showNoApplication();
      else this.#build(api, original);
    } catch (error) {
      if (!this.#closed) this.outlet.replaceChildren(h("section", { class: "sheet" }, errorLine(error), h("div", null, button("Try again", () => this.#load()))));
    }
  }

  #showNoApplication() {
    this.outlet.replaceChildren(emptyState("There is no application yet", "Casts belong to an application. Create one first.",
      h("a", { class: "button primary", href: address("/applications") }, "Applications")));
  }

  #build(api, original) {
    const { properties, required = [] } = api.components.schemas.CreateCastRequest;
    const changed = () => this.#preview();
    this.controls = new Map(Object.entries(properties).filter(([name]) => name !== "app").map(([name, schema]) =>
      [name, createControl(api, name, schema, { required: required.includes(name), changed, bare: ["recording", "room"].includes(name) })]));
    this.app = h("select", { id: "start-app", on: { change: changed } }, this.apps.map((name) => h("option", { value: name }, name)));
    this.problem = h("p", { class: "error", role: "alert", tabindex: "-1" });
    this.code = h("pre", { class: "code", tabindex: "0", "aria-label": "Request as curl" });
    this.submit = h("button", { type: "submit", class: "button primary" }, "Start the cast");
    const form = h("form", { class: "form", novalidate: true, on: { submit: (event) => this.#submit(event) } },
      this.#front(), this.#groups(), this.problem, h("div", { class: "actions" }, this.submit));
    this.outlet.replaceChildren(h("section", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, original ? "Start again" : "Start a cast"), this.hint = h("p", { class: "meta" }, "A page, and at least one output."))),
      h("div", { class: "form-layout" }, form,
        h("aside", { class: "aside", "aria-label": "Request" },
          h("div", { class: "section-head" }, h("h2", null, "As curl"), button("Copy", () => copyText(this.code.textContent, "Command"), { kind: "small", icon: "copy" })), this.code))));
    if (original) this.#fill(original);
    this.#preview();
    this.controls.get("url").focus();
  }

  #front() {
    const control = (name) => this.controls.get(name).element;
    const { url, width, height, fps } = Object.fromEntries(this.controls);
    url.element.classList.add("wide");
    const sizes = h("div", { class: "choice", role: "group", "aria-label": "Size presets" }, SIZES.map(([label, w, ht]) =>
      h("button", { type: "button", data: { size: `${w}x${ht}` }, on: { click: () => {
        width.write(w);
        height.write(ht);
        this.#preview();
      } } }, label)));
    const rates = h("div", { class: "choice", role: "group", "aria-label": "Frame rate presets" }, RATES.map((rate) =>
      h("button", { type: "button", data: { rate }, on: { click: () => {
        fps.write(rate);
        this.#preview();
      } } }, `${rate} fps`)));
    this.presets = [...sizes.children, ...rates.children];
    this.check = new CheckPanel();
    this.checkButton = checkButton(() => this.#checkPage());
    const app = this.session.role === "administrator" && h("div", { class: "field" }, h("label", { for: "start-app" }, "Application *"), this.app,
      h("p", { class: "help" }, "It owns the cast: its quota, storage and callbacks apply."));
    this.outputs = { recording: this.#output("recording", "Recording", true), room: this.#output("room", "Room", false) };
    return h("div", { class: "form" },
      h("div", { class: "url-line" }, url.element, this.checkButton), this.check.status, this.check.element,
      h("div", { class: "fields" }, app, control("max_time_s")),
      h("div", { class: "inline" }, sizes, rates),
      h("div", { class: "fields three" }, control("width"), control("height"), control("fps")),
      this.outputs.recording.element, this.outputs.room.element, control("pushes"));
  }

  /** An output that can be switched on: its fields are shown then. */
  #output(name, label, on) {
    const control = this.controls.get(name);
    const body = h("div", { class: "sub" }, control.element);
    const input = h("input", { type: "checkbox", id: `output-${name}`, checked: on });
    const update = () => {
      body.hidden = !input.checked;
      control.required = input.checked;
    };
    input.addEventListener("change", () => {
      update();
      this.#preview();
      if (input.checked) control.focus();
    });
    update();
    const help = name === "recording" ? "Files of picture and sound in the application’s storage." : "A WebRTC room that people watch live.";
    return { input, update, element: h("div", { class: "form" },
      h("div", { class: "field check" }, input, h("label", { for: input.id }, label), h("p", { class: "help" }, help)), body) };
  }

  #groups() {
    const named = new Set([...FRONT, ...GROUPS.flatMap((group) => group.fields)]);
    const rest = [...this.controls.keys()].filter((name) => !named.has(name));
    this.groups = GROUPS.map((group) => ({ ...group, fields: group.fields.length ? group.fields.filter((name) => this.controls.has(name)) : rest })).filter((group) => group.fields.length);
    return h("div", null, this.groups.map((group) => {
      group.chip = h("span", { class: "chip good", hidden: true });
      return h("details", { class: "group" }, h("summary", null, h("b", null, group.title), h("span", null, group.hint), group.chip),
        h("div", { class: "fields" }, group.fields.map((name) => this.controls.get(name).element)));
    }));
  }

  /** Fills the form with a cast's request. */
  #fill({ id, body, complete }) {
    const hidden = complete ? [] : hiddenFields(body);
    for (const [name, value] of Object.entries(body)) if (this.controls.has(name)) this.controls.get(name).write(value);
    for (const name of ["recording", "room"]) {
      this.outputs[name].input.checked = Boolean(body[name]);
      this.outputs[name].update();
    }
    if (this.apps.includes(body.app)) this.app.value = body.app;
    const more = complete ? (JSON.stringify(body).includes("…") ? ": put the secrets in place of “…”" : "")
      : `, without what the API does not show${hidden.length ? `: fill in ${hidden.join(" and ")}` : ": secrets, scripts, headers and checks"}`;
    setText(this.hint, `Like ${id}${more}.`);
    for (const [name, control] of this.controls) {
      if (body[name] === undefined) continue;
      control.check();
      const group = JSON.stringify(body[name]).includes("…") && control.element.closest("details");
      if (group) group.open = true;
    }
  }

  #body() {
    const body = {};
    if (this.session.role === "administrator") body.app = this.app.value;
    for (const [name, control] of this.controls) {
      const output = this.outputs[name];
      if (output && !output.input.checked) continue;
      const value = control.read();
      if (value !== undefined) body[name] = value;
    }
    return body;
  }

  #preview() {
    const body = this.#body();
    setText(this.code, asCurl("POST", "/v1/casts", body));
    for (const preset of this.presets) {
      const { size, rate } = preset.dataset;
      const chosen = size ? size === `${body.width || 1280}x${body.height || 720}` : Number(rate) === (body.fps || 30);
      preset.setAttribute("aria-pressed", String(chosen));
    }
    for (const group of this.groups) {
      const count = group.fields.filter((name) => body[name] !== undefined).length;
      group.chip.hidden = !count;
      setText(group.chip, `${count} set`);
    }
    this.check.compare(this.#checkBody());
    if (body.recording || body.room || body.pushes) setText(this.problem, "");
  }

  /** What a check opens: the page as the cast would, without outputs. */
  #checkBody() {
    const { recording, room, pushes, callback, ...body } = this.#body();
    return body;
  }

  /** Opens the page once on a node, and shows what it saw. */
  async #checkPage() {
    setText(this.problem, "");
    if (!this.#check({ outputs: false })) return;
    try {
      await whileDisabled(this.checkButton, () => this.check.run(this.#checkBody()));
    } catch (error) {
      if (!this.#closed) this.#showProblem(error);
    }
    if (!this.#closed) this.#preview();
  }

  /** Checks all fields, or those that are about the page; the first one with a problem gets the focus. */
  #check({ outputs = true } = {}) {
    let first = null;
    for (const [name, control] of this.controls) {
      const output = this.outputs[name];
      if (output ? !outputs || !output.input.checked : !outputs && ["pushes", "callback"].includes(name)) continue;
      if (!control.check() && !first) first = control;
    }
    const address = this.controls.get("url");
    const url = address.read();
    if (url && !/^https?:\/\/[^/]/i.test(url)) address.show("The address must begin with http:// or https://.");
    if (url && address.problem.textContent) first = address;
    if (first) {
      first.focus();
      const invalid = first.element.querySelector("[aria-invalid]");
      if (invalid) invalid.focus();
    }
    return !first;
  }

  async #submit(event) {
    event.preventDefault();
    setText(this.problem, "");
    if (!this.#check()) return;
    const body = this.#body();
    if (!body.recording && !body.room && !body.pushes) {
      setText(this.problem, "Choose an output: a recording, a room or a push.");
      this.outputs.recording.input.focus();
      return;
    }
    this.submit.disabled = true;
    try {
      const cast = await post("/v1/casts", body);
      castStream.put(cast);
      showMessage("The cast is queued.");
      go(address(`/casts/${cast.id}`));
    } catch (error) {
      this.#showProblem(error);
    } finally {
      this.submit.disabled = false;
    }
  }

  /** Shows an error of the server beside its field. */
  #showProblem(error) {
    const [name, ...rest] = partsOf(error.field);
    const control = this.controls.get(name);
    if (!control) {
      setText(this.problem, error.message);
      return;
    }
    const found = control.find(rest);
    found.show(error.message);
    found.focus();
  }
}
