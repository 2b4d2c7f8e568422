// The five scenes. Each one draws the picture of a given time and keeps no state between frames.

import { noise, palette, roundedBox, stage } from "./canvas.js";
import { openKnot } from "./knot.js";
import { BAR_S, playsOn, ROWS, STEPS } from "./music.js";

const grow = (x) => 1 - (1 - Math.min(Math.max(x, 0), 1)) ** 4;
const grouped = (value) => Math.round(value).toLocaleString("en-US");

// First scene: a row of pages in perspective that leave at equal intervals.
const CARDS = 7;
const cardColours = [palette.coral, palette.cobalt, palette.sun, palette.forest, palette.ink];

function drawCard(context, colour, kind) {
  context.fillStyle = palette.white;
  roundedBox(context, 0, 0, 300, 196, 12);
  context.fill();
  context.lineWidth = 3;
  context.strokeStyle = palette.ink;
  context.stroke();
  context.fillStyle = palette.ink;
  for (let i = 0; i < 3; i += 1) context.fillRect(16 + i * 15, 13, 8, 8);
  context.fillRect(0, 32, 300, 3);
  context.fillStyle = colour;
  if (kind === 0) context.fillRect(16, 50, 268, 74);
  if (kind === 1) for (let i = 0; i < 6; i += 1) context.fillRect(18 + i * 46, 124 - 14 - i * 10, 32, 14 + i * 10);
  if (kind === 2) {
    context.beginPath();
    context.moveTo(122, 52);
    context.lineTo(122, 124);
    context.lineTo(186, 88);
    context.fill();
  }
  context.fillStyle = "#d8d3ca";
  for (let i = 0; i < 3; i += 1) context.fillRect(16, 140 + i * 16, 268 - i * 52, 8);
}

function drawPages({ t, section }) {
  const context = stage(section.querySelector("canvas"), 680, 660);
  const base = context.getTransform();
  const phase = t * 0.8;
  const first = Math.floor(phase);
  for (let i = 0; i < CARDS; i += 1) {
    const number = first + CARDS - i;
    const age = i + (phase - first);
    const leaving = Math.max(0, age - CARDS + 1) ** 2;
    const along = age + leaving * 0.8;
    context.setTransform(base);
    context.globalAlpha = Math.min(1, age * 1.5) * (1 - leaving);
    context.transform(0.92, 0.32, 0, 1, 512 - along * 66, 24 + along * 46 + Math.sin(age * 0.9 - t * 1.4) * 14);
    drawCard(context, cardColours[number % 5], number % 3);
  }
  context.globalAlpha = 1;
}

// Second scene: the knot.
let knot = null;
const webgl = {
  id: "webgl",
  open(section) {
    knot = openKnot(section.querySelector("canvas"));
    section.querySelector("#renderer").textContent = knot.name;
  },
  draw: ({ t }) => knot.draw(t),
};

// Third scene: rows of text that move.
const type = {
  id: "type",
  open(section) {
    for (const row of section.querySelectorAll(".row")) row.append(row.firstElementChild.cloneNode(true));
  },
  draw({ local, section }) {
    section.querySelectorAll(".row").forEach((row, i) => {
      const along = (0.06 + local * (0.07 + 0.012 * i)) * 100;
      const shift = i % 2 === 0 ? -along : along - 60;
      for (const copy of row.children) copy.style.transform = `translateX(${shift.toFixed(3)}%)`;
    });
  },
};

// Fourth scene: a chart and counters that grow.
const CITIES = [["paris", 18240], ["shanghai", 21970], ["saopaulo", 8003]];

function drawChart({ t, local, section }) {
  const grown = grow(local / 1.1);
  section.querySelector("#viewers").textContent = grouped(48213 * grown + t * 37);
  CITIES.forEach(([id, count], i) => {
    section.querySelector(`#${id}`).textContent = grouped(count * grow(local / (1 + i * 0.2)) + t * (15 - i * 3));
  });
  const context = stage(section.querySelector("canvas"), 700, 500);
  drawBars(context, grown);
  drawCurve(context, grown);
}

function drawBars(context, grown) {
  for (let i = 0; i < 24; i += 1) {
    const full = 90 + 130 * noise(i, 2) + i * 6;
    const height = full * grow(grown * 1.6 - i * 0.025);
    context.fillStyle = i === 23 ? palette.coral : "#1d655c";
    roundedBox(context, i * 29, 490 - height, 19, height, [5, 5, 0, 0]);
    context.fill();
  }
}

function curveAt(i) {
  return 330 - i * 2.9 - 42 * Math.sin(i * 0.21) - 24 * Math.sin(i * 0.53 + 1) - 10 * Math.sin(i * 1.7);
}

function drawCurve(context, grown) {
  const last = 96 * grown;
  context.beginPath();
  for (let i = 0; i <= last; i += 0.5) context.lineTo(6 + i * 7, curveAt(i));
  context.lineWidth = 6;
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = palette.sun;
  context.stroke();
  const [x, y] = [6 + last * 7, curveAt(last)];
  context.fillStyle = palette.paper;
  context.beginPath();
  context.arc(x, y, 13, 0, 7);
  context.fill();
  context.fillStyle = palette.coral;
  context.beginPath();
  context.arc(x, y, 7, 0, 7);
  context.fill();
}

// Fifth scene: each note of the bar is a dot that is larger while it sounds.
const LABEL_WIDTH = 96;
const labels = ["bell", "pluck", "", "", "hat", "bass", "kick"];

function drawSteps({ t, section }) {
  const canvas = section.querySelector("canvas");
  const height = Math.min(1100, Math.max(440, (1152 * canvas.height) / canvas.width));
  const context = stage(canvas, 1152, height);
  const bar = Math.floor(t / BAR_S);
  const head = ((t % BAR_S) / BAR_S) * STEPS;
  const [dx, dy] = [(1152 - LABEL_WIDTH) / STEPS, height / ROWS.length];
  context.fillStyle = "#ff7a61";
  roundedBox(context, LABEL_WIDTH + Math.floor(head) * dx, 0, dx, height, 12);
  context.fill();
  context.fillStyle = palette.ink;
  context.font = '22px "Noto Sans", sans-serif';
  context.textBaseline = "middle";
  labels.forEach((label, row) => context.fillText(label, 0, (row + 0.5) * dy));
  for (let s = 0; s < STEPS; s += 1) {
    playsOn(bar * STEPS + s).forEach((sounds, row) => {
      const age = head - s;
      const flare = age >= 0 ? Math.exp(-age * 0.9) : 0;
      context.fillStyle = !sounds ? "#d94a30" : flare > 0.05 ? palette.paper : palette.ink;
      context.beginPath();
      context.arc(LABEL_WIDTH + (s + 0.5) * dx, (row + 0.5) * dy, sounds ? 15 + 14 * flare : 6, 0, 7);
      context.fill();
    });
  }
}

export const scenes = [
  { id: "page", draw: drawPages },
  webgl,
  type,
  { id: "data", draw: drawChart },
  { id: "sound", draw: drawSteps },
];
