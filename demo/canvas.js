// Canvas helpers shared by the scenes.

export const palette = {
  paper: "#f6f1e7", ink: "#12151f", coral: "#ff5b3e", cobalt: "#2340e0",
  forest: "#0d4741", sun: "#ffc247", mint: "#9fe6c8", white: "#ffffff",
};

/// Gives a canvas one pixel per device pixel.
export function fit(canvas) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  const height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

/// Clears a canvas and returns its 2D context, scaled so that `width` by `height` units fit and are centred.
export function stage(canvas, width, height) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const scale = Math.min(canvas.width / width, canvas.height / height);
  context.setTransform(scale, 0, 0, scale, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
  return context;
}

/// Begins the path of a box with rounded corners.
export function roundedBox(context, x, y, width, height, radius) {
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
}

/// Returns a pseudo-random number from 0 to 1 that depends on whole numbers only.
export function noise(...keys) {
  let hash = 2166136261;
  for (const key of keys) hash = Math.imul(hash ^ key, 16777619) ^ (hash >>> 13);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822507);
  return ((hash ^ (hash >>> 13)) >>> 0) / 4294967296;
}
