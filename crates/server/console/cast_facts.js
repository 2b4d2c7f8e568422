// What is read from a cast: its problems, outputs and title, in words.

import { formatCount, splitUrl, timeOf, words } from "./format.js";

/** Share of changes merged into a later frame above which that is a problem. */
const MAX_DROPPED_SHARE = 0.05;
/** Fewest frames before that share means something. */
const MIN_FRAMES = 300;

const BROKEN = { recovering: "warn", failed: "bad" };
const BAD_ENDS = ["page-failed", "start-failed", "output-failed", "video-too-large"];

/** Problems of a cast, the worst first: a short word, the details, and `warn` or `bad`. */
export function problemsOf(cast) {
  const found = [];
  const add = (level, word, detail) => found.push({ level, word, detail: detail || "" });
  const { end, recording, room, stats } = cast;
  if (end && BAD_ENDS.includes(end.reason)) add("bad", words(end.fault || end.cause || end.reason), end.message);
  if (recording && recording.upload_error) add("bad", "upload failing", recording.upload_error);
  if (recording && recording.stored && !recording.stored.complete) add("bad", "files missing", recording.stored.error);
  if (recording && recording.stopped && cast.state !== "ended") add("warn", "recording stopped");
  if (cast.state !== "ended") {
    if (room && BROKEN[room.state]) add(BROKEN[room.state], `room ${room.state}`, room.error);
    for (const push of cast.pushes) {
      if (BROKEN[push.state]) add(BROKEN[push.state], `push ${push.id} ${push.state}`, push.error);
    }
    if (cast.queue && cast.queue.waits_for) add("warn", `waits for ${WAIT_WORDS[cast.queue.waits_for] || words(cast.queue.waits_for)}`, WAITS[cast.queue.waits_for]);
  }
  if (cast.reloads) add("warn", cast.reloads === 1 ? "1 reload" : `${formatCount(cast.reloads)} reloads`);
  for (const warning of cast.warnings || []) add("warn", words(warning.kind), warning.message);
  if (stats && stats.frames_captured > MIN_FRAMES) {
    const share = stats.frames_dropped / (stats.frames_captured + stats.frames_dropped);
    if (share > MAX_DROPPED_SHARE) add("warn", `${Math.round(100 * share)} % dropped`, "Changes that were merged into a later frame.");
  }
  if (stats && stats.room_loss > 0.05) add("warn", `${Math.round(100 * stats.room_loss)} % lost`, "Packets to the room that were lost.");
  return found.sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
}

const WAIT_WORDS = { node: "a node", "node-with-labels": "labels", room: "capacity" };

const WAITS = {
  node: "No node runs casts.",
  "node-with-labels": "No node has all labels that the cast asks for.",
  room: "No node has enough free cores, memory and disk.",
};

/** Why a queued cast waits, as a sentence. */
export const waitReason = (cast) => (cast.queue && WAITS[cast.queue.waits_for]) || "Its turn comes with the next offer to a node.";

/** Outputs of a cast: a short word, its state and details. */
export function outputsOf(cast) {
  const found = [];
  if (cast.room) {
    const viewers = cast.room.viewers;
    const detail = `Room ${cast.room.room}, user ${cast.room.user}${viewers === undefined ? "" : `, ${viewers} watching`}`;
    found.push({ word: viewers ? `room ${formatCount(viewers)}` : "room", state: cast.room.state, detail });
  }
  if (cast.recording) {
    found.push({ word: "rec", state: cast.recording.stopped ? "idle" : "running", detail: `Recording ${cast.recording.name}, ${cast.recording.format}` });
  }
  const pushes = cast.pushes.filter((push) => push.state !== "disconnecting");
  if (pushes.length) {
    const worst = pushes.find((push) => push.state === "failed") || pushes.find((push) => push.state === "recovering") || pushes[0];
    found.push({ word: pushes.length > 1 ? `push ${pushes.length}` : "push", state: worst.state, detail: pushes.map((push) => `${push.url} ${push.state}`).join("\n") });
  }
  return found;
}

/** State of a cast in a word, more precise than the API's. */
export function stateWord(cast) {
  if (cast.state === "ended") return cast.closed ? "ended" : "storing";
  return cast.stop_requested ? "stopping" : cast.state;
}

/** Why a cast ended, in words. */
export function endReason(cast) {
  if (!cast.end) return "";
  const { reason, fault, cause } = cast.end;
  return [reason, fault, cause].filter(Boolean).map(words).join(", ");
}

/** Age of a running cast, or the length of an ended one, in milliseconds. */
export function ageOf(cast, now) {
  const begin = timeOf(cast.live_at || cast.started_at || cast.created_at);
  return (cast.ended_at ? timeOf(cast.ended_at) : now) - begin;
}

const haystacks = new WeakMap();

/** Whether all words of a search, in lower case, occur in a cast. */
export function matches(cast, needles) {
  let text = haystacks.get(cast);
  if (text === undefined) {
    const parts = [cast.id, cast.app, cast.node, cast.source.url, cast.room && cast.room.room, cast.recording && cast.recording.name];
    parts.push(...cast.pushes.map((push) => push.url), ...problemsOf(cast).map((problem) => problem.word));
    text = parts.filter(Boolean).join("\n").toLowerCase();
    haystacks.set(cast, text);
  }
  return needles.every((needle) => text.includes(needle));
}

/** Title of a cast: the host and path of its page. */
export const titleOf = (cast) => splitUrl(cast.source.url);
