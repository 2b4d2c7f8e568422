// Controls made from a schema. A control has `element`, `read()` (undefined when empty), `write(value)`,
// `check()` (whether it is valid; problems are shown) and `find(path)` for the errors of the server.

import { button, h, iconButton, setText } from "./dom.js";
import { describe, labelOf, problemOf, rangeOf, resolve, typeOf } from "./schema.js";

/** Fields with texts of several lines. */
const LONG_TEXTS = ["script", "css", "ca"];
/** Fields that are not shown while typing. */
const SECRETS = ["password", "secret", "secret_key", "session_token", "token", "credential"];

/** Fields of an object that are in front; the others can be opened. Objects that are not here show all. */
const FRONT_FIELDS = { recording: ["format", "name"], room: ["room", "user"] };

/** What the API shows in place of a secret. */
const HIDDEN = "…", HIDDEN_TEXT = "Replace “…” by what is hidden there.";

let lastId = 0;

/** Default of a field as text: the schema's, or the one in the description. */
function standardOf(schema) {
  if (schema.default !== undefined && schema.default !== null) return String(schema.default);
  const found = /Default (?:is )?(\d+)\b/.exec(schema.description || "");
  return found ? found[1] : null;
}

/** A control for a field. `changed` is called after each change. */
export function createControl(api, name, schema, { required = false, changed, label, bare = false }) {
  const resolved = resolve(api, schema);
  const context = { api, name, schema: resolved, required, changed, bare, label: label || labelOf(name) };
  const type = typeOf(resolved);
  if (resolved.oneOf) return new VariantControl(context);
  if (resolved.enum) return new EnumControl(context);
  if (type === "boolean") return new BooleanControl(context);
  if (type === "array") return typeOf(resolve(api, resolved.items)) === "object" ? new ListControl(context) : new WordsControl(context);
  if (type === "object") return resolved.properties ? new ObjectControl(context) : new PairsControl(context);
  return new TextControl(context);
}

/** What all controls share: label, help, and the line for a problem. */
class Control {
  constructor({ api, name, schema, required, changed, label, bare }) {
    Object.assign(this, { api, name, schema, required, changed, label, bare });
    lastId += 1;
    this.id = `field-${lastId}`;
    this.problem = h("p", { class: "problem", id: `${this.id}-problem`, "aria-live": "polite" });
  }

  help() {
    const { schema } = this;
    const parts = [describe(schema)];
    const known = parts[0].toLowerCase();
    const range = schema.enum ? "" : rangeOf(schema);
    if (range && !known.includes(" to ") && !known.includes("at most")) parts.push(`${range.charAt(0).toUpperCase()}${range.slice(1)}.`);
    if (schema.default !== undefined && schema.default !== null && !known.includes("default") && typeof schema.default !== "object") {
      parts.push(`Default ${schema.default === true ? "on" : schema.default === false ? "off" : schema.default}.`);
    }
    return parts.filter(Boolean).join(" ");
  }

  frame(input, kind = "") {
    input.id = this.id;
    input.setAttribute("aria-describedby", `${this.id}-help ${this.id}-problem`);
    if (this.bare) {
      input.setAttribute("aria-label", this.label);
      return h("div", { class: `field ${kind}` }, input, this.problem);
    }
    return h("div", { class: `field ${kind}` },
      h("label", { for: this.id }, this.label, this.required ? " *" : ""), input, this.problem, h("p", { class: "help", id: `${this.id}-help` }, this.help()));
  }

  /** Shows a problem; an empty text removes it. */
  show(text) {
    setText(this.problem, text);
    if (this.input) {
      if (text) this.input.setAttribute("aria-invalid", "true");
      else this.input.removeAttribute("aria-invalid");
    }
    return !text;
  }

  find() {
    return this;
  }

  focus() {
    for (let at = this.element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    (this.input || this.element.querySelector("input, select, textarea, button") || this.element).focus();
  }
}

class TextControl extends Control {
  constructor(context) {
    super(context);
    const type = typeOf(this.schema);
    this.numeric = type === "integer" || type === "number";
    const long = LONG_TEXTS.includes(this.name);
    const secret = SECRETS.includes(this.name) || this.schema.writeOnly;
    const placeholder = this.schema.example || standardOf(this.schema);
    this.input = h(long ? "textarea" : "input", {
      type: long ? null : secret ? "password" : "text", inputmode: this.numeric ? "decimal" : null, autocomplete: secret ? "new-password" : "off", spellcheck: "false", placeholder,
    });
    this.input.addEventListener("input", () => {
      this.check(false);
      this.changed();
    });
    this.input.addEventListener("blur", () => this.input.value && this.check());
    this.element = this.frame(this.input, long ? "wide" : "");
  }

  read() {
    const text = LONG_TEXTS.includes(this.name) ? this.input.value : this.input.value.trim();
    if (text === "") return undefined;
    return this.numeric ? Number(text.replace(",", ".")) : text;
  }

  write(value) {
    this.input.value = value === undefined || value === null ? "" : String(value);
    this.show("");
  }

