// What all data share: the time at which the pages are seen, and names that try to be HTML.

/** The page's clock stands here, in milliseconds since 1970. */
export const NOW = Date.parse("2026-03-17T10:42:00Z");

/** Text that attacks a page which reads it as HTML, and turns its end around with U+202E. */
export const HOSTILE = "<img src=x onerror=attacked=true><script>attacked=true</script>\"'`\u202Egnp.exe";

export const APPS = ["academy", "demo", "newsroom"];
export const NODES = ["worker-1", "worker-2", "worker-3"];

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

export const iso = (ms) => new Date(ms).toISOString();

/** Id of cast `n`; later casts have greater ids. */
export const castId = (n) => (0x19a000000000 + n).toString(16).padStart(12, "0").padEnd(32, "7");

/** A number from 0 to 1 that depends on its arguments only. */
export function noise(...numbers) {
    const mixed = numbers.reduce((sum, number, index) => sum + number * (12.9898 + 65.2367 * index), 1);
    return Math.abs((Math.sin(mixed) * 43758.5453) % 1);
}

/** An element of a list, chosen by `noise`. */
export const pick = (list, ...numbers) => list[Math.floor(noise(...numbers) * list.length)];
