// Generative music: a bar for each scene, sixteen steps a bar, five chords a loop.
// What is played is a pure function of the step, so the sound scene can draw it without listening.

import { noise } from "./canvas.js";

export const BAR_S = 2;
export const STEPS = 16;
const STEP_S = BAR_S / STEPS;
const AHEAD_S = 0.25;
const START_S = 0.06;

// Midi notes: bass, then the chord from low to high.
const CHORDS = [
  [38, 54, 57, 61, 64, 69, 73],
  [42, 54, 57, 61, 64, 66, 73],
  [35, 54, 57, 59, 62, 66, 73],
  [43, 54, 57, 59, 62, 66, 74],
  [45, 55, 59, 62, 64, 66, 71],
];
const hertz = (note) => 440 * 2 ** ((note - 69) / 12);

/// The voices that sound on a step: row (0 = highest) → true.
export const ROWS = ["bell", "pluck", "pluck", "pluck", "hat", "bass", "kick"];

export function playsOn(step) {
  const s = step % STEPS;
  const bar = Math.floor(step / STEPS);
  const voice = Math.floor(noise(step, 7) * 3);
  const plucks = s % 4 === 0 || noise(step, 3) < 0.55;
  return ROWS.map((row, i) => {
    if (row === "bell") return s === 0 || (s === 6 && bar % 2 === 1) || (s === 11 && noise(bar, 5) < 0.5);
    if (row === "pluck") return plucks && i - 1 === voice;
    if (row === "hat") return s % 4 === 2 || (s % 2 === 1 && noise(step, 11) < 0.25);
    if (row === "bass") return s === 0 || s === 7 || s === 10;
    return s % 4 === 0;
  });
}

export class Music {
  #context = null;
  #master = null;
  #echo = null;
  #hiss = null;
  #origin = 0;
  #next = 0;

  start() {
    const context = new AudioContext({ latencyHint: "interactive" });
    this.#context = context;
    const squash = new DynamicsCompressorNode(context, { threshold: -16, ratio: 3, attack: 0.004, release: 0.2 });
    this.#master = new GainNode(context, { gain: 0.8 });
    this.#master.connect(squash).connect(context.destination);
    this.#echo = this.#makeEcho();
    this.#hiss = this.#makeHiss();
  }

  /// Schedules everything that begins before `t + AHEAD_S`; `t` is the picture's time in seconds.
  advance(t) {
    if (!this.#context || this.#context.state !== "running") return;
    // The picture leads: steps lie on its clock, corrected when the two were suspended against each other.
    const origin = this.#context.currentTime - t + START_S;
    if (Math.abs(origin - this.#origin) > 0.1) {
      this.#origin = origin;
      this.#next = Math.ceil(t / STEP_S);
    }
    for (; this.#next * STEP_S < t + AHEAD_S; this.#next += 1) this.#step(this.#next);
  }

  #step(step) {
    const at = this.#origin + step * STEP_S;
    const chord = CHORDS[Math.floor(step / STEPS) % CHORDS.length];
    if (step % STEPS === 0) this.#pad(at, chord);
    playsOn(step).forEach((sounds, row) => {
      if (!sounds) return;
      const note = chord[1 + ((step * 5 + row * 2) % 6)];
      if (ROWS[row] === "bell") this.#tone(at, { hz: hertz(note + 24), type: "sine", level: 0.14, decay: 1.4, echo: 0.5, pan: 0.3 });
      if (ROWS[row] === "pluck") this.#tone(at, { hz: hertz(note + 12), type: "triangle", level: 0.3, decay: 0.34, echo: 0.4, pan: (row - 2) * 0.5 });
      if (ROWS[row] === "bass") this.#tone(at, { hz: hertz(chord[0]), type: "triangle", level: 0.42, decay: 0.5, echo: 0, pan: 0 });
      if (ROWS[row] === "kick") this.#tone(at, { hz: 120, fall: 42, type: "sine", level: 0.55, decay: 0.22, echo: 0, pan: 0 });
      if (ROWS[row] === "hat") this.#brush(at);
    });
  }

  #tone(at, { hz, fall = hz, type, level, decay, echo, pan }) {
    const context = this.#context;
    const voice = new OscillatorNode(context, { type, frequency: hz });
    const shape = new GainNode(context, { gain: 0 });
    const place = new StereoPannerNode(context, { pan });
    if (fall !== hz) voice.frequency.setValueAtTime(hz, at).exponentialRampToValueAtTime(fall, at + decay / 2);
    shape.gain.setValueAtTime(0, at).linearRampToValueAtTime(level, at + 0.005).exponentialRampToValueAtTime(0.0005, at + decay);
    voice.connect(shape).connect(place).connect(this.#master);
    if (echo > 0) place.connect(new GainNode(context, { gain: echo })).connect(this.#echo);
    voice.start(at);
    voice.stop(at + decay + 0.02);
  }

  #pad(at, chord) {
    const context = this.#context;
    const warm = new BiquadFilterNode(context, { type: "lowpass", frequency: 500, Q: 0.4 });
    warm.frequency.setValueAtTime(420, at).linearRampToValueAtTime(1300, at + BAR_S / 2).linearRampToValueAtTime(420, at + BAR_S);
    const shape = new GainNode(context, { gain: 0 });
    shape.gain.setValueAtTime(0, at).linearRampToValueAtTime(0.05, at + 0.4).setValueAtTime(0.05, at + BAR_S - 0.3).linearRampToValueAtTime(0, at + BAR_S + 0.5);
    for (const note of chord.slice(1, 6)) {
      for (const detune of [-6, 6]) {
        const voice = new OscillatorNode(context, { type: "sawtooth", frequency: hertz(note), detune });
        voice.connect(warm);
        voice.start(at);
        voice.stop(at + BAR_S + 0.6);
      }
    }
    warm.connect(shape).connect(this.#master);
    shape.connect(new GainNode(context, { gain: 0.4 })).connect(this.#echo);
  }

  #brush(at) {
    const context = this.#context;
    const voice = new AudioBufferSourceNode(context, { buffer: this.#hiss });
    const bright = new BiquadFilterNode(context, { type: "highpass", frequency: 7000 });
    const shape = new GainNode(context, { gain: 0.18 });
    shape.gain.setValueAtTime(0.18, at).exponentialRampToValueAtTime(0.0005, at + 0.06);
    voice.connect(bright).connect(shape).connect(this.#master);
    voice.start(at);
    voice.stop(at + 0.08);
  }

  /// Two crossed delays: a wide echo for the cost of a few multiplications.
  #makeEcho() {
    const context = this.#context;
    const entry = new GainNode(context);
    const merge = new ChannelMergerNode(context, { numberOfInputs: 2 });
    const sides = [3, 4.5].map((steps) => new DelayNode(context, { delayTime: steps * STEP_S, maxDelayTime: 1 }));
    sides.forEach((side, i) => {
      const soft = new BiquadFilterNode(context, { type: "lowpass", frequency: 3200 });
      const back = new GainNode(context, { gain: 0.42 });
      side.connect(soft).connect(back).connect(sides[1 - i]);
      soft.connect(merge, 0, i);
    });
    entry.connect(sides[0]);
    merge.connect(this.#master);
    return entry;
  }

  #makeHiss() {
    const buffer = new AudioBuffer({ length: 9600, sampleRate: this.#context.sampleRate });
    const samples = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i += 1) samples[i] = noise(i, 17) * 2 - 1;
    return buffer;
  }
}
