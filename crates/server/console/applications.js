// The list of applications, and the form that creates one.

import { get, mayManage, post } from "./api.js";
import { button, emptyState, errorLine, h, openDialog } from "./dom.js";
import { plural } from "./format.js";
import { address, go } from "./router.js";
import { UseBlock } from "./use.js";

export function mount(outlet, { session }) {
  const body = h("div", null, h("p", { class: "loading" }, "Loading"));
  const create = mayManage(session) && button("Create application", openCreate, { kind: "primary", icon: "start" });
  outlet.append(h("section", { class: "sheet" },
    h("header", { class: "sheet-head" }, h("div", { class: "titles" }, h("h1", null, "Applications"), h("p", { class: "meta" }, "Tenants, with their own keys, quotas, storage and callbacks.")), create),
    body, new UseBlock().element));
  let closed = false;
  load();

  async function load() {
    try {
      const { applications } = await get("/v1/applications");
      if (!closed) body.replaceChildren(applications.length ? table(applications) : emptyState("No application yet", "An application owns casts, and has the keys and tokens that create them.", ...(mayManage(session) ? [button("Create application", openCreate, { kind: "primary" })] : [])));
    } catch (error) {
      if (!closed) body.replaceChildren(errorLine(error), button("Try again", load));
    }
  }

  return { unmount: () => (closed = true) };
}

/** Where an application stores recordings, in a word. */
function storageOf({ storage }) {
  const to = storage && storage.default && storage.default.to;
  return to ? to.replace(/\?.*/, "") : "–";
}

function table(applications) {
  const columns = ["Application", "~Defined in", "#Most casts", "#Keys", "#Tokens", "~Recordings", "~Rooms"];
  const rows = applications.map((application) => {
    const { name, settings, keys, tokens } = application;
    return h("tr", { class: "linked", on: { click: () => go(address(`/applications/${encodeURIComponent(name)}`)) } },
      h("td", null, h("a", { class: "link", href: address(`/applications/${encodeURIComponent(name)}`) }, name)),
      h("td", { class: "soft optional" }, application.defined_in === "api" ? "API" : application.defined_in),
      h("td", { class: "number" }, String(settings.max_casts ?? "–")),
      h("td", { class: "number" }, String(keys.filter((key) => !key.disabled).length)),
      h("td", { class: "number" }, String(tokens.length)),
      h("td", { class: "soft optional" }, storageOf(settings)),
      h("td", { class: "soft optional" }, (settings.room && settings.room.type) || "embedded"));
  });
  const kinds = { "#": "number", "~": "optional" };
  const head = columns.map((column) => h("th", { scope: "col", class: kinds[column[0]] || null }, column.replace(/^[#~]/, "")));
  return h("div", { class: "scroll-x" }, h("table", { class: "list", "aria-label": plural(applications.length, "application") }, h("thead", null, h("tr", null, head)), h("tbody", null, rows)));
}

function openCreate() {
  const problem = h("p", { class: "error", role: "alert", id: "create-problem" });
  const name = h("input", { id: "create-name", type: "text", required: true, autocomplete: "off", spellcheck: "false", "aria-describedby": "create-help create-problem" });
  const submit = h("button", { type: "submit", class: "button primary" }, "Create");
  const form = h("form", { class: "dialog-body", novalidate: true },
    h("div", { class: "field" }, h("label", { for: "create-name" }, "Name"), name,
      h("p", { class: "help", id: "create-help" }, "1 to 64 small letters, digits, _ and -. Settings have their defaults until you change them.")),
    problem, h("div", { class: "actions end" }, button("Cancel", () => dialog.close()), submit));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = name.value.trim();
    if (!/^[a-z0-9_-]{1,64}$/.test(value)) {
      problem.textContent = "Use 1 to 64 small letters, digits, _ and -.";
      name.setAttribute("aria-invalid", "true");
      return name.focus();
    }
    submit.disabled = true;
    try {
      await post("/v1/applications", { name: value });
      dialog.close();
      go(address(`/applications/${encodeURIComponent(value)}`));
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      submit.disabled = false;
    }
    return undefined;
  });
  const dialog = openDialog("Create an application", form);
  name.focus();
}
