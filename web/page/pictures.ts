/** Draws spectrograms and codes on canvases. */
import { resample } from "../src/index.js";

const RATE = 16_000; // Hz, of which spectrograms show the lower half
const WINDOW = 512; // samples of a spectrum: 32 ms
const RANGE_DB = 75; // between the darkest and the brightest colour
const COLOURS = [
  [16, 18, 28],
  [45, 38, 92],
  [128, 44, 108],
  [214, 84, 78],
  [250, 178, 92],
  [252, 244, 196],
] as const;

/** Draw the spectrogram of audio at `sampleRate` Hz; nothing if there is no audio. */
export function drawSpectrogram(canvas: HTMLCanvasElement, audio: Float32Array | undefined, sampleRate: number): void {
  const { width, height, context } = sized(canvas);
  if (audio === undefined || audio.length === 0) return;
  const samples = resample(audio, sampleRate, RATE);
  const window = Float64Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (n + 0.5)) / WINDOW));
  const picture = context.createImageData(width, height);
  const columns: Float64Array[] = [];
  let loudest = -30; // dB: silence stays dark
  for (let x = 0; x < width; x++) {
    const start = Math.round(((x + 0.5) / width) * samples.length - WINDOW / 2);
    const decibels = spectrum((n) => (samples[start + n] ?? 0) * window[n]!);
    for (const value of decibels) loudest = Math.max(loudest, value);
    columns.push(decibels);
  }
  columns.forEach((decibels, x) => {
    for (let y = 0; y < height; y++) {
      const bin = Math.min(WINDOW / 2 - 1, Math.floor(((height - 1 - y) / height) * (WINDOW / 2)));
      paint(picture, x, y, 1 + (decibels[bin]! - loudest) / RANGE_DB);
    }
  });
  context.putImageData(picture, 0, 0);
}

/** Draw codes, a column for each frame, a row for each of its codes; the colour is the number of the code. */
export function drawCodes(canvas: HTMLCanvasElement, codes: Int32Array, perFrame: number, codebookSize: number): void {
  const { width, height, context } = sized(canvas);
  const frames = codes.length / perFrame;
  const picture = context.createImageData(width, height);
  for (let x = 0; x < width; x++) {
    const frame = Math.floor((x / width) * frames);
    for (let y = 0; y < height; y++) {
      const code = codes[frame * perFrame + Math.floor((y / height) * perFrame)] ?? 0;
      paint(picture, x, y, code / codebookSize);
    }
  }
  context.putImageData(picture, 0, 0);
}

function sized(canvas: HTMLCanvasElement): { width: number; height: number; context: CanvasRenderingContext2D } {
  const scale = Math.min(2, globalThis.devicePixelRatio || 1);
  const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale)));
  const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale)));
  return { width, height, context: canvas.getContext("2d")! };
}

function paint(picture: ImageData, x: number, y: number, share: number): void {
  const place = Math.min(1, Math.max(0, share)) * (COLOURS.length - 1);
  const lower = Math.min(COLOURS.length - 2, Math.floor(place));
  const [from, to] = [COLOURS[lower]!, COLOURS[lower + 1]!];
  const start = 4 * (y * picture.width + x);
  for (const part of [0, 1, 2] as const) {
    picture.data[start + part] = from[part] + (to[part] - from[part]) * (place - lower);
  }
  picture.data[start + 3] = 255;
}

/** Energies in dB of the first half of the discrete Fourier transform of `WINDOW` real numbers. */
function spectrum(sample: (n: number) => number): Float64Array {
  const real = new Float64Array(WINDOW);
  const imaginary = new Float64Array(WINDOW);
  const bits = Math.log2(WINDOW);
  for (let n = 0; n < WINDOW; n++) {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit++) reversed |= ((n >> bit) & 1) << (bits - 1 - bit);
    real[reversed] = sample(n);
  }
  for (let size = 2; size <= WINDOW; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [cos, sin] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let even = k; even < WINDOW; even += size) {
        const odd = even + size / 2;
        const re = cos * real[odd]! - sin * imaginary[odd]!;
        const im = cos * imaginary[odd]! + sin * real[odd]!;
        real[odd] = real[even]! - re;
        imaginary[odd] = imaginary[even]! - im;
        real[even]! += re;
        imaginary[even]! += im;
      }
    }
  }
  return Float64Array.from({ length: WINDOW / 2 }, (_, k) => 10 * Math.log10(real[k]! ** 2 + imaginary[k]! ** 2 + 1e-12));
}
