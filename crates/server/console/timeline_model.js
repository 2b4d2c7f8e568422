// What the timeline shows: the life of a cast as bands and marks, its outputs as bands, and the measured lanes.

import { endReason } from "./cast_facts.js";
import { formatBitrate, formatCores, formatCount, formatFps, formatLevel, formatMemory, timeOf, words } from "./format.js";

/** Longest pause between two samples that are joined by a line, in milliseconds: workers report every second or two. */
const MAX_SAMPLE_GAP_MS = 12000;

/** The same for samples of a whole life, of which the server keeps some: pauses that are much longer than usual are gaps. */
export function gapOf(samples) {
  const pauses = samples.slice(1).map((sample, index) => sample.ms - samples[index].ms).sort((a, b) => a - b);
  return Math.max(MAX_SAMPLE_GAP_MS, 3 * (pauses[Math.floor(pauses.length * 0.9)] || 0));
}

const FAULTY = ["reloaded", "moved", "restarted"];

/** Life of a cast: `bands` ({ kind, from, to }) and `marks` ({ at, kind, text, level }). An open end is Infinity. */
export function lifeOf(cast, events) {
  const bands = [];
  const marks = [];
  let open = null;
  let running = "starting";
  const begin = (kind, at) => {
    if (open) open.to = at;
    open = kind ? { kind, from: at, to: Infinity } : null;
    if (open) bands.push(open);
  };
  for (const event of events) {
    const at = timeOf(event.at);
    if (event.event === "queued") begin("queued", at);
    else if (event.event === "started") begin(running, at);
    else if (event.event === "live") begin((running = "live"), at);
    else if (event.event === "lost-node") begin("lost", at);
    else if (event.event === "resumed") begin(running, at);
    else if (event.event === "ended") begin(cast.closed && !events.some((later) => later.event === "stored") ? null : "storing", at);
    else if (event.event === "stored") begin(null, at);
    const mark = markOf(event);
    if (mark) marks.push({ ...mark, at, kind: event.event, seq: event.seq });
  }
  if (!bands.length) {
    const steps = [["queued", cast.created_at], ["starting", cast.started_at], ["live", cast.live_at]];
    for (const [kind, at] of steps) if (at) begin(kind, timeOf(at));
    if (cast.ended_at) begin(null, timeOf(cast.ended_at));
  }
  if (open && cast.closed) open.to = Math.max(open.from, timeOf(cast.ended_at) || open.from);
  return { bands, marks };
}

/** Mark of an event on the life of a cast, or null for one that is a band only. */
function markOf(event) {
  const name = event.event;
  if (FAULTY.includes(name)) return { text: `${words(name)}${event.fault ? ` after ${words(event.fault)}` : ""}`, level: "warn" };
  if (name === "lost-node") return { text: `lost node${event.node ? ` ${event.node}` : ""}`, level: "bad" };
  if (name === "resumed") return { text: `resumed${event.node ? ` on ${event.node}` : ""}`, level: "good" };
  if (name === "warning") return { text: words(event.warning && event.warning.kind), level: "warn" };
  if (name === "recording-stopped") return { text: "recording stopped", level: "warn" };
  if (name === "live") return { text: "live", level: "good" };
  if (name === "ended") return { text: `ended: ${endReason(event)}`, level: event.end && event.end.fault ? "bad" : "plain" };
  if (name === "upload") return event.upload.failing ? { text: `upload failing: ${event.upload.error || ""}`, level: "bad" } : { text: "upload works again", level: "good" };
  return null;
}

/** State of the room and of each push over time: lanes with bands. */
export function outputLanes(cast, events) {
  const lanes = new Map();
  const lane = (key, label) => {
    if (!lanes.has(key)) lanes.set(key, { key, label, type: "band", bands: [] });
    return lanes.get(key);
  };
  const change = (target, kind, at, text) => {
    const last = target.bands[target.bands.length - 1];
    if (last && last.to === Infinity) last.to = at;
    if (!["idle", "disconnecting"].includes(kind)) target.bands.push({ kind, from: at, to: Infinity, text });
  };
  for (const event of events) {
    const at = timeOf(event.at);
    if (event.room) change(lane("room", "Room"), event.room.state, at, event.room.error);
    if (event.push) change(lane(`push-${event.push.id}`, `Push ${event.push.id}`), event.push.state, at, event.push.error);
    if (event.upload) change(lane("upload", "Upload"), event.upload.failing ? "failed" : "running", at, event.upload.error);
    if (event.event === "ended") {
      for (const target of lanes.values()) if (target.key !== "upload") change(target, "idle", at);
    }
    if (event.event === "stored" && lanes.has("upload")) change(lanes.get("upload"), "idle", at);
  }
  return [...lanes.values()];
}

