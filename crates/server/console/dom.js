// Elements, icons, dialogs and messages. All text goes in as text, never as HTML.

/** How long a message stays, in milliseconds: enough to read two lines. */
const MESSAGE_MS = 6000;
/** Most messages on the screen; the oldest goes first. */
const MAX_MESSAGES = 3;

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  casts: "M4 6h16v12H4zM10 9.5v5l4.5-2.5z",
  start: "M12 5v14M5 12h14",
  nodes: "M4 5h16v6H4zM4 13h16v6H4zM7.5 8h.01M7.5 16h.01",
  applications: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5L20 20",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  person: "M12 5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM5 20c.6-3.4 3.4-5 7-5s6.4 1.6 7 5",
  keys: "M3.5 7h17v10h-17zM7 10.5h.01M10.4 10.5h.01M13.6 10.5h.01M17 10.5h.01M8 14h8",
  close: "M6 6l12 12M18 6L6 18",
  back: "M14.5 6L8.5 12l6 6",
  watch: "M2.5 12s3.5-6 9.5-6 9.5 6 9.5 6-3.5 6-9.5 6-9.5-6-9.5-6zM12 9.7a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6z",
  play: "M8 5.5v13l10.5-6.5z",
  sound: "M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a8 8 0 0 1 0 11",
  silent: "M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM16 9.5l5 5M21 9.5l-5 5",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  again: "M19 8a8 8 0 1 0 1 6M19 4v4.5h-4.5",
  stop: "M7 7h10v10H7z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  use: "M5 19.5v-6M10 19.5v-11M15 19.5V11M20 19.5V5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 19.5h14",
  move: "M4 12h15M13.5 6.5L19 12l-5.5 5.5",
  explorer: "M8 7l-5 5 5 5M16 7l5 5-5 5M13.5 5l-3 14",
  audit: "M6 4h12v16H6zM9 8.5h6M9 12h6M9 15.5h4",
  send: "M4.5 12L20 4.5 15 20l-3.5-6.5z",
  warning: "M12 4.5L21 19H3zM12 10v4M12 16.5h.01",
};

/**
 * An element. `props`: `class`, `on` (listeners), `data` (data attributes), DOM properties like `value`, and
 * attributes; null, undefined and false leave an attribute out.
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (["value", "checked", "disabled", "hidden", "open", "indeterminate"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An icon, which screen readers skip. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an optional icon. */
export function button(label, onClick, { kind = "", icon: name, title, disabled } = {}) {
  const props = { type: "button", class: `button ${kind}`, title, disabled, on: { click: onClick } };
  return h("button", props, name && icon(name), h("span", null, label));
}

/** A button that is only an icon; its label is read out and shown as a tip. */
export function iconButton(label, name, onClick, props = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: onClick }, ...props }, icon(name));
}

/** Sets the text of an element only if it differs: an unchanged row is not painted again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute only if it differs; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** State as a dot and a word. */
export function stateLabel(state) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const word = h("span", { class: "word" }, state);
  const element = h("span", { class: "state", data: { state } }, dot, word);
  element.setState = (next, text = next) => {
    if (element.dataset.state !== next) element.dataset.state = next;
    setText(word, text);
  };
  return element;
}

/** What a view shows when it has nothing: what that means, and what to do. */
export function emptyState(headline, detail, ...actions) {
  return h("div", { class: "empty" }, h("p", { class: "headline" }, headline), h("p", { class: "detail" }, detail),
    actions.length ? h("div", { class: "actions" }, actions) : null);
}

/** A line that says why something failed. */
export function errorLine(error) {
  return h("p", { class: "error", role: "alert" }, error.message || String(error));
}

let messages;

/** Shows a short message at the bottom; screen readers read it out. */
export function showMessage(text, kind = "") {
  messages ||= document.body.appendChild(h("div", { class: "messages", role: "status", "aria-live": "polite" }));
  while (messages.children.length >= MAX_MESSAGES) messages.firstChild.remove();
  const message = h("p", { class: `message ${kind}` }, text);
  messages.append(message);
  setTimeout(() => message.remove(), MESSAGE_MS);
}

/** Shows why something failed. */
export function showError(error) {
  showMessage(error.message || String(error), "bad");
}

/** Opens a dialog with a title and content; Escape and a click beside it close it. Returns the dialog. */
export function openDialog(title, content, { wide = false, onClose } = {}) {
  const close = iconButton("Close", "close", () => dialog.close());
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h("dialog", { class: wide ? "wide" : "", "aria-labelledby": "dialog-title" },
    h("div", { class: "dialog-head" }, heading, close), content);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (onClose) onClose(dialog.returnValue);
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Has the reader confirm an action; resolves to whether it was confirmed. */
export function confirmAction({ title, text, action, dangerous = false }) {
  return new Promise((resolve) => {
    const confirm = button(action, () => dialog.close("yes"), { kind: dangerous ? "danger" : "primary" });
    const body = h("div", { class: "dialog-body" }, h("p", null, text),
      h("div", { class: "actions end" }, button("Cancel", () => dialog.close("")), confirm));
    const dialog = openDialog(title, body, { onClose: (value) => resolve(value === "yes") });
    confirm.focus();
  });
}

/** Copies text to the clipboard and says so. */
export async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    showMessage(`${what} copied.`);
  } catch {
    // Without a secure origin there is no clipboard; the text can still be selected.
    openDialog(what, h("div", { class: "dialog-body" }, h("pre", { class: "code", tabindex: "0" }, text)), { wide: true });
  }
}

/** Runs `action` with a button disabled meanwhile. A browser takes the focus from a disabled button: it comes back. */
export async function whileDisabled(control, action) {
  const focused = document.activeElement === control;
  control.disabled = true;
  try {
    return await action();
  } finally {
    control.disabled = false;
    if (focused && [document.body, null].includes(document.activeElement) && control.isConnected) control.focus({ preventScroll: true });
  }
}

/** Runs an action of a button: disabled meanwhile, failures are shown. */
export async function runAction(control, action) {
  try {
    return await whileDisabled(control, action);
  } catch (error) {
    showError(error);
    return undefined;
  }
}
