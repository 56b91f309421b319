/**
 * Resamples audio: whole, or in chunks as it arrives.
 *
 * A windowed sinc with the filter that the Python package uses (soxr, high quality): the same band edge, length and
 * window. Browsers resample differently from each other, and a different filter changes one code in ten and more.
 */
import { joined } from "./arrays.js";
import { InputError, require } from "./errors.js";

export const MIN_SAMPLE_RATE = 1000;
export const MAX_SAMPLE_RATE = 192_000;
export const MAX_PEAK = 16; // +24 dB: above any recording

// They make the filter equal to that of soxr to -100 dB, between rates whose ratio is a whole number.
const CUTOFF = 0.956871; // where the filter lets half of the amplitude pass, as a share of half the lower rate
const HALF_LENGTH = 96.32; // of the filter, in samples of the lower rate
const KAISER_BETA = 12.9;

/** Check a sample rate in Hz and return it. */
export function checkSampleRate(rate: number): number {
  require(
    Number.isInteger(rate) && rate >= MIN_SAMPLE_RATE && rate <= MAX_SAMPLE_RATE,
    `the sample rate is ${rate} Hz, but must be a whole number from ${MIN_SAMPLE_RATE} to ${MAX_SAMPLE_RATE}`,
  );
  return rate;
}

/**
 * Resample mono audio, without delay.
 *
 * @param audio - `[T]`.
 * @param fromRate - its sample rate in Hz.
 * @param toRate - the wanted sample rate in Hz.
 * @returns `[ceil(T * toRate / fromRate)]`.
 * @throws InputError if a sample rate is out of range.
 */
export function resample(audio: Float32Array, fromRate: number, toRate: number): Float32Array {
  const resampler = new StreamResampler(fromRate, toRate);
  return joined(Float32Array, [resampler.push(audio), resampler.flush()]);
}

/** Resamples audio that arrives in chunks. The joined outputs equal those of {@link resample}, sample for sample. */
export class StreamResampler {
  readonly #up: number; // output samples in the shortest time with a whole number of samples at both rates
  readonly #down: number; // input samples in that time
  readonly #reach: number; // half length of the filter in input samples
  readonly #taps: (Float32Array | undefined)[]; // by the phase of an output sample between two input samples
  #recent: Float32Array = new Float32Array(0); // input from sample `#first` on
  #first = 0;
  #pushed = 0;
  #returned = 0;

  /**
   * @param fromRate - sample rate of the input in Hz.
   * @param toRate - sample rate of the output in Hz.
   * @throws InputError if a sample rate is out of range.
   */
  constructor(
    readonly fromRate: number,
    readonly toRate: number,
  ) {
    const divisor = greatestCommonDivisor(checkSampleRate(fromRate), checkSampleRate(toRate));
    this.#up = toRate / divisor;
    this.#down = fromRate / divisor;
    this.#reach = (HALF_LENGTH * fromRate) / Math.min(fromRate, toRate);
    this.#taps = new Array<Float32Array | undefined>(this.#up);
  }

  /** Resample a chunk `[T]`; returns `[T']`, the output that no later input can change. */
  push(audio: Float32Array): Float32Array {
    if (this.fromRate === this.toRate) return audio.slice();
    this.#recent = joined(Float32Array, [this.#recent, audio]);
    this.#pushed += audio.length;
    const known = this.#pushed - 1 - this.#reach; // the last input place whose neighbours are all there
    return this.#step(known < 0 ? 0 : Math.floor((known * this.#up) / this.#down) + 1);
  }

  /** Return the end of the signal, `[T']`; afterwards a new signal can begin. */
  flush(): Float32Array {
    if (this.fromRate === this.toRate) return new Float32Array(0);
    const rest = this.#step(Math.ceil((this.#pushed * this.toRate) / this.fromRate));
    this.#recent = new Float32Array(0);
    this.#first = this.#pushed = this.#returned = 0;
    return rest;
  }

  /** The output samples before number `end` that were not returned before. */
  #step(end: number): Float32Array {
    const output = new Float32Array(Math.max(0, end - this.#returned));
    for (let sample = 0; sample < output.length; sample++) {
      const place = (this.#returned + sample) * this.#down;
      const phase = place % this.#up;
      const taps = (this.#taps[phase] ??= this.#filter(phase / this.#up));
      const start = Math.floor(place / this.#up) - (taps.length >> 1) + 1 - this.#first;
      let sum = 0;
      const last = Math.min(taps.length, this.#recent.length - start);
      for (let tap = Math.max(0, -start); tap < last; tap++) sum += taps[tap]! * this.#recent[start + tap]!;
      output[sample] = sum;
    }
    this.#returned += output.length;
    const needed = Math.floor((this.#returned * this.#down) / this.#up) - Math.ceil(this.#reach);
    if (needed > this.#first) {
      this.#recent = this.#recent.slice(needed - this.#first);
      this.#first = needed;
    }
    return output;
  }

  /** The weights of the input samples around an output sample that is `fraction` of a sample after one of them. */
  #filter(fraction: number): Float32Array {
    const half = Math.ceil(this.#reach);
    const cutoff = (CUTOFF * Math.min(this.fromRate, this.toRate)) / this.fromRate;
    return Float32Array.from({ length: 2 * half }, (_, tap) => {
      const distance = tap - half + 1 - fraction;
      const share = distance / this.#reach;
      if (Math.abs(share) >= 1) return 0;
      const angle = Math.PI * cutoff * distance;
      const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
      return (cutoff * sinc * bessel(KAISER_BETA * Math.sqrt(1 - share * share))) / bessel(KAISER_BETA);
    });
  }
}

/** The modified Bessel function of the first kind and order 0, by its series. */
function bessel(x: number): number {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-17 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/**
 * Check that audio is mono and finite, and not louder than any recording; returns it as 32-bit floats, 16-bit integers
 * divided by 32768.
 */
export function checkAudio(audio: Float32Array | Int16Array | ArrayLike<number>): Float32Array {
  const isArray = audio instanceof Float64Array || (Array.isArray(audio) && audio.every((x) => typeof x === "number"));
  let samples: Float32Array;
  if (audio instanceof Float32Array) samples = audio;
  else if (audio instanceof Int16Array) samples = fromInt16(audio);
  else if (isArray) samples = Float32Array.from(audio);
  else throw new InputError("the audio must be a Float32Array, an Int16Array, or an array of numbers from -1 to 1");
  for (let n = 0; n < samples.length; n++) {
    const level = Math.abs(samples[n]!);
    if (level <= MAX_PEAK) continue;
    require(Number.isFinite(level), `the audio must be finite, but sample ${n} is ${samples[n]}`);
    throw new InputError(`the audio has a peak of ${level}; samples must be in [-1, 1]`);
  }
  return samples;
}

/** Floats as 16-bit integers; of two equally near ones the even one, and what is out of range is clipped. */
export function toInt16(audio: Float32Array): Int16Array {
  return Int16Array.from(audio, (sample) => Math.min(Math.max(roundToEven(sample * 32768), -32768), 32767));
}

/** The nearest whole number, and of two the even one. */
function roundToEven(value: number): number {
  const rounded = Math.round(value); // of two the greater one
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function fromInt16(audio: Int16Array): Float32Array {
  return Float32Array.from(audio, (sample) => sample / 32768);
}