  /** Checks the value; while the reader types, an empty or a short text is no problem yet. */
  check(complete = true) {
    const value = this.read();
    if (value === undefined) return this.show(complete && this.required ? "This field is needed." : "");
    if (!this.api.keepsHidden && typeof value === "string" && (value === HIDDEN || (this.name === "url" && value.includes(HIDDEN)))) return this.show(HIDDEN_TEXT);
    return this.show(problemOf(this.schema, value));
  }
}

class EnumControl extends Control {
  constructor(context) {
    super(context);
    const standard = this.schema.default;
    // Also a required field can be empty: its optional object is then left out.
    const first = h("option", { value: "" }, this.required ? "–" : standard !== undefined && standard !== null ? `Default: ${standard}` : "Default");
    this.input = h("select", { on: { change: () => this.changed() } }, first, this.schema.enum.map((value) => h("option", { value }, value)));
    this.element = this.frame(this.input);
  }

  read() {
    return this.schema.enum.find((value) => String(value) === this.input.value);
  }

  write(value) {
    this.input.value = value ?? "";
  }

  check() {
    return this.show(this.required && !this.input.value ? "This field is needed." : "");
  }
}

class BooleanControl extends Control {
  constructor(context) {
    super(context);
    this.input = h("input", { type: "checkbox", checked: this.schema.default === true, on: { change: () => this.changed() } });
    this.element = this.frame(this.input, "check");
  }

  read() {
    return this.input.checked === (this.schema.default === true) ? undefined : this.input.checked;
  }

  write(value) {
    this.input.checked = value === undefined || value === null ? this.schema.default === true : Boolean(value);
  }

  check() {
    return this.show("");
  }
}

/** A list of words: one in each line. */
class WordsControl extends Control {
  constructor(context) {
    super(context);
    this.input = h("textarea", { spellcheck: "false", placeholder: "One in each line", on: { input: () => this.changed() } });
    this.element = this.frame(this.input);
  }

  read() {
    const list = this.input.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return list.length || this.required ? list : undefined;
  }

  write(value) {
    this.input.value = (value || []).join("\n");
  }

  check() {
    const list = this.read() || [];
    const { maxItems = Infinity, minItems = 0 } = this.schema;
    if (this.required && !list.length) return this.show("This field is needed.");
    return this.show(list.length > maxItems ? `At most ${maxItems} are allowed.` : list.length && list.length < minItems ? `At least ${minItems} are needed.` : "");
  }
}

/** Names and values, such as headers. */
class PairsControl extends Control {
  #rows = [];

  constructor(context) {
    super(context);
    this.list = h("div", { class: "form" });
    this.add = button("Add", () => this.#append("", "").focus(), { kind: "small", icon: "start" });
    this.element = h("div", { class: "field wide", role: "group", "aria-label": this.label },
      h("span", { class: "label" }, this.label), this.list, h("div", null, this.add), this.problem, h("p", { class: "help" }, this.help()));
  }

  #append(name, value) {
    const input = (label, text) => h("input", { type: "text", value: text, "aria-label": label, placeholder: label, autocomplete: "off", spellcheck: "false", on: { input: () => this.changed() } });
    const row = { name: input("Name", name), value: input("Value", value) };
    const drop = iconButton("Remove", "close", () => {
      this.#rows.splice(this.#rows.indexOf(row), 1);
      row.element.remove();
      this.changed();
    });
    row.element = h("div", { class: "item pair" }, row.name, row.value, drop);
    this.#rows.push(row);
    this.list.append(row.element);
    return row.name;
  }

  read() {
    const pairs = this.#rows.filter((row) => row.name.value.trim()).map((row) => [row.name.value.trim(), row.value.value]);
    return pairs.length ? Object.fromEntries(pairs) : undefined;
  }

  write(value) {
    this.#rows = [];
    this.list.replaceChildren();
    for (const [name, text] of Object.entries(value || {})) this.#append(name, text);
  }

  check() {
    const names = this.#rows.map((row) => row.name.value.trim()).filter(Boolean);
    if (!this.api.keepsHidden && this.#rows.some((row) => row.value.value === HIDDEN)) return this.show(HIDDEN_TEXT);
    return this.show(new Set(names).size < names.length ? "A name is there twice." : "");
  }
}

const isEmptyObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !Object.keys(value).length;

/** Fields of an object. An optional object is left out while all its fields are empty. */
export class ObjectControl extends Control {
  constructor(context) {
    super(context);
    const { properties, required = [] } = this.schema;
    // Required fields come first, in the order of the API; its description sorts the others by name.
    const place = (name) => (required.includes(name) ? required.indexOf(name) : required.length);
    const ordered = Object.entries(properties).sort(([a], [b]) => place(a) - place(b));
    this.controls = new Map(ordered.map(([name, schema]) =>
      [name, createControl(context.api, name, schema, { required: required.includes(name), changed: () => this.changed() })]));
    const front = FRONT_FIELDS[this.name];
    const elements = (wanted) => [...this.controls].filter(([name]) => wanted(name)).map(([, control]) => control.element);
    const shown = elements((name) => !front || front.includes(name));
    const more = front && elements((name) => !front.includes(name));
    this.element = h("fieldset", { class: "field wide", "aria-label": this.label },
      this.bare ? null : h("span", { class: "label" }, this.label), this.bare ? null : h("p", { class: "help" }, this.help()),
      h("div", { class: this.bare ? "fields" : "fields sub-fields" }, shown),
      more && h("details", { class: "more" }, h("summary", null, `More about the ${this.name}`), h("div", { class: "fields" }, more)), this.problem);
  }

