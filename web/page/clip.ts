/** One recording on the page: what was heard, its codes, and what is decoded from them. */
import { InputError, readWav, type RemoteTokenizer, resample } from "../src/index.js";

const MOST_SECONDS = 600; // of a recording that the page opens
const PLAYABLE = [8000, 96_000] as const; // sample rates that every browser plays

/** A recording with its codes. */
export interface Clip {
  /** Of the recording, without an ending. */
  name: string;
  /** What was heard, `[T]`; undefined if only the codes are known. */
  original: Float32Array | undefined;
  /** Of the original and the decoded audio, in Hz. */
  sampleRate: number;
  /** `[N]`. */
  codes: Int32Array;
  /** `[T]`. */
  decoded: Float32Array;
  /** The codes as a `.spt` file. */
  spt: Uint8Array;
  tokenizer: RemoteTokenizer;
  /** Seconds that encoding (0 if the codes were given) and decoding took. */
  seconds: { encoding: number; decoding: number };
}

/** What a file holds: a recording, or the codes of one. */
export type Opened = { kind: "audio"; audio: Float32Array; sampleRate: number } | { kind: "spt"; bytes: Uint8Array };

/** Read a file of the user. WAV is read exactly; the browser decodes other formats, at a rate of its own. */
export async function open(file: Blob & { name?: string }): Promise<Opened> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const begins = (...first: number[]): boolean => first.every((byte, place) => bytes[place] === byte);
  if (begins(0xa5, 0x53, 0x50, 0x54)) return { kind: "spt", bytes };
  if (begins(0x52, 0x49, 0x46, 0x46)) return checked(readWav(bytes));
  const context = new OfflineAudioContext(1, 1, 48_000);
  let decoded: AudioBuffer;
  try {
    decoded = await context.decodeAudioData(bytes.buffer);
  } catch {
    throw new InputError(`${file.name ?? "the file"} is not an audio file that this browser can read`);
  }
  const mix = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((sample, n) => (mix[n]! += sample / decoded.numberOfChannels));
  }
  return checked({ audio: mix, sampleRate: decoded.sampleRate });
}

function checked({ audio, sampleRate }: { audio: Float32Array; sampleRate: number }): Opened {
  if (audio.length === 0) throw new InputError("the recording is empty");
  if (audio.length > MOST_SECONDS * sampleRate) {
    throw new InputError(`the recording is longer than ${MOST_SECONDS / 60} minutes; use the command line for it`);
  }
  const rate = playable(sampleRate);
  return { kind: "audio", audio: resample(audio, sampleRate, rate), sampleRate: rate };
}

/** Encode a recording and decode it again. */
export async function encoded(
  name: string,
  original: Float32Array,
  sampleRate: number,
  tokenizer: RemoteTokenizer,
  known?: { codes: Int32Array; seconds: number },
): Promise<Clip> {
  const began = performance.now();
  const codes = known?.codes ?? (await tokenizer.encode(original, { sampleRate }));
  const encoding = known?.seconds ?? (performance.now() - began) / 1000;
  const { decoded, decoding } = await decode(codes, original.length, sampleRate, tokenizer);
  const spt = tokenizer.save(codes, { length: original.length, sampleRate });
  return { name, original, sampleRate, codes, decoded, spt, tokenizer, seconds: { encoding, decoding } };
}

/** Decode the content of a `.spt` file whose model is `tokenizer`. */
export async function fromSpt(name: string, spt: Uint8Array, tokenizer: RemoteTokenizer, most = MOST_SECONDS): Promise<Clip> {
  const { codes, length, sampleRate } = tokenizer.load(spt);
  if (length === 0) throw new InputError(`${name} holds no speech`);
  if (length > most * sampleRate) throw new InputError(`${name} is longer than ${most} seconds`);
  const rate = playable(sampleRate);
  const { decoded, decoding } = await decode(codes, Math.ceil((length * rate) / sampleRate), rate, tokenizer);
  const seconds = { encoding: 0, decoding };
  return { name, original: undefined, sampleRate: rate, codes, decoded, spt, tokenizer, seconds };
}

async function decode(
  codes: Int32Array,
  length: number,
  sampleRate: number,
  tokenizer: RemoteTokenizer,
): Promise<{ decoded: Float32Array; decoding: number }> {
  const began = performance.now();
  const decoded = await tokenizer.decode(codes, { length, sampleRate });
  return { decoded, decoding: (performance.now() - began) / 1000 };
}

/** A sample rate that every browser plays: the given one, or 48 kHz. */
function playable(sampleRate: number): number {
  const [low, high] = PLAYABLE;
  return sampleRate >= low && sampleRate <= high ? sampleRate : 48_000;
}
