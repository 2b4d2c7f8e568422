// The color theme: the reader's choice, or the system's. It runs before the first paint, so nothing flashes.
"use strict";
(() => {
  const KEY = "pagecast-theme";
  const apply = (name) => {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  };
  // Reading the storage throws where the browser blocks it.
  const read = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  apply(["dark", "light"].includes(read()) ? read() : null);

  /** Switches between dark and light, and remembers the choice. */
  window.switchTheme = () => {
    const system = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
    const next = (document.documentElement.dataset.theme || system) === "light" ? "dark" : "light";
    apply(next);
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // The choice then lasts until the page is closed.
    }
    window.dispatchEvent(new Event("themechange"));
  };
})();
