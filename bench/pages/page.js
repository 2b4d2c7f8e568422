// Every moving page of the bench draws picture k at k/60 s of its own clock, independently of the display rate.
// So both recorders record the same motion, and `?at=K` draws a single picture as a reference.

const query = new URLSearchParams(location.search);
const at = query.has("at") ? Number(query.get("at")) : null;
const clock = query.get("clock");

/// Reports to the bench, once, that the page of this cast has drawn.
export function drawn() {
  if (query.has("cast")) fetch(`/report/drawn/${query.get("cast")}`);
}

/// A repeatable pseudo-random number of 0 to 1.
export function noise(key) {
  let hash = Math.imul(key + 0x9e3779b9, 2246822507);
  hash = Math.imul(hash ^ (hash >>> 13), 3266489909);
  return ((hash ^ (hash >>> 16)) >>> 0) / 4294967296;
}

/// Draws on every frame of the display.
export function play(draw) {
  if (at !== null) {
    draw(at);
    return;
  }
  let opened = null;
  const tick = (now) => {
    opened ??= now;
    const k = Math.round(((now - opened) * 60) / 1000);
    draw(k);
    // With the machine's clock, viewers can measure the delay of a picture.
    drawTimecode(k, clock === "machine" ? performance.timeOrigin + performance.now() : now);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

const canvas = document.getElementById("strip");
const context = canvas?.getContext("2d");

/// Draws the timecode that pagecast-testkit reads: 32 x 4 cells of 8 pixels.
function drawTimecode(counter, now) {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0xa5000000 + (counter & 0xffffff));
  view.setUint32(4, Math.round(now * 10));
  view.setUint32(8, 0xffffffff);
  view.setUint16(14, crc16(bytes.subarray(0, 14)));
  context.fillStyle = "#000";
  context.fillRect(0, 0, 256, 32);
  context.fillStyle = "#fff";
  for (let bit = 0; bit < 128; bit += 1) {
    if ((bytes[bit >> 3] >> (7 - (bit & 7))) & 1) context.fillRect((bit & 31) * 8, (bit >> 5) * 8, 8, 8);
  }
}

function crc16(bytes) {
  let crc = 0xffff;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let i = 0; i < 8; i += 1) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  }
  return crc & 0xffff;
}

if (!document.querySelector("video")) requestAnimationFrame(() => requestAnimationFrame(drawn));
