// Keeps a style sheet behind all others of the document: of rules with the same weight, the last one applies.
// A content security policy does not affect adopted sheets, and they apply before anything is drawn.
(css) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  const { get, set } = Object.getOwnPropertyDescriptor(Document.prototype, "adoptedStyleSheets");
  const all = get.call(document);
  all.push(sheet);
  // The page may adopt sheets, too, by replacing the list or by adding to it.
  Object.defineProperty(all, "push", {
    value: (...sheets) => (all.splice(Math.max(all.indexOf(sheet), 0), 0, ...sheets), all.length),
  });
  Object.defineProperty(document, "adoptedStyleSheets", {
    get: () => all,
    set: (sheets) => set.call(document, [...[...sheets].filter((other) => other !== sheet), sheet]),
    configurable: true,
  });
}