/** Lanes of measured values that the samples have. `read` takes a sample and the one before it. */
export function metricLanes(cast, samples) {
  const last = samples[samples.length - 1];
  if (!last) return [];
  const bitrate = (sample, before) => {
    const ms = before && before.bytes !== undefined ? sample.ms - before.ms : 0;
    return ms > 0 ? Math.max(0, (8 * (sample.bytes - before.bytes)) / ms) : NaN;
  };
  const dropped = (sample, before) => (before ? (1000 * Math.max(0, sample.frames_dropped - before.frames_dropped)) / Math.max(1, sample.ms - before.ms) : NaN);
  const lanes = [
    { key: "fps", label: "fps", read: (s) => s.fps, format: formatFps, max: cast.source.fps },
    { key: "cpu", label: "CPU", read: (s) => s.cpu_cores, format: formatCores, max: 1 },
    { key: "memory", label: "Memory", read: (s) => s.memory_bytes, format: formatMemory, max: 256 * 1048576 },
    { key: "level", label: "Level", read: (s) => Math.max(...s.peak), format: formatLevel, max: 1, level: "level" },
  ];
  if (last.frames_dropped > samples[0].frames_dropped) {
    lanes.splice(1, 0, { key: "dropped", label: "Dropped", read: dropped, format: (value) => `${value.toFixed(1)} /s`, max: 2, level: "warn" });
  }
  // Without bytes in its history, the lane would be almost empty.
  if (last.bytes && samples[0].bytes !== undefined) lanes.push({ key: "output", label: "Encoded", read: bitrate, format: formatBitrate, max: 500 });
  if (last.room_bitrate_kbps !== undefined && last.room_bitrate_kbps !== null) {
    lanes.push({ key: "room-bitrate", label: "To room", read: (s) => s.room_bitrate_kbps, format: formatBitrate, max: 500 });
  }
  if (samples.some((sample) => sample.room_loss > 0.001)) {
    lanes.push({ key: "loss", label: "Lost", read: (s) => 100 * s.room_loss, format: (value) => `${value.toFixed(1)} %`, max: 5, level: "warn" });
  }
  if (last.viewers !== undefined) lanes.push({ key: "viewers", label: "Viewers", read: (s) => s.viewers, format: formatCount, max: 4 });
  if (cast.recording) lanes.push({ key: "uploads", label: "Uploads", read: (s) => s.upload_pending, format: formatCount, max: 4 });
  return lanes.map((lane) => ({ ...lane, type: "metric" }));
}

/** Samples of the whole life, and the later ones of this page. */
export function joinSamples(history, recent) {
  const last = history.length ? history[history.length - 1].ms : -Infinity;
  return [...history, ...recent.filter((sample) => sample.ms > last)];
}

/** Points of a lane: times and values of all samples. */
export function pointsOf(lane, samples) {
  return samples.map((sample, index) => ({ at: sample.ms, value: lane.read(sample, samples[index - 1]) }));
}

/** A round number that is not below `value`, for the top of a lane. */
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * step).find((candidate) => candidate >= value * 0.999);
}

/**
 * Moments of the evidence pictures. Their names are `NN-FAULT.png`, numbered in the order of the faults. Not every
 * fault leads to an event, so pictures and events with the same fault are aligned; a picture without an event of
 * its own was taken shortly before that of the next one.
 */
export function evidenceTimes(files, cast, events) {
  const faults = events.filter((event) => event.fault || (event.end && event.end.fault))
    .map((event) => ({ at: timeOf(event.at), fault: event.fault || event.end.fault }));
  const pictures = files.map((file) => ({ file, name: /^(\d+)-([a-z-]+)\.png$/.exec(file.name) })).filter(({ name }) => name)
    .map(({ file, name }) => ({ file, number: Number(name[1]), fault: name[2], at: file.at ? timeOf(file.at) : NaN }));
  const matched = align(pictures.map((picture) => picture.fault), faults.map((entry) => entry.fault));
  let following = faults.length ? faults[faults.length - 1].at : timeOf(cast.ended_at);
  for (let index = pictures.length - 1; index >= 0; index -= 1) {
    if (matched[index] >= 0) following = faults[matched[index]].at;
    if (!Number.isFinite(pictures[index].at)) pictures[index].at = following;
  }
  return pictures;
}

/** For each of the `left` words, the index of its partner among `right` in a longest common sequence, or -1. */
function align(left, right) {
  const length = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      length[i][j] = left[i] === right[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const partners = left.map(() => -1);
  for (let i = 0, j = 0; i < left.length && j < right.length;) {
    if (left[i] === right[j]) {
      partners[i] = j;
      i += 1;
      j += 1;
    } else if (length[i + 1][j] >= length[i][j + 1]) i += 1;
    else j += 1;
  }
  return partners;
}
