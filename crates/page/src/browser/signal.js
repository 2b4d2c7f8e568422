// Defines functions in the page. `functions` maps their names to the values that they report.
(functions, binding) => {
  const report = window[binding];
  delete window[binding];
  if (!report) return;
  for (const [name, reported] of Object.entries(functions)) {
    const value = () => { report(reported); };
    Object.defineProperty(window, name, { value, writable: true, enumerable: true, configurable: true });
  }
}
