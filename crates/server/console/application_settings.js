// The settings of an application: as a form made from the schema, or as JSON.

import { applicationPath, put, readOpenApi } from "./api.js";
import { button, h, setText, showMessage } from "./dom.js";
import { createControl, partsOf } from "./schema_form.js";

/** Groups of the form. What no group names is in the last one, so new settings appear by themselves. */
const GROUPS = [
  { title: "Quotas", hint: "casts at once, limits of each", fields: ["max_casts", "max_history_mib", "limits"] },
  { title: "Network", hint: "what pages, pushes and callbacks may reach", fields: ["network", "ca"] },
  { title: "Callbacks", hint: "who gets the events", fields: ["callbacks"] },
  { title: "Storage", hint: "where recordings go", fields: ["storage"] },
  { title: "Rooms", hint: "whose rooms pages are published in", fields: ["room", "codec", "ice"] },
  { title: "Vendors’ APIs", hint: "ids by which they know the application", fields: ["app_id", "sdk_app_id"] },
  { title: "More", hint: "", fields: [] },
];

/** The block of settings in `element`. `saved` gets the application after a change. */
export class SettingsBlock {
  #form = null;
  #mode = "json";

  constructor({ application, fixed, saved }) {
    this.application = application;
    this.fixed = fixed;
    this.saved = saved;
    this.text = JSON.stringify(application.settings, null, 2);
    this.problem = h("p", { class: "error", role: "alert", id: "settings-problem" });
    this.area = h("textarea", { id: "settings", class: "settings", spellcheck: "false", value: this.text, rows: String(Math.min(40, this.text.split("\n").length + 1)), "aria-label": "Settings as JSON", "aria-describedby": "settings-help settings-problem", readonly: fixed });
    this.area.addEventListener("input", () => this.#changed());
    this.save = button("Save", () => this.#save(), { kind: "primary", disabled: true });
    this.reset = button("Undo changes", () => this.#undo(), { disabled: true });
    const modes = [["form", "Form"], ["json", "JSON"]];
    this.modes = h("div", { class: "choice small", role: "group", "aria-label": "Show as" }, modes.map(([mode, label]) =>
      h("button", { type: "button", data: { mode }, on: { click: () => this.#choose(mode) } }, label)));
    this.body = h("div", null, this.area);
    const reference = h("a", { class: "link", href: "/v1/reference", target: "_blank", rel: "noopener" }, "reference");
    this.element = h("section", { class: "block" }, h("header", null, h("h2", null, "Settings"), !fixed && this.modes),
      h("p", { class: "hint", id: "settings-help" }, "A secret shown as “…” keeps its value. What is empty has its default. All settings are in the ", reference, "."),
      this.body, this.problem, !fixed && h("div", { class: "actions" }, this.save, this.reset));
    this.#mark();
    if (!fixed) this.#choose("form");
  }

  async #choose(mode) {
    if (mode === "form") {
      try {
        const values = JSON.parse(this.area.value);
        this.#form ||= this.#build(await readOpenApi());
        for (const [name, control] of this.controls) control.write(values[name]);
      } catch (error) {
        if (error instanceof SyntaxError) setText(this.problem, `The form needs JSON without mistakes: ${error.message}`);
        return;
      }
    }
    this.#mode = mode;
    this.body.replaceChildren(mode === "form" ? this.#form : this.area);
    this.#mark();
  }

  #mark() {
    for (const control of this.modes.children) control.setAttribute("aria-pressed", String(control.dataset.mode === this.#mode));
  }

  #build(api) {
    const { properties } = api.components.schemas.ApplicationSettings;
    const changed = () => {
      this.area.value = JSON.stringify(this.#read(), null, 2);
      this.#changed();
    };
    // A secret that is shown as “…” may stay so.
    const source = { ...api, keepsHidden: true };
    this.controls = new Map(Object.entries(properties).map(([name, schema]) => [name, createControl(source, name, schema, { changed, bare: ["callbacks", "storage", "network"].includes(name) })]));
    const named = new Set(GROUPS.flatMap((group) => group.fields));
    const rest = [...this.controls.keys()].filter((name) => !named.has(name));
    return h("div", { class: "settings-form" }, GROUPS.map(({ title, hint, fields }) => {
      const names = fields.length ? fields.filter((name) => this.controls.has(name)) : rest;
      return names.length > 0 && h("details", { class: "group" }, h("summary", null, h("b", null, title), h("span", null, hint)), h("div", { class: "fields" }, names.map((name) => this.controls.get(name).element)));
    }));
  }

  #read() {
    return Object.fromEntries([...this.controls].map(([name, control]) => [name, control.read()]).filter(([, value]) => value !== undefined));
  }

  #changed() {
    let found = "";
    try {
      JSON.parse(this.area.value);
    } catch (error) {
      found = `This is not JSON yet: ${error.message}`;
    }
    setText(this.problem, found);
    if (found) this.area.setAttribute("aria-invalid", "true");
    else this.area.removeAttribute("aria-invalid");
    this.reset.disabled = this.area.value === this.text;
    this.save.disabled = this.area.value === this.text || Boolean(found);
  }

  #undo() {
    this.area.value = this.text;
    this.#changed();
    if (this.#mode === "form") this.#choose("form");
  }

  async #save() {
    if (this.#mode === "form") {
      const wrong = [...this.controls.values()].filter((control) => !control.check());
      if (wrong.length) return this.#focus(wrong[0]);
    }
    this.save.disabled = true;
    try {
      const application = await put(applicationPath(this.application.name), JSON.parse(this.area.value));
      if (!this.element.isConnected) return undefined;
      this.saved(application);
      showMessage("The settings are saved.");
    } catch (error) {
      this.#showProblem(error);
      this.save.disabled = false;
    }
    return undefined;
  }

  /** Opens where a control is, and goes to what is wrong in it. */
  #focus(control) {
    control.focus();
    const invalid = control.element.querySelector("[aria-invalid]");
    if (invalid) invalid.focus();
  }

  /** Shows an error of the server beside its setting. */
  #showProblem(error) {
    const parts = partsOf(error.field).filter((part) => part !== "settings");
    const control = this.#mode === "form" && this.controls.get(parts[0]);
    if (control) {
      const found = control.find(parts.slice(1));
      found.show(error.message);
      found.focus();
      return;
    }
    setText(this.problem, error.field ? `${error.field}: ${error.message}` : error.message);
    if (this.#mode === "json") selectField(this.area, error.field);
  }
}

/** Selects a setting in the text, so that the reader sees what an error is about. */
function selectField(area, field) {
  const name = field && partsOf(field).filter((part) => !/^\d+$/.test(part)).pop();
  const at = name ? area.value.indexOf(`"${name}"`) : -1;
  if (at < 0) return;
  area.focus();
  area.setSelectionRange(at, at + name.length + 2);
}
