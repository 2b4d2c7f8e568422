// Nobody answers a dialog, moves a window or presses Esc, so these come to nothing at once. The browser would dismiss dialogs
// too, but only after they were in the picture.
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
