import { expect, test } from "vitest";

import { InputError, resample, StreamResampler } from "../src/index.js";

const RATES = [8000, 11025, 16000, 22050, 44100, 48000] as const;

function noise(length: number): Float32Array {
  let seed = 1;
  return Float32Array.from({ length }, () => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed / 0x40000000 - 1;
  });
}

test("lengths are rounded up", () => {
  for (const from of RATES) {
    for (const to of RATES) {
      for (const length of [0, 1, 2, 999, 1000]) {
        expect(resample(noise(length), from, to).length).toBe(Math.ceil((length * to) / from));
      }
    }
  }
});

test("a tone below the band edge keeps its amplitude and place, and one above it is gone", () => {
  for (const from of [44100, 48000]) {
    const tone = (frequency: number, rate: number, length: number): Float32Array =>
      Float32Array.from({ length }, (_, n) => Math.sin((2 * Math.PI * frequency * n) / rate));
    const middle = (audio: Float32Array): Float32Array => audio.subarray(1000, 7000);
    const low = resample(tone(7000, from, from / 2), from, 16000);
    const error = middle(low).map((sample, n) => sample - Math.sin((2 * Math.PI * 7000 * (n + 1000)) / 16000));
    expect(Math.max(...error.map(Math.abs))).toBeLessThan(2e-6);
    const high = resample(tone(8200, from, from / 2), from, 16000);
    expect(Math.max(...middle(high).map(Math.abs))).toBeLessThan(2e-6);
  }
});

test("chunks of any size give the samples of the whole", () => {
  const audio = noise(5000);
  for (const [from, to] of [[48000, 16000], [44100, 16000], [16000, 44100], [16000, 16000]] as const) {
    const whole = resample(audio, from, to);
    for (const size of [1, 7, 480, 4999]) {
      const stream = new StreamResampler(from, to);
      const pieces: number[] = [];
      for (let start = 0; start < audio.length; start += size) pieces.push(...stream.push(audio.subarray(start, start + size)));
      pieces.push(...stream.flush());
      expect(Float32Array.from(pieces)).toEqual(whole);
    }
  }
});

test("after flush a new signal begins", () => {
  const stream = new StreamResampler(48000, 16000);
  const once = [...stream.push(noise(900)), ...stream.flush()];
  expect([...stream.push(noise(900)), ...stream.flush()]).toEqual(once);
});

test("rates out of range are refused", () => {
  for (const rate of [999, 192001, 16000.5, Number.NaN]) {
    expect(() => new StreamResampler(rate, 16000)).toThrow(InputError);
    expect(() => resample(new Float32Array(1), 16000, rate)).toThrow(`the sample rate is ${rate} Hz`);
  }
});
