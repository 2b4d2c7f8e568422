// Tells of each video whose longer side is above `long` or whose shorter one is above `short`.
(long, short, binding) => {
  const tell = window[binding];
  delete window[binding];
  if (!tell) return;
  const look = ({ target }) => {
    if (!(target instanceof HTMLVideoElement)) return;
    const { videoWidth: width, videoHeight: height } = target;
    if (Math.max(width, height) > long || Math.min(width, height) > short) tell(`${width}x${height}`);
  };
  const watch = (root) => {
    for (const type of ["loadedmetadata", "resize"]) root.addEventListener(type, look, true);
    return root;
  };
  watch(window);
  // Events of media do not leave the shadow tree that they happen in.
  const { attachShadow } = Element.prototype;
  const value = function (...options) { return watch(attachShadow.apply(this, options)); };
  Object.defineProperty(Element.prototype, "attachShadow", { value, writable: true, enumerable: true, configurable: true });
}
