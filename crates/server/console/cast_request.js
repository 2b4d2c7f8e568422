// The request that makes a cast like a given one, as far as the API shows it.

import { shellWord } from "./format.js";

/** What the API puts in place of a secret, such as the query of an address. */
const HIDDEN = "…";

/** Body of `POST /v1/casts` for a cast like this one. Hidden parts stay `…`. */
export function requestLike(cast) {
  const { source, recording, room } = cast;
  const body = { app: cast.app, url: source.url, width: source.width, height: source.height, fps: source.fps, bitrate_kbps: source.bitrate_kbps };
  if (source.scale_factor !== 1) body.scale_factor = source.scale_factor;
  if (cast.duration_s) body.duration_s = cast.duration_s;
  body.max_time_s = cast.max_time_s;
  if (cast.placement) body.placement = cast.placement;
  if (recording) body.recording = { format: recording.format };
  if (room) body.room = { room: room.room, user: room.user };
  const pushes = cast.pushes.filter((push) => push.state !== "disconnecting");
  if (pushes.length) body.pushes = pushes.map((push) => ({ url: push.url }));
  return body;
}

/** Fields of a request that the API hides, by name. */
export function hiddenFields(body) {
  const found = [];
  if (body.url && body.url.includes(HIDDEN)) found.push("the query of the page’s address");
  if ((body.pushes || []).some((push) => push.url.includes(HIDDEN))) found.push("the stream keys of the pushes");
  return found;
}

/** A request as a command for a POSIX shell, without the token. */
export function asCurl(method, path, body) {
  const parts = [`curl -X ${method} ${shellWord(location.origin + path)}`, `  -H "Authorization: Bearer $PAGECAST_TOKEN"`];
  if (body !== undefined) {
    parts.push(`  -H 'Content-Type: application/json'`);
    parts.push(`  -d ${shellWord(JSON.stringify(body, null, 2))}`);
  }
  return parts.join(" \\\n");
}
