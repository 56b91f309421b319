import { describe, expect, test } from "vitest";

import { InputError } from "../src/errors.js";
import { readWav, writeWav } from "../src/wav.js";

interface Options {
  readonly tag?: number;
  readonly bits?: number;
  readonly channels?: number;
  readonly rate?: number;
  readonly claimed?: number;
  readonly before?: readonly number[];
  readonly after?: readonly number[];
  readonly extension?: readonly number[];
}

function ascii(text: string): number[] {
  return Array.from(text, (character) => character.charCodeAt(0));
}

function little(value: number, count: number): number[] {
  return Array.from({ length: count }, (_, place) => Math.floor(value / 256 ** place) % 256);
}

/** A WAV file of these bytes of samples. */
function wav(samples: readonly number[], options: Options = {}): Uint8Array {
  const { tag = 1, bits = 16, channels = 1, rate = 16000, before = [], after = [], extension = [] } = options;
  const frame = (channels * bits) / 8;
  const format = [...little(tag, 2), ...little(channels, 2), ...little(rate, 4), ...little(rate * frame, 4)];
  format.push(...little(frame, 2), ...little(bits, 2), ...extension);
  const head = [...ascii("WAVE"), ...before, ...ascii("fmt "), ...little(format.length, 4), ...format];
  const data = [...ascii("data"), ...little(options.claimed ?? samples.length, 4), ...samples];
  const body = [...head, ...data, ...new Array<number>(samples.length % 2).fill(0), ...after];
  return Uint8Array.from([...ascii("RIFF"), ...little(body.length, 4), ...body]);
}

function floats(values: readonly number[]): number[] {
  return Array.from(new Uint8Array(Float32Array.from(values).buffer));
}

