// Plays the demo in a loop of ten seconds: five scenes of two seconds, with one bar of music each.
// `?t=3.5` shows the picture of that second and stops, for screenshots.

import { BAR_S, Music } from "./music.js";
import { fit } from "./canvas.js";
import { scenes } from "./scenes.js";

const WIPE_S = 0.32;
const ENTER_S = 0.45;
const still = new URLSearchParams(location.search).get("t");

const byId = (id) => document.getElementById(id);
const sections = scenes.map(({ id }) => byId(id));
const tabs = [...document.querySelectorAll("nav span")];
const entries = sections.map((section) => [...section.querySelectorAll("[data-in]")]);

const easeOut = (x) => 1 - (1 - Math.min(Math.max(x, 0), 1)) ** 3;

/// Writes a style only when it changes, so that a picture at rest costs nothing.
function setStyle(element, property, value) {
  if (element.style.getPropertyValue(property) !== value) element.style.setProperty(property, value);
}

/// Writes a text only when it changes.
function setText(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/// Reveals a scene from left to right behind a slanted edge; `x` goes from 0 to 1.
function wipe(section, x) {
  const edge = easeOut(x) * 125;
  setStyle(section, "clip-path", x >= 1 ? "none" : `polygon(0 0, ${edge}% 0, ${edge - 25}% 100%, 0 100%)`);
}

/// Shows a scene at `local` seconds since its start, and the previous one below it while it is being revealed.
function showScene(index, local) {
  const leaving = local < WIPE_S ? (index + scenes.length - 1) % scenes.length : -1;
  sections.forEach((section, i) => {
    setStyle(section, "visibility", i === index || i === leaving ? "visible" : "hidden");
    setStyle(section, "z-index", i === index ? "1" : "0");
  });
  wipe(sections[index], local / WIPE_S);
  for (const element of entries[index]) {
    const x = easeOut((local - Number(element.dataset.in)) / ENTER_S);
    setStyle(element, "opacity", x.toFixed(3));
    setStyle(element, "transform", x === 1 ? "none" : `translateY(${((1 - x) * 0.5).toFixed(3)}em)`);
  }
}

/// Updates the bar at the bottom.
function showBar(t, index, local, frame) {
  tabs.forEach((tab, i) => {
    tab.classList.toggle("now", i === index);
    setStyle(tab, "--done", i < index ? "1" : i > index ? "0" : (local / BAR_S).toFixed(3));
  });
  const minutes = String(Math.floor(t / 60)).padStart(2, "0");
  setText(byId("elapsed"), `${minutes}:${(t % 60).toFixed(3).padStart(6, "0")}`);
  setText(byId("frame"), String(frame).padStart(6, "0"));
  setText(byId("clock"), new Date().toISOString().slice(11, 19) + " UTC");
}

const music = new Music();
let frame = 0;
let opened = null;

/// Draws the picture at `t` seconds; `moving` is false for a screenshot.
function show(t, moving) {
  const index = Math.floor(t / BAR_S) % scenes.length;
  // The first frame of a recording shows the title already.
  const local = t < BAR_S && moving ? (t % BAR_S) + ENTER_S : t % BAR_S;
  showScene(index, local);
  scenes[index].draw({ t, local, music, section: sections[index] });
  showBar(t, index, t % BAR_S, frame);
}

function tick(now) {
  opened ??= now;
  const t = (now - opened) / 1000;
  frame += 1;
  music.advance(t);
  show(t, true);
  requestAnimationFrame(tick);
}

function resize() {
  for (const canvas of document.querySelectorAll("main canvas")) fit(canvas);
  if (still !== null) show(Number(still), false);
}

await document.fonts.ready;
for (const scene of scenes) scene.open?.(byId(scene.id));
if (still === null) {
  music.start();
  requestAnimationFrame(tick);
} else {
  frame = Math.round(Number(still) * 30);
}
addEventListener("resize", resize);
resize();
