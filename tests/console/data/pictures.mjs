// Pictures of pages, as SVG: a dashboard, a lesson, a ticker, a slide and a map.

const WIDTH = 640, HEIGHT = 360;

const rect = (x, y, width, height, fill, radius = 0) =>
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="${radius}" fill="${fill}"/>`;
const text = (x, y, size, fill, words, weight = 400) =>
    `<text x="${x}" y="${y}" font-size="${size}" fill="${fill}" font-weight="${weight}">${words}</text>`;
const line = (points, stroke, width = 3) =>
    `<polyline points="${points.join(" ")}" fill="none" stroke="${stroke}" stroke-width="${width}"
        stroke-linejoin="round" stroke-linecap="round"/>`;

/** Points of a curve in a box. */
const curve = (x, y, width, height, count, value) => Array.from({ length: count }, (_, index) =>
    `${(x + (index * width) / (count - 1)).toFixed(1)},${(y + height * (1 - value(index))).toFixed(1)}`);

function dashboard() {
    const bars = Array.from({ length: 12 }, (_, index) => {
        const height = 24 + 58 * (0.5 + 0.5 * Math.sin(index * 1.3)) + index * 3;
        return rect(44 + index * 22, 318 - height, 14, height, index === 11 ? "#78e0c0" : "#35587a", 3);
    });
    const figures = [["Revenue", "4.82 M", "#78e0c0"], ["Orders", "31 904", "#e8edf4"], ["Returns", "1.7 %", "#f0b866"]];
    return [
        rect(0, 0, WIDTH, HEIGHT, "#0f1620"), text(28, 42, 20, "#e8edf4", "Quarter results", 600),
        text(520, 42, 13, "#8496ab", "live · 10:42"),
        ...figures.map(([name, value, fill], index) => rect(28 + index * 198, 62, 186, 84, "#18222f", 8)
            + text(44 + index * 198, 88, 12, "#8496ab", name) + text(44 + index * 198, 124, 28, fill, value, 600)),
        rect(28, 162, 290, 170, "#18222f", 8), text(44, 188, 12, "#8496ab", "By month"), ...bars,
        rect(330, 162, 282, 170, "#18222f", 8), text(346, 188, 12, "#8496ab", "Visitors"),
        line(curve(346, 200, 250, 112, 40, (i) => 0.45 + 0.3 * Math.sin(i / 5) + i / 220), "#78b4ff"),
        line(curve(346, 200, 250, 112, 40, (i) => 0.25 + 0.15 * Math.sin(i / 4 + 2)), "#78e0c0", 2),
    ];
}

function lesson() {
    const seats = ["#4d7cfe", "#e07a5f", "#81b29a", "#c78bff"].map((fill, index) =>
        rect(506, 22 + index * 82, 112, 72, "#e9ebf2", 8) + `<circle cx="562" cy="${52 + index * 82}" r="14" fill="${fill}"/>`
        + `<path d="M536 ${94 + index * 82}a26 24 0 0 1 52 0z" fill="${fill}"/>`);
    return [
        rect(0, 0, WIDTH, HEIGHT, "#f5f6fa"), rect(22, 22, 468, 316, "#ffffff", 10),
        text(46, 62, 22, "#20242e", "Waves and their sums", 600),
        text(46, 88, 14, "#687083", "y(t) = sin(t) + ½ sin(3t)"),
        `<path d="M46 206H466M60 118V310" stroke="#c6cbd8" stroke-width="2"/>`,
        line(curve(60, 126, 400, 160, 90, (i) => 0.5 + 0.3 * Math.sin(i / 9) + 0.15 * Math.sin(i / 3)), "#4d7cfe", 4),
        line(curve(60, 126, 400, 160, 90, (i) => 0.5 + 0.3 * Math.sin(i / 9)), "#e07a5f", 2), ...seats,
    ];
}

function ticker() {
    const stories = ["Harbour opens a second quay", "Night trains return to the coast", "Rain ends a dry spring"];
    return [
        rect(0, 0, WIDTH, HEIGHT, "#10131d"), rect(0, 0, WIDTH, 236, "#22304f"),
        `<path d="M0 236V150l90-42 76 36 96-74 128 88 84-40 166 78v40z" fill="#31507d"/>`,
        `<path d="M0 236v-34l120-40 140 44 130-30 250 36v24z" fill="#1b2740"/><circle cx="520" cy="66" r="26" fill="#f4c95d"/>`,
        rect(24, 214, 92, 30, "#d9413c", 4), text(42, 235, 16, "#ffffff", "LIVE", 700),
        text(24, 280, 26, "#ffffff", stories[0], 700), rect(0, 312, WIDTH, 48, "#d9413c"),
        text(24, 342, 16, "#ffffff", `${stories[1]}   ·   ${stories[2]}`, 500),
    ];
}

function slide() {
    const steps = ["Capture", "Encode", "Deliver"];
    return [
        rect(0, 0, WIDTH, HEIGHT, "#fbf7ef"), rect(0, 0, 12, HEIGHT, "#c2532d"),
        text(52, 84, 34, "#2b211b", "One capture,", 700), text(52, 124, 34, "#c2532d", "many outputs", 700),
        ...steps.map((step, index) => rect(52 + index * 184, 180, 160, 92, "#ffffff", 10)
            + text(72 + index * 184, 218, 13, "#9b8b7e", `Step ${index + 1}`)
            + text(72 + index * 184, 248, 22, "#2b211b", step, 600)),
        text(52, 330, 13, "#9b8b7e", "Deck 42 · page 3 of 18"),
    ];
}

function map() {
    const ships = [[200, 150], [290, 210], [380, 120], [455, 246], [330, 292]];
    return [
        rect(0, 0, WIDTH, HEIGHT, "#a9d3e6"), `<path d="M0 0h250l-60 80 20 90-90 60 24 130H0z" fill="#e8e4d3"/>`,
        `<path d="M640 120l-96 40-40 96 60 104h76z" fill="#dfe6cf"/>`,
        `<path d="M40 0l70 130-60 230M0 190l130-30" stroke="#ffffff" stroke-width="6" fill="none"/>`,
        ...ships.map(([x, y], index) => `<g transform="translate(${x} ${y}) rotate(${index * 47})">`
            + `<path d="M0-16 9 14H-9z" fill="${index === 2 ? "#d9413c" : "#1f4e79"}"/></g>`),
        rect(24, 284, 176, 54, "#ffffff", 8), text(40, 306, 12, "#5c6b78", "Harbour traffic"),
        text(40, 327, 17, "#1d2a35", "5 ships, 1 delayed", 600),
    ];
}

const PAGES = [dashboard, lesson, ticker, slide, map];

/** Picture `index` as SVG. */
export const picture = (index) => `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}"
    viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="Noto Sans, sans-serif">${PAGES[index % PAGES.length]().join("")}</svg>`;