  read() {
    const entries = [...this.controls].map(([name, control]) => [name, control.read()]).filter(([, value]) => value !== undefined && !(Array.isArray(value) && !value.length));
    // An object that is needed inside of this one is there also while it is empty.
    const filled = entries.some(([, value]) => !isEmptyObject(value));
    return filled ? Object.fromEntries(entries) : this.required ? {} : undefined;
  }

  write(value) {
    for (const [name, control] of this.controls) control.write(value ? value[name] : undefined);
    this.show("");
  }

  check() {
    this.show("");
    if (this.read() === undefined) {
      for (const control of this.controls.values()) control.show("");
      return true;
    }
    return [...this.controls.values()].map((control) => control.check()).every(Boolean);
  }

  find([name, ...rest]) {
    const control = this.controls.get(name);
    return control ? control.find(rest) : this;
  }
}

/** An object of one of several kinds, which its field `type` names. */
class VariantControl extends Control {
  constructor(context) {
    super(context);
    this.variants = new Map(this.schema.oneOf.map((schema) => {
      const { type, ...properties } = schema.properties;
      const [kind] = type.enum;
      const fields = { ...schema, properties, required: (schema.required || []).filter((name) => name !== "type") };
      return [kind, new ObjectControl({ ...context, schema: fields, required: true, bare: true })];
    }));
    this.input = h("select", { on: { change: () => {
      this.#show();
      this.changed();
    } } }, h("option", { value: "" }, "Default"), [...this.variants.keys()].map((kind) => h("option", { value: kind }, kind)));
    this.body = h("div", { class: "sub" });
    this.element = this.frame(this.input, "wide");
    this.element.append(this.body);
  }

  #show() {
    const variant = this.variants.get(this.input.value);
    this.body.replaceChildren(...(variant && variant.controls.size ? [variant.element] : []));
    this.body.hidden = !this.body.firstChild;
  }

  read() {
    const variant = this.variants.get(this.input.value);
    return variant ? { type: this.input.value, ...variant.read() } : undefined;
  }

  write(value) {
    this.input.value = (value && value.type) || "";
    for (const [kind, variant] of this.variants) variant.write(value && kind === value.type ? value : undefined);
    this.#show();
    this.show("");
  }

  check() {
    this.show("");
    const variant = this.variants.get(this.input.value);
    return !variant || variant.check();
  }

  find(path) {
    const variant = this.variants.get(this.input.value);
    return variant && path.length ? variant.find(path) : this;
  }
}

/** A list of objects, such as pushes. */
class ListControl extends Control {
  #items = [];

  constructor(context) {
    super(context);
    this.list = h("div", { class: "form" });
    const noun = this.name.replace(/_/g, " ").replace(/(?:es|s)$/, (end) => (this.name === "pushes" || end === "s" ? "" : end));
    this.add = button(`Add ${noun}`, () => this.#append(undefined).focus(), { kind: "small", icon: "start" });
    this.element = h("div", { class: "field wide", role: "group", "aria-label": this.label },
      h("span", { class: "label" }, this.label), this.list, h("div", null, this.add), this.problem, h("p", { class: "help" }, this.help()));
  }

  #append(value) {
    const control = createControl(this.api, this.name, this.schema.items, { required: true, changed: () => this.changed(), bare: true });
    control.write(value);
    const drop = iconButton("Remove", "close", () => {
      this.#items.splice(this.#items.indexOf(control), 1);
      control.row.remove();
      this.#count();
      this.changed();
    });
    control.row = h("div", { class: "item" }, control.element, drop);
    this.#items.push(control);
    this.list.append(control.row);
    this.#count();
    return control;
  }

  #count() {
    this.add.disabled = this.#items.length >= (this.schema.maxItems || Infinity);
  }

  read() {
    return this.#items.length ? this.#items.map((control) => control.read()) : undefined;
  }

  write(value) {
    this.#items = [];
    this.list.replaceChildren();
    for (const item of value || []) this.#append(item);
    this.#count();
  }

  check() {
    this.show("");
    return this.#items.map((control) => control.check()).every(Boolean);
  }

  find([index, ...rest]) {
    const control = this.#items[Number(index)];
    return control ? control.find(rest) : this;
  }
}

/** Parts of a field's path: `room.layers[0].width` is room, layers, 0, width. */
export const partsOf = (path) => path.split(/[.[\]]+/).filter(Boolean);
