// Shortcuts of the keyboard, and the dialog that lists them.

import { h, openDialog } from "./dom.js";

/** Longest pause between the two keys of a shortcut like "g c", in milliseconds. */
const PREFIX_MS = 1200;

const shortcuts = new Map();
let prefix = "";
let prefixTimer = 0;

/**
 * Adds a shortcut; one with the same keys replaces it. `run` returns false if it did nothing, so that the
 * browser does what it does with the key. Returns what removes the shortcut.
 */
export function addShortcut({ key, prefix: before = "", label, run, also = [] }) {
  const entry = { key, before, label, run, also };
  const names = [key, ...also].map((name) => before + name);
  for (const name of names) shortcuts.set(name, entry);
  return () => {
    for (const name of names) if (shortcuts.get(name) === entry) shortcuts.delete(name);
  };
}

const isTyping = (target) => target.closest && target.closest("input, textarea, select, [contenteditable]");

function handleKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const name = prefix + event.key;
  prefix = "";
  if (event.key === "?") {
    event.preventDefault();
    return showKeys();
  }
  const entry = shortcuts.get(name);
  if (entry) {
    if (entry.run(event) !== false) event.preventDefault();
  } else if ([...shortcuts.values()].some((shortcut) => shortcut.before === event.key)) {
    prefix = event.key;
    clearTimeout(prefixTimer);
    prefixTimer = setTimeout(() => (prefix = ""), PREFIX_MS);
  }
  return undefined;
}

/** Listens for shortcuts on the whole page. */
export function listenForKeys() {
  document.addEventListener("keydown", handleKey);
}

const KEY_NAMES = { ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→" };

/** Shows the shortcuts of the current view. */
export function showKeys() {
  const rows = [...new Set(shortcuts.values())].flatMap(({ key, before, label, also }) => {
    const keys = [key, ...also].map((name) => h("kbd", null, before ? `${before} ${name}` : KEY_NAMES[name] || name));
    return [h("dt", null, keys), h("dd", null, label)];
  });
  const fixed = [["?", "These keys"], ["Esc", "Close, or leave a field"]];
  rows.push(...fixed.flatMap(([key, label]) => [h("dt", null, h("kbd", null, key)), h("dd", null, label)]));
  openDialog("Keys", h("dl", { class: "dialog-body keys" }, rows));
}
