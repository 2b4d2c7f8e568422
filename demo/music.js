// Generates the music: one bar per scene, sixteen steps per bar, five chords per loop.
// The notes are a pure function of the step, so the sound scene can draw them.

import { noise } from "./canvas.js";

export const BAR_S = 2;
export const STEPS = 16;
const STEP_S = BAR_S / STEPS;
const AHEAD_S = 0.25;
const START_S = 0.06;

// MIDI notes of each chord: the bass, then the others from low to high.
const CHORDS = [
  [38, 54, 57, 61, 64, 69, 73],
  [42, 54, 57, 61, 64, 66, 73],
  [35, 54, 57, 59, 62, 66, 73],
  [43, 54, 57, 59, 62, 66, 74],
  [45, 55, 59, 62, 64, 66, 71],
];
const hertz = (note) => 440 * 2 ** ((note - 69) / 12);

/// The voices of the rows, the highest first.
export const ROWS = ["bell", "pluck", "pluck", "pluck", "hat", "bass", "kick"];

/// Returns for each row whether its voice plays on a step.
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
  #noiseBuffer = null;
  #origin = 0;
  #next = 0;

  start() {
    const context = new AudioContext({ latencyHint: "interactive" });
    this.#context = context;
    const compressor = new DynamicsCompressorNode(context, { threshold: -16, ratio: 3, attack: 0.004, release: 0.2 });
    this.#master = new GainNode(context, { gain: 0.8 });
    this.#master.connect(compressor).connect(context.destination);
    this.#echo = this.#makeEcho();
    this.#noiseBuffer = this.#makeNoiseBuffer();
  }

  /// Schedules everything that begins before `t + AHEAD_S`; `t` is the picture's time in seconds.
  advance(t) {
    if (!this.#context || this.#context.state !== "running") return;
    // Steps lie on the clock of the picture. If one of the clocks was suspended, the offset is corrected.
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
      if (ROWS[row] === "hat") this.#hat(at);
    });
  }

  #tone(at, { hz, fall = hz, type, level, decay, echo, pan }) {
    const context = this.#context;
    const voice = new OscillatorNode(context, { type, frequency: hz });
    const envelope = new GainNode(context, { gain: 0 });
    const panner = new StereoPannerNode(context, { pan });
    if (fall !== hz) voice.frequency.setValueAtTime(hz, at).exponentialRampToValueAtTime(fall, at + decay / 2);
    envelope.gain.setValueAtTime(0, at).linearRampToValueAtTime(level, at + 0.005).exponentialRampToValueAtTime(0.0005, at + decay);
    voice.connect(envelope).connect(panner).connect(this.#master);
    if (echo > 0) panner.connect(new GainNode(context, { gain: echo })).connect(this.#echo);
    voice.start(at);
    voice.stop(at + decay + 0.02);
  }

  #pad(at, chord) {
    const context = this.#context;
    const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: 500, Q: 0.4 });
    filter.frequency.setValueAtTime(420, at).linearRampToValueAtTime(1300, at + BAR_S / 2).linearRampToValueAtTime(420, at + BAR_S);
    const envelope = new GainNode(context, { gain: 0 });
    envelope.gain.setValueAtTime(0, at).linearRampToValueAtTime(0.05, at + 0.4).setValueAtTime(0.05, at + BAR_S - 0.3).linearRampToValueAtTime(0, at + BAR_S + 0.5);
    for (const note of chord.slice(1, 6)) {
      for (const detune of [-6, 6]) {
        const voice = new OscillatorNode(context, { type: "sawtooth", frequency: hertz(note), detune });
        voice.connect(filter);
        voice.start(at);
        voice.stop(at + BAR_S + 0.6);
      }
    }
    filter.connect(envelope).connect(this.#master);
    envelope.connect(new GainNode(context, { gain: 0.4 })).connect(this.#echo);
  }

  #hat(at) {
    const context = this.#context;
    const voice = new AudioBufferSourceNode(context, { buffer: this.#noiseBuffer });
    const filter = new BiquadFilterNode(context, { type: "highpass", frequency: 7000 });
    const envelope = new GainNode(context, { gain: 0.18 });
    envelope.gain.setValueAtTime(0.18, at).exponentialRampToValueAtTime(0.0005, at + 0.06);
    voice.connect(filter).connect(envelope).connect(this.#master);
    voice.start(at);
    voice.stop(at + 0.08);
  }

  /// Makes a wide echo of two delays that feed each other, one for each channel.
  #makeEcho() {
    const context = this.#context;
    const entry = new GainNode(context);
    const merge = new ChannelMergerNode(context, { numberOfInputs: 2 });
    const sides = [3, 4.5].map((steps) => new DelayNode(context, { delayTime: steps * STEP_S, maxDelayTime: 1 }));
    sides.forEach((side, i) => {
      const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: 3200 });
      const back = new GainNode(context, { gain: 0.42 });
      side.connect(filter).connect(back).connect(sides[1 - i]);
      filter.connect(merge, 0, i);
    });
    entry.connect(sides[0]);
    merge.connect(this.#master);
    return entry;
  }

  #makeNoiseBuffer() {
    const buffer = new AudioBuffer({ length: 9600, sampleRate: this.#context.sampleRate });
    const samples = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i += 1) samples[i] = noise(i, 17) * 2 - 1;
    return buffer;
  }
}
