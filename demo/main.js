// The demo loops every ten seconds: five scenes of two seconds, one bar of music each.
// `?t=3.5` holds the picture at that second, for stills.

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
function put(element, property, value) {
  if (element.style.getPropertyValue(property) !== value) element.style.setProperty(property, value);
}

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/// Uncovers a scene from left to right behind a slanted edge.
function wipe(section, x) {
  const edge = easeOut(x) * 125;
  put(section, "clip-path", x >= 1 ? "none" : `polygon(0 0, ${edge}% 0, ${edge - 25}% 100%, 0 100%)`);
}

function showScene(index, local) {
  const leaving = local < WIPE_S ? (index + scenes.length - 1) % scenes.length : -1;
  sections.forEach((section, i) => {
    put(section, "visibility", i === index || i === leaving ? "visible" : "hidden");
    put(section, "z-index", i === index ? "1" : "0");
  });
  wipe(sections[index], local / WIPE_S);
  for (const element of entries[index]) {
    const x = easeOut((local - Number(element.dataset.in)) / ENTER_S);
    put(element, "opacity", x.toFixed(3));
    put(element, "transform", x === 1 ? "none" : `translateY(${((1 - x) * 0.5).toFixed(3)}em)`);
  }
}

function showBar(t, index, local, frame) {
  tabs.forEach((tab, i) => {
    tab.classList.toggle("now", i === index);
    put(tab, "--done", i < index ? "1" : i > index ? "0" : (local / BAR_S).toFixed(3));
  });
  const minutes = String(Math.floor(t / 60)).padStart(2, "0");
  text(byId("elapsed"), `${minutes}:${(t % 60).toFixed(3).padStart(6, "0")}`);
  text(byId("frame"), String(frame).padStart(6, "0"));
  text(byId("clock"), new Date().toISOString().slice(11, 19) + " UTC");
}

const music = new Music();
let frame = 0;
let opened = null;

function show(t, moving) {
  const index = Math.floor(t / BAR_S) % scenes.length;
  // The very first frame of a recording should already show the title.
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
  for (const canvas of document.querySelectorAll("canvas")) fit(canvas);
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
