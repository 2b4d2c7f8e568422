// Paints the timeline on a canvas: an axis of time, bands, marks and lines.

import { niceCeiling } from "./timeline_model.js";

/** Steps between two labels of the axis, in seconds. */
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
/** Least distance between two labels of the axis, in pixels. */
const MIN_LABEL_PX = 84;

const BAND_COLORS = {
  queued: "warn", starting: "starting", live: "accent", lost: "live", storing: "faint",
  connecting: "starting", running: "accent", recovering: "warn", failed: "live",
};
const MARK_COLORS = { warn: "warn", bad: "live", good: "accent", plain: "text" };
const COLOR_NAMES = ["text", "soft", "faint", "edge", "edge-strong", "accent", "live", "warn", "starting", "back"];

/** Colors of the theme as the canvas understands them. */
export function readColors(element) {
  const probe = document.createElement("span");
  element.append(probe);
  const colors = {};
  for (const name of COLOR_NAMES) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}

/** Step of the axis for a length of time on a width, in milliseconds. */
function axisStep(lengthMs, width) {
  const wanted = (lengthMs / 1000 / width) * MIN_LABEL_PX;
  return 1000 * (STEPS_S.find((step) => step >= wanted) || STEPS_S[STEPS_S.length - 1]);
}

function axisLabel(at, stepMs) {
  const date = new Date(at);
  const two = (value) => String(value).padStart(2, "0");
  if (stepMs >= 86400000) return `${date.getMonth() + 1}/${date.getDate()}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return stepMs < 60000 ? `${time}:${two(date.getSeconds())}` : time;
}

/** Paints everything. `scene` has `from`, `to`, `now`, `lanes` with their `top` and `height`, `gap` and `cursor`. */
export function paint(canvas, scene, colors) {
  const ratio = Math.min(2, devicePixelRatio || 1);
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const x = (at) => ((at - scene.from) / (scene.to - scene.from)) * width;
  const frame = { pen, scene, colors, width, height, x };
  paintOverview(frame);
  paintAxis(frame);
  for (const lane of scene.lanes) {
    if (lane.type === "life") paintLife(frame, lane);
    else if (lane.type === "band") paintBands(frame, lane.bands, lane.top + 4, lane.height - 8);
    else if (lane.type === "metric") paintMetric(frame, lane);
  }
  if (scene.cursor !== null) {
    pen.fillStyle = colors.soft;
    pen.fillRect(Math.round(scene.cursor), scene.overview.height + 18, 1, height - scene.overview.height - 18);
  }
}

/** The whole life in a strip, with the visible time as a frame. */
function paintOverview(frame) {
  const { pen, scene, colors, width } = frame;
  const { begin, end, life } = scene.overview;
  const x = (at) => ((at - begin) / (end - begin)) * width;
  paintBands({ ...frame, x }, life.bands, 5, 6);
  for (const mark of life.marks) {
    if (!["warn", "bad"].includes(mark.level)) continue;
    pen.fillStyle = colors[MARK_COLORS[mark.level]];
    pen.fillRect(Math.round(x(mark.at)) - 0.75, 2, 1.5, 12);
  }
  const left = Math.max(0.5, x(scene.from));
  const right = Math.min(width - 0.5, x(scene.to));
  pen.strokeStyle = colors.text;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.roundRect(left, 0.5, Math.max(6, right - left), 15, 4);
  pen.stroke();
}

function paintAxis({ pen, scene, colors, width, height, x }) {
  const top = scene.overview.height;
  const step = axisStep(scene.to - scene.from, width);
  const offset = new Date(scene.from).getTimezoneOffset() * 60000;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (let at = Math.ceil((scene.from - offset) / step) * step + offset; at <= scene.to; at += step) {
    const left = Math.round(x(at));
    pen.fillStyle = colors.edge;
    pen.fillRect(left, top + 18, 1, height - top - 18);
    pen.fillStyle = colors.faint;
    const label = axisLabel(at, step);
    const half = pen.measureText(label).width / 2;
    if (left - half >= 0 && left + half <= width) pen.fillText(label, left - half, top + 8);
  }
}

function paintBands({ pen, scene, colors, width, x }, bands, top, height) {
  for (const band of bands) {
    const left = Math.max(-4, x(band.from));
    const right = Math.min(width + 4, x(Math.min(band.to, scene.now)));
    if (right < 0 || left > width) continue;
    pen.fillStyle = colors[BAND_COLORS[band.kind] || "faint"];
    pen.globalAlpha = ["queued", "storing"].includes(band.kind) ? 0.35 : 0.85;
    pen.beginPath();
    pen.roundRect(left, top, Math.max(2, right - left - 1), height, 3);
    pen.fill();
    pen.globalAlpha = 1;
  }
}

function paintLife(frame, lane) {
  const { pen, colors, width, x } = frame;
  paintBands(frame, lane.bands, lane.top + 4, 12);
  for (const mark of lane.marks) {
    const left = x(mark.at);
    if (left < -6 || left > width + 6 || mark.kind === "live") continue;
    pen.fillStyle = colors[MARK_COLORS[mark.level]];
    const y = lane.top + 25;
    pen.fillRect(Math.round(left) - 0.75, lane.top + 2, 1.5, 18);
    pen.beginPath();
    if (mark.level === "bad") pen.rect(left - 4, y - 4, 8, 8);
    else if (mark.level === "warn") {
      pen.moveTo(left, y - 5);
      pen.lineTo(left + 5, y + 4);
      pen.lineTo(left - 5, y + 4);
    } else pen.arc(left, y, 4, 0, 7);
    pen.fill();
  }
}

function paintMetric({ pen, scene, colors, width, x }, lane) {
  const bottom = lane.top + lane.height - 5;
  const space = lane.height - 12;
  pen.fillStyle = colors.edge;
  pen.fillRect(0, bottom, width, 1);
  const visible = lane.points.filter((point) => point.at >= scene.from - scene.gap && point.at <= scene.to + scene.gap);
  if (!visible.length) return;
  const top = niceCeiling(Math.max(lane.max || 0, ...visible.map((point) => point.value || 0)));
  const y = (value) => bottom - (Math.min(value, top) / top) * space;
  const color = colors[lane.level === "warn" ? "warn" : "accent"];
  for (const run of runsOf(visible, scene.gap)) {
    pen.beginPath();
    run.forEach((point, index) => (index ? pen.lineTo(x(point.at), y(point.value)) : pen.moveTo(x(point.at), y(point.value))));
    pen.strokeStyle = color;
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    pen.stroke();
    pen.lineTo(x(run[run.length - 1].at), bottom);
    pen.lineTo(x(run[0].at), bottom);
    pen.globalAlpha = 0.13;
    pen.fillStyle = color;
    pen.fill();
    pen.globalAlpha = 1;
    if (run.length === 1) pen.fillRect(x(run[0].at) - 1, y(run[0].value) - 1, 2, 2);
  }
  if (lane.level === "level") paintClipped({ pen, colors, x }, visible, lane.top);
}

/** Clipped samples are louder than full scale. */
function paintClipped({ pen, colors, x }, points, top) {
  pen.fillStyle = colors.live;
  for (const point of points) if (point.value > 1) pen.fillRect(x(point.at) - 1.5, top + 4, 3, 4);
}

/** Stretches without a gap. */
function runsOf(points, gap) {
  const runs = [];
  let last = null;
  for (const point of points) {
    if (!Number.isFinite(point.value)) continue;
    if (!last || point.at - last.at > gap) runs.push([]);
    runs[runs.length - 1].push(point);
    last = point;
  }
  return runs;
}
