// Reports each video whose longer side is above `long` or whose shorter side is above `short`, in pixels.
(long, short, binding) => {
  const report = window[binding];
  delete window[binding];
  if (!report) return;
  const check = ({ target }) => {
    if (!(target instanceof HTMLVideoElement)) return;
    const { videoWidth: width, videoHeight: height } = target;
    if (Math.max(width, height) > long || Math.min(width, height) > short) report(`${width}x${height}`);
  };
  const watch = (root) => {
    for (const type of ["loadedmetadata", "resize"]) root.addEventListener(type, check, true);
    return root;
  };
  watch(window);
  // Media events do not leave their shadow tree.
  const { attachShadow } = Element.prototype;
  const value = function (...options) { return watch(attachShadow.apply(this, options)); };
  const descriptor = { value, writable: true, enumerable: true, configurable: true };
  Object.defineProperty(Element.prototype, "attachShadow", descriptor);
}