const EXTENSION = [22, 0, 16, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

describe("formats", () => {
  test.each([
    ["8 bits", [0, 64, 128, 255], { bits: 8 }, [-1, -0.5, 0, 127 / 128]],
    ["16 bits", [0, 0x80, 0, 0, 1, 0, 0xff, 0x7f], {}, [-1, 0, 1 / 32768, 32767 / 32768]],
    ["24 bits", [0, 0, 0x80, 1, 0, 0, 0xff, 0xff, 0xff], { bits: 24 }, [-1, 2 ** -23, -(2 ** -23)]],
    ["32 bits", [0, 0, 0, 0x80, 0, 0, 0, 0x40, 0xff, 0xff, 0xff, 0x7f], { bits: 32 }, [-1, 0.5, 1]],
    ["floats", floats([0.1, -2, 0]), { tag: 3, bits: 32 }, [Math.fround(0.1), -2, 0]],
    [
      "doubles",
      Array.from(new Uint8Array(Float64Array.of(0.1, -2).buffer)),
      { tag: 3, bits: 64 },
      [Math.fround(0.1), -2],
    ],
    ["an extended format", [0, 0x40], { tag: 0xfffe, extension: EXTENSION }, [0.5]],
    ["two channels", [0, 0x40, 0, 0, 0, 0x80, 0, 0x80], { channels: 2 }, [0.25, -1]],
  ])("%s", (_, samples, options, expected) => {
    const { audio, sampleRate } = readWav(wav(samples, options));
    expect(Array.from(audio)).toEqual(expected);
    expect(sampleRate).toBe(16000);
  });

  test("chunks before and after, of odd lengths", () => {
    const odd = [...ascii("odd "), ...little(3, 4), 1, 2, 3, 0];
    const list = [...ascii("LIST"), ...little(4, 4), ...ascii("INFO")];
    expect(Array.from(readWav(wav([128, 192, 0], { bits: 8, before: [...odd, ...list], after: odd })).audio)).toEqual([
      0, 0.5, -1,
    ]);
  });

  test.each([0x7fffffff, 0x7ffff000, 0xffffffff, 0xffffff00])("a length of %i stands for all bytes", (claimed) => {
    expect(readWav(wav([0, 0x40, 0, 0], { claimed })).audio).toEqual(Float32Array.of(0.5, 0));
  });

  test("a length that was never filled in", () => {
    const bytes = wav([0, 0x40], { claimed: 0 });
    for (const size of [0, 36, 0xffffffff]) {
      new DataView(bytes.buffer).setUint32(4, size, true);
      expect(readWav(bytes).audio).toEqual(Float32Array.of(0.5));
    }
    new DataView(bytes.buffer).setUint32(4, 38, true);
    expect(() => readWav(bytes)).toThrow("the audio holds no samples");
  });

  test("a view of a larger buffer", () => {
    const bytes = wav([0, 0x40]);
    const buffer = Uint8Array.from([1, 2, 3, ...bytes]);
    expect(readWav(buffer.subarray(3)).audio).toEqual(Float32Array.of(0.5));
  });
});

describe("refusals", () => {
  test.each([
    ["no bytes", new Uint8Array(0), "the audio is empty"],
    ["text", Uint8Array.from(ascii("This is not audio.")), "is not a WAV file"],
    ["a compressed format", wav([0, 0], { tag: 2 }), "is not a WAV file"],
    ["no format", Uint8Array.from([...ascii("RIFF0000WAVEdata"), 2, 0, 0, 0, 1, 2]), "is not a WAV file"],
    ["no samples", wav([]), "the audio holds no samples"],
    ["half a sample", wav([1]), "the audio holds no samples"],
    ["a cut", wav([1, 2, 3, 4]).subarray(0, -1), "is cut off: its header claims 2 samples, but it holds 1"],
    ["a cut header", wav([1, 2]).subarray(0, 41), "is not a WAV file"],
    ["a low rate", wav([0, 0], { rate: 999 }), "sample rate of 999 Hz; it must be 1000 to 192000"],
    ["a high rate", wav([0, 0], { rate: 192001 }), "sample rate of 192001 Hz"],
    ["many channels", wav(new Array<number>(2050).fill(0), { channels: 1025 }), "1025 channels; at most 1024"],
    ["no channels", wav([0, 0], { channels: 0 }), "is not a WAV file"],
    ["NaN", wav(floats([0, NaN]), { tag: 3, bits: 32 }), "not finite"],
    ["infinity", wav(floats([0, -Infinity]), { tag: 3, bits: 32, channels: 2 }), "not finite"],
    ["a high peak", wav(floats([0, -20000]), { tag: 3, bits: 32 }), "a peak of 20000"],
  ])("%s", (_, bytes, message) => {
    expect(() => readWav(bytes)).toThrow(message);
    expect(() => readWav(bytes)).toThrow(InputError);
  });

  test.each([
    [Float32Array.of(0, NaN), 16000, "not finite"],
    [Float32Array.of(17), 16000, "a peak of 17"],
    [Float32Array.of(0), 999, "sample rate of 999 Hz"],
    [Float32Array.of(0), 16000.5, "sample rate of 16000.5 Hz"],
  ])("writing %s at %f Hz", (audio, rate, message) => {
    expect(() => writeWav(audio, rate)).toThrow(message);
  });
});

test("16-bit samples are written as they were read", () => {
  const samples = Array.from({ length: 2 ** 16 }, (_, value) => [value & 255, value >> 8]).flat();
  const bytes = wav(samples, { rate: 44100 });
  const { audio, sampleRate } = readWav(bytes);
  expect(writeWav(audio, sampleRate)).toEqual(bytes);
});

test("halves are rounded to even numbers, and loud samples are clipped", () => {
  const steps = Float32Array.of(0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 32767.5, 40000, -32768.5, -40000);
  const { audio } = readWav(writeWav(steps.map((value) => value / 32768), 16000));
  expect(Array.from(audio.map((value) => value * 32768))).toEqual([
    ...[0, 2, 2, 0, -2, -2, 32767, 32767, -32768, -32768],
  ]);
});
