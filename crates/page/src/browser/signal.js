const tell = window[BINDING];
delete window[BINDING];
if (tell) {
  for (const [name, word] of Object.entries(FUNCTIONS)) {
    const value = () => { tell(word); };
    Object.defineProperty(window, name, { value, writable: true, enumerable: true, configurable: true });
  }
}
