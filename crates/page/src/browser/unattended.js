// Disables dialogs and functions that move or lock the window, as nobody can answer or undo them. The browser
// would also dismiss dialogs, but only after they were recorded.
(() => {
  const define = (object, functions) => {
    for (const [name, value] of Object.entries(functions)) {
      Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true });
    }
  };
  define(window, {
    alert() {},
    confirm: () => false,
    prompt: () => null,
    close() {},
    moveBy() {},
    moveTo() {},
    resizeBy() {},
    resizeTo() {},
  });
  const refuse = () => Promise.reject(new DOMException("Nobody is here", "NotSupportedError"));
  define(Element.prototype, { requestPointerLock: refuse });
  if (window.PaymentRequest) define(PaymentRequest.prototype, { show: refuse });
})();
