// A small PNG of rectangles, since the check of a page answers with a picture that is no SVG.

import { deflateSync } from "node:zlib";

const WIDTH = 320, HEIGHT = 180;

/** `[x, y, width, height, red, green, blue]`, the later ones above the earlier ones. */
const RECTANGLES = [
    [0, 0, WIDTH, HEIGHT, 15, 22, 32], [14, 12, 96, 9, 232, 237, 244], [14, 31, 93, 42, 24, 34, 47], [113, 31, 93, 42, 24, 34, 47],
    [212, 31, 94, 42, 24, 34, 47], [22, 50, 44, 13, 120, 224, 192], [121, 50, 38, 13, 232, 237, 244], [220, 50, 34, 13, 240, 184, 102],
    [14, 81, 292, 86, 24, 34, 47],
    ...Array.from({ length: 17 }, (_, index) => {
        const height = Math.round(26 + 24 * Math.sin(index * 1.3) + index);
        return [24 + index * 16, 159 - height, 10, height, ...(index === 16 ? [120, 224, 192] : [53, 88, 122])];
    }),
];

/** Checksum of a PNG's chunk. */
function crc32(bytes) {
    let crc = 0xffffffff;
    for (const byte of bytes) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return (crc ^ 0xffffffff) >>> 0;
}

function chunk(type, content) {
    const body = Buffer.concat([Buffer.from(type, "latin1"), content]);
    const [length, checksum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(content.length);
    checksum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, checksum]);
}

/** The picture as a data URL. */
export function pngUrl() {
    const rows = Buffer.alloc(HEIGHT * (1 + 3 * WIDTH));
    for (const [left, top, width, height, ...color] of RECTANGLES) {
        for (let y = top; y < top + height; y += 1) {
            for (let x = left; x < left + width; x += 1) rows.set(color, y * (1 + 3 * WIDTH) + 1 + 3 * x);
        }
    }
    const head = Buffer.alloc(13);
    head.writeUInt32BE(WIDTH, 0);
    head.writeUInt32BE(HEIGHT, 4);
    // 8 bits of red, green and blue.
    head.set([8, 2, 0, 0, 0], 8);
    const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
    const parts = [signature, chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))];
    return `data:image/png;base64,${Buffer.concat(parts).toString("base64")}`;
}
