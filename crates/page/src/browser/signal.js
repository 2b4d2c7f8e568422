// Given names of functions and what each of them says, puts them into the page.
(functions, binding) => {
  const tell = window[binding];
  delete window[binding];
  if (!tell) return;
  for (const [name, word] of Object.entries(functions)) {
    const value = () => { tell(word); };
    Object.defineProperty(window, name, { value, writable: true, enumerable: true, configurable: true });
  }
}
