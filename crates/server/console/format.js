// How values are written: short, with units, and with digits that do not jump.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Milliseconds since 1970 of an RFC 3339 time; NaN without one. */
export const timeOf = (text) => (text ? Date.parse(text) : NaN);

/** Whole number with groups of three digits. */
export const formatCount = (value) => whole.format(value).replace(/,/g, "\u2009");

/** Length of time in its two largest units. */
export function formatDuration(ms) {
  if (!Number.isFinite(ms)) return "–";
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${String(seconds % 60).padStart(2, "0")}`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${String(minutes % 60).padStart(2, "0")}`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Time of the day, with the date if it is not today. */
export function formatTime(value) {
  const date = new Date(value);
  if (Number.isNaN(date.getTime())) return "–";
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

/** Size with decimal units. */
export function formatBytes(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let index = 0;
  let value = bytes;
  while (value >= 999.5 && index < units.length - 1) {
    value /= 1000;
    index += 1;
  }
  return `${index && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[index]}`;
}

/** Memory with binary units, as operating systems show it. */
export function formatMemory(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  const mib = bytes / 1048576;
  return mib >= 1000 ? `${(mib / 1024).toFixed(1)} GiB` : `${Math.round(mib)} MiB`;
}

/** Bitrate from kbit/s. */
export function formatBitrate(kbps) {
  if (!Number.isFinite(kbps)) return "–";
  return kbps >= 1000 ? `${(kbps / 1000).toFixed(1)} Mbit/s` : `${Math.round(kbps)} kbit/s`;
}

/** CPU cores. */
export const formatCores = (cores) => (Number.isFinite(cores) ? cores.toFixed(cores < 9.95 ? 2 : 1) : "–");

/** Frames per second. */
export const formatFps = (fps) => (Number.isFinite(fps) ? fps.toFixed(1) : "–");

/** Level of a sample in dB relative to full scale. */
export const formatLevel = (peak) => (peak > 0.0001 ? `${(20 * Math.log10(peak)).toFixed(1).replace("-", "−")} dB` : "silent");

/** An address as its host and the rest, for people. */
export function splitUrl(text) {
  try {
    const url = new URL(text);
    return { host: url.host || url.protocol, path: readable((url.pathname === "/" && !url.search ? "" : url.pathname) + url.search) };
  } catch {
    return { host: visible(text), path: "" };
  }
}

/** Characters that are invisible or change the direction of text: they stay escaped, so that no address poses as another. */
const DECEPTIVE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]/g;

/** Text of others without what is invisible or changes its direction: that is escaped. */
export const visible = (text) => String(text).replace(DECEPTIVE, encodeURIComponent);

/** The same for text that may have several lines. */
export const visibleLines = (text) => String(text).replace(/[^\n\t]+/g, (part) => visible(part));

function readable(path) {
  try {
    return visible(decodeURI(path));
  } catch {
    return path;
  }
}

/** Whether an address may be a link: what a storage answered or a page set is not trusted. */
export const isWebAddress = (url) => /^https?:\/\//i.test(url || "");

/** A word of the API for people: `page-failed` is "page failed". */
export const words = (code) => String(code || "").replace(/[-_]/g, " ");

/** "1 file", "2 files". */
export const plural = (count, noun) => `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Text for a POSIX shell, as one word. */
export const shellWord = (text) => `'${String(text).replace(/'/g, "'\\''")}'`;
