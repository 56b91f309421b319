/** Reads and writes WAV files of samples that are not compressed. */

import { InputError, require } from "./errors.js";
import { MAX_PEAK, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, toInt16 } from "./resampling.js";

const MAX_CHANNELS = 1024;
const PCM = 1; // the format tags
const FLOAT = 3;
const EXTENSIBLE = 0xfffe; // the format tag is in the extension
const UNKNOWN = 0xffffffff;
const ENDLESS = 0x7ffff000; // writers that do not know the number of bytes claim this many, or more

/** How samples are stored: reads the one that begins at a place, as a float whose full scale is 1. */
type Sample = (view: DataView, place: number) => number;

const SAMPLES: Readonly<Record<string, Sample>> = {
  [`${PCM}/8`]: (view, place) => (view.getUint8(place) - 128) / 2 ** 7,
  [`${PCM}/16`]: (view, place) => view.getInt16(place, true) / 2 ** 15,
  [`${PCM}/24`]: (view, place) => (view.getInt16(place + 1, true) * 256 + view.getUint8(place)) / 2 ** 23,
  [`${PCM}/32`]: (view, place) => Math.fround(view.getInt32(place, true)) / 2 ** 31,
  [`${FLOAT}/32`]: (view, place) => view.getFloat32(place, true),
  [`${FLOAT}/64`]: (view, place) => Math.fround(view.getFloat64(place, true)),
};

interface Format {
  readonly sampleRate: number;
  readonly channels: number;
  readonly sample: Sample;
  /** Bytes of one sample of all channels. */
  readonly frameBytes: number;
}

/** Audio and its sample rate. */
export interface Wav {
  /** Mono, full scale is 1. */
  readonly audio: Float32Array;
  /** In Hz. */
  readonly sampleRate: number;
}

/**
 * Read a WAV file of integers of 8, 16, 24 or 32 bits or of floats of 32 or 64 bits; channels are averaged.
 *
 * Integers are divided by 2^(bits - 1), and floats keep their values, also those beyond 1. If the header lacks the
 * number of samples, as that of a recording to a pipe, all bytes after it are samples.
 *
 * @param bytes - The file.
 * @returns The audio, one sample or more, and its sample rate, 1000 to 192000 Hz.
 * @throws {@link InputError} The file is not such a WAV, is cut off, has no samples, or has samples that are not finite
 * or have a magnitude over 16.
 */
export function readWav(bytes: Uint8Array): Wav {
  require(bytes.length > 0, "the audio is empty");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const unknown = "the audio is not a WAV file of 8 to 32-bit integers or of floats";
  require(bytes.length >= 12 && text(bytes, 0) === "RIFF" && text(bytes, 8) === "WAVE", unknown);
  let format: Format | undefined;
  let position = 12;
  while (position + 8 <= bytes.length && text(bytes, position) !== "data") {
    const length = view.getUint32(position + 4, true);
    if (text(bytes, position) === "fmt ") {
      format = readFormat(view, position + 8, Math.min(length + (length % 2), bytes.length - position - 8));
    }
    position += 8 + length + (length % 2);
  }
  if (format === undefined || position + 8 > bytes.length) throw new InputError(unknown);
  const { sampleRate, channels, sample, frameBytes } = format;
  require(channels <= MAX_CHANNELS, `the audio has ${channels} channels; at most ${MAX_CHANNELS} are read`);
  checkRate(sampleRate);
  const start = position + 8;
  const numBytes = sampleBytes(view.getUint32(position + 4, true), 8 + view.getUint32(4, true), start);
  const held = bytes.length - start;
  const length = Math.floor(Math.min(numBytes, held) / frameBytes);
  const claimed = numBytes < ENDLESS ? Math.floor(numBytes / frameBytes) : 0;
  const cutOff = `the audio is cut off: its header claims ${claimed} samples, but it holds ${length}`;
  require(length >= claimed, cutOff);
  require(length > 0, "the audio holds no samples");
  const audio = new Float32Array(length);
  const frame = new Float32Array(channels);
  for (let index = 0; index < length; index++) {
    for (let channel = 0; channel < channels; channel++) {
      const place = start + index * frameBytes + (channel * frameBytes) / channels;
      frame[channel] = sample(view, place);
    }
    checkPeak(frame);
    audio[index] = channels === 1 ? frame[0]! : (0 + sum(frame, 0, channels)) / channels; // no sum is -0
  }
  return { audio, sampleRate };
}

