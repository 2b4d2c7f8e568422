// The same thing in several languages: one is shown, and can be copied.

import { button, copyText, h, setText } from "./dom.js";

/** Names of the languages in which the API writes a call. */
export const LANGUAGES = { python: "Python", node: "Node.js", go: "Go", java: "Java", cli: "pagecast call" };

let chosen = "";

/**
 * A block of code with a choice of languages: `[{ name, label, text }]`, where `text` may be a function that
 * returns a promise. The language that was chosen last is chosen first.
 */
export class CodeTabs {
  #list = [];
  #shown = "";

  constructor(label) {
    this.choice = h("div", { class: "choice", role: "group", "aria-label": `${label}, language` });
    this.code = h("pre", { class: "code", tabindex: "0", "aria-label": label });
    this.copy = button("Copy", () => copyText(this.code.textContent, label), { kind: "small", icon: "copy" });
    this.element = h("div", { class: "code-tabs" }, h("div", { class: "section-head" }, this.choice, this.copy), this.code);
  }

  show(list) {
    this.#list = list;
    const known = [...this.choice.children].map((control) => control.dataset.name).join();
    if (known !== list.map((entry) => entry.name).join()) {
      this.choice.replaceChildren(...list.map(({ name, label }) =>
        h("button", { type: "button", data: { name }, on: { click: () => this.#choose((chosen = name)) } }, label)));
    }
    const names = list.map((entry) => entry.name);
    return this.#choose([this.#shown, chosen, names[0]].find((name) => names.includes(name)));
  }

  async #choose(name) {
    this.#shown = name;
    for (const control of this.choice.children) control.setAttribute("aria-pressed", String(control.dataset.name === name));
    const { text } = this.#list.find((entry) => entry.name === name);
    if (typeof text === "string") return this.#write(text);
    this.#write("");
    this.code.setAttribute("aria-busy", "true");
    const found = await text().catch((error) => error);
    if (this.#shown === name) this.#write(found instanceof Error ? found.message : found, found instanceof Error);
    return undefined;
  }

  #write(text, failed = false) {
    this.code.removeAttribute("aria-busy");
    this.code.classList.toggle("failed", failed);
    this.copy.disabled = failed || !text;
    setText(this.code, text);
  }
}
