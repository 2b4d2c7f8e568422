// An application: its settings, keys and tokens.

import { applicationPath, get, mayManage, mayOperate, post, put, remove } from "./api.js";
import { SettingsBlock } from "./application_settings.js";
import { callbacksBlock, storageBlock } from "./application_tests.js";
import { button, confirmAction, copyText, emptyState, h, openDialog, runAction, setText, showMessage } from "./dom.js";
import { formatTime } from "./format.js";
import { address, go } from "./router.js";
import { UseBlock } from "./use.js";

export function mount(outlet, context) {
  return new ApplicationView(outlet, context);
}

class ApplicationView {
  #closed = false;

  constructor(outlet, { params, session }) {
    [this.name] = params;
    this.session = session;
    this.outlet = outlet;
    outlet.append(h("section", { class: "sheet" }, h("p", { class: "loading" }, "Loading")));
    this.#load();
  }

  unmount() {
    this.#closed = true;
  }

  async #load() {
    try {
      const application = await get(applicationPath(this.name));
      if (!this.#closed) this.#build(application);
    } catch (error) {
      if (this.#closed) return;
      const back = h("a", { class: "button", href: address("/applications") }, "All applications");
      this.outlet.replaceChildren(error.status === 404
        ? emptyState("There is no such application", "It was removed, or its name is another.", back)
        : emptyState("The application could not be read", error.message, button("Try again", () => this.#load()), back));
    }
  }

  #build(application) {
    this.application = application;
    const defined = application.defined_in === "configuration";
    this.fixed = defined || !mayManage(this.session);
    const casts = h("a", { class: "button", href: address("/casts", { app: this.name }) }, "Casts");
    const drop = !this.fixed && button("Remove", (event) => this.#remove(event.currentTarget), { kind: "danger" });
    const meta = defined ? "Defined in the configuration file: change it there, and reload the service." : this.fixed ? "Defined by the API." : "Defined by the API. It can be changed here.";
    this.keys = h("section", { class: "block" });
    this.tokens = h("section", { class: "block" });
    this.outlet.replaceChildren(h("article", { class: "sheet" },
      h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, this.name), h("p", { class: "meta" }, meta)), h("div", { class: "actions" }, casts, drop)),
      h("div", { class: "columns" },
        h("div", { class: "form" }, this.#use(), this.#settings()),
        h("div", { class: "form" }, callbacksBlock(application, mayOperate(this.session)), storageBlock(application, mayOperate(this.session)), this.keys, this.tokens))));
    this.#showKeys(application.keys);
    this.#showTokens(application.tokens);
  }

  /** The use stays as it is while settings change. */
  #use() {
    this.use ||= new UseBlock(this.name);
    return this.use.element;
  }

  #settings() {
    return new SettingsBlock({ application: this.application, fixed: this.fixed, saved: (application) => this.#build(application) }).element;
  }

  async #remove(control) {
    const text = "Its keys and tokens stop working at once. It cannot be removed while it has running casts.";
    if (!(await confirmAction({ title: `Remove ${this.name}?`, text, action: "Remove", dangerous: true }))) return;
    await runAction(control, async () => {
      await remove(applicationPath(this.name));
      showMessage(`${this.name} was removed.`);
      go(address("/applications"));
    });
  }

  #showKeys(keys) {
    const rows = keys.map((key) => h("tr", null,
      h("td", null, h("span", { class: "mono" }, key.id), lastUse(key)),
      h("td", { class: "nowrap soft" }, key.disabled ? "disabled" : "enabled"),
      h("td", { class: "number" }, !this.fixed && h("span", { class: "actions end" },
        h("button", { type: "button", class: "button small", "aria-label": `${key.disabled ? "Enable" : "Disable"} key ${key.id}`, on: { click: (event) => this.#toggleKey(event.currentTarget, key) } }, key.disabled ? "Enable" : "Disable"),
        h("button", { type: "button", class: "button small danger", "aria-label": `Remove key ${key.id}`, on: { click: (event) => this.#removeKey(event.currentTarget, key) } }, "Remove")))));
    const add = !this.fixed && button("Add key", () => this.#addKey(), { kind: "small", icon: "start" });
    this.keys.replaceChildren(h("header", null, h("h2", null, "Access keys"), add),
      h("p", { class: "hint" }, "They sign requests of the vendors’ APIs."),
      rows.length ? h("table", { class: "list" }, h("tbody", null, rows)) : h("p", { class: "hint" }, "There is no key: the vendors’ APIs cannot be used."));
  }

  #showTokens(tokens) {
    const rows = tokens.map((token) => h("tr", null, h("td", null, h("span", { class: "mono" }, token.id), lastUse(token)),
      h("td", { class: "number" }, !this.fixed && h("button", { type: "button", class: "button small danger", "aria-label": `Remove token ${token.id}`, on: { click: (event) => this.#removeToken(event.currentTarget, token) } }, "Remove"))));
    const add = !this.fixed && button("Add token", (event) => this.#addToken(event.currentTarget), { kind: "small", icon: "start" });
    this.tokens.replaceChildren(h("header", null, h("h2", null, "Tokens"), add),
      h("p", { class: "hint" }, "They are for the REST API and for this console. Shown are their ids."),
      rows.length ? h("table", { class: "list" }, h("tbody", null, rows)) : h("p", { class: "hint" }, "There is no token: the REST API cannot be used."));
  }

  async #reload(kind) {
    const list = (await get(applicationPath(this.name, kind)))[kind];
    if (this.#closed) return;
    if (kind === "keys") this.#showKeys(list);
    else this.#showTokens(list);
  }

  #addKey() {
    const problem = h("p", { class: "error", role: "alert" });
    const id = h("input", { id: "key-id", type: "text", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-help" });
    const submit = h("button", { type: "submit", class: "button primary" }, "Add key");
    const form = h("form", { class: "dialog-body" },
      h("div", { class: "field" }, h("label", { for: "key-id" }, "Key id"), id, h("p", { class: "help", id: "key-help" }, "Generated if empty. The secret is always generated here.")),
      problem, h("div", { class: "actions end" }, button("Cancel", () => dialog.close()), submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        const value = id.value.trim();
        const added = await post(applicationPath(this.name, "keys"), value ? { id: value } : {});
        dialog.close();
        showSecret("Key added", added.secret, `Secret of ${added.id}`);
        await this.#reload("keys");
      } catch (error) {
        setText(problem, error.message);
      } finally {
        submit.disabled = false;
      }
    });
    const dialog = openDialog("Add an access key", form);
    id.focus();
  }

  async #addToken(control) {
    await runAction(control, async () => {
      const added = await post(applicationPath(this.name, "tokens"), {});
      showSecret("Token added", added.token, `Token ${added.id}`);
      await this.#reload("tokens");
    });
  }

  async #toggleKey(control, key) {
    const text = key.disabled ? "Requests with this key are accepted again." : "Requests with this key are refused from now on.";
    const action = key.disabled ? "Enable" : "Disable";
    if (!(await confirmAction({ title: `${action} key ${key.id}?`, text, action, dangerous: !key.disabled }))) return;
    await runAction(control, async () => {
      await put(applicationPath(this.name, "keys", key.id), { disabled: !key.disabled });
      await this.#reload("keys");
    });
  }

  async #removeKey(control, key) {
    const text = "Requests with this key are refused from now on. Its secret cannot be shown again.";
    if (!(await confirmAction({ title: `Remove key ${key.id}?`, text, action: "Remove", dangerous: true }))) return;
    await runAction(control, async () => {
      await remove(applicationPath(this.name, "keys", key.id));
      await this.#reload("keys");
    });
  }

  async #removeToken(control, token) {
    const text = "Requests with this token are refused from now on, and its sessions here end.";
    if (!(await confirmAction({ title: `Remove token ${token.id}?`, text, action: "Remove", dangerous: true }))) return;
    await runAction(control, async () => {
      await remove(applicationPath(this.name, "tokens", token.id));
      await this.#reload("tokens");
    });
  }
}

/** When a key or token was last used, if the API says so. */
function lastUse({ last_used_at: at }) {
  return at === undefined ? null : h("div", { class: "hint" }, at ? `used ${formatTime(at)}` : "never used");
}

/** Shows a secret once; nothing keeps it. */
function showSecret(title, secret, label) {
  const body = h("div", { class: "dialog-body" },
    h("p", null, "Copy it now: it is not shown again."),
    h("div", { class: "secret" }, h("span", { class: "hint" }, label), h("code", null, secret)),
    h("div", { class: "actions end" }, button("Copy", () => copyText(secret, label), { icon: "copy", kind: "primary" }), button("Done", () => dialog.close())));
  const dialog = openDialog(title, body);
}