/**
 * Write audio as a mono WAV file of 16 bits.
 *
 * @param audio - Full scale is 1; samples beyond are clipped. It may be empty.
 * @param sampleRate - In Hz, 1000 to 192000.
 * @throws {@link InputError} The sample rate is another one, or samples are not finite or have a magnitude over 16.
 */
export function writeWav(audio: Float32Array, sampleRate: number): Uint8Array {
  checkRate(sampleRate);
  checkPeak(audio);
  const bytes = new Uint8Array(44 + 2 * audio.length);
  const view = new DataView(bytes.buffer);
  const size = 2 * audio.length;
  putText(bytes, 0, "RIFF");
  view.setUint32(4, size + 36, true);
  putText(bytes, 8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, PCM, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  putText(bytes, 36, "data");
  view.setUint32(40, size, true);
  toInt16(audio).forEach((value, index) => view.setInt16(44 + 2 * index, value, true));
  return bytes;
}

function readFormat(view: DataView, place: number, length: number): Format | undefined {
  if (length < 16) return undefined;
  const channels = view.getUint16(place + 2, true);
  const frameBytes = view.getUint16(place + 12, true);
  const bits = view.getUint16(place + 14, true);
  let tag = view.getUint16(place, true);
  if (tag === EXTENSIBLE && length >= 26) tag = view.getUint16(place + 24, true);
  const sample = SAMPLES[`${tag}/${bits}`];
  if (sample === undefined || channels === 0 || frameBytes !== (channels * bits) / 8) return undefined;
  return { sampleRate: view.getUint32(place + 4, true), channels, sample, frameBytes };
}

/** The bytes of samples that a header claims; infinite if its writer did not know, or had not filled them in yet. */
function sampleBytes(length: number, riffEnd: number, start: number): number {
  const isUnfilled = riffEnd === 8 || riffEnd === 8 + UNKNOWN || riffEnd <= start;
  const isUnknown = length === 0x7fffffff || length === 0x7ffff000 || length >= UNKNOWN - 255;
  return (length === 0 && isUnfilled) || isUnknown ? Infinity : length;
}

function checkRate(sampleRate: number): void {
  const isRate = Number.isInteger(sampleRate) && sampleRate >= MIN_SAMPLE_RATE && sampleRate <= MAX_SAMPLE_RATE;
  const range = `${MIN_SAMPLE_RATE} to ${MAX_SAMPLE_RATE}`;
  require(isRate, `the audio has a sample rate of ${sampleRate} Hz; it must be ${range}`);
}

function checkPeak(audio: Float32Array): void {
  for (const value of audio) {
    if (Math.abs(value) <= MAX_PEAK) continue;
    require(Number.isFinite(value), "the audio has samples that are not finite (NaN or infinity)");
    throw new InputError(`the audio has a peak of ${Math.abs(value)}; samples must be in [-1, 1]`);
  }
}

/** The sum of values in 32-bit floats, added in the order in which numpy adds them. */
function sum(values: Float32Array, start: number, count: number): number {
  if (count > 128) {
    const half = Math.floor(count / 16) * 8;
    return Math.fround(sum(values, start, half) + sum(values, start + half, count - half));
  }
  const whole = count < 8 ? 0 : count - (count % 8);
  let total = -0;
  if (whole) {
    const lanes = values.slice(start, start + 8);
    for (let index = 8; index < whole; index++) lanes[index % 8] = lanes[index % 8]! + values[start + index]!;
    const [a, b, c, d] = [0, 2, 4, 6].map((lane) => Math.fround(lanes[lane]! + lanes[lane + 1]!));
    total = Math.fround(Math.fround(a! + b!) + Math.fround(c! + d!));
  }
  for (let index = whole; index < count; index++) total = Math.fround(total + values[start + index]!);
  return total;
}

function text(bytes: Uint8Array, place: number): string {
  return String.fromCharCode(...bytes.subarray(place, place + 4));
}

function putText(bytes: Uint8Array, place: number, characters: string): void {
  for (let index = 0; index < characters.length; index++) bytes[place + index] = characters.charCodeAt(index);
}
