/** One recording on the page: what was heard, its codes, and what is decoded from them. */
import {
  EntropyModel,
  InputError,
  readSpt,
  readWav,
  type RemoteTokenizer,
  resample,
  writeSpt,
} from "../src/index.js";

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
  const [low, high] = PLAYABLE;
  if (sampleRate >= low && sampleRate <= high) return { kind: "audio", audio, sampleRate };
  return { kind: "audio", audio: resample(audio, sampleRate, 48_000), sampleRate: 48_000 };
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
  const spt = toSpt(codes, original.length, sampleRate, tokenizer);
  return { name, original, sampleRate, codes, decoded, spt, tokenizer, seconds: { encoding, decoding } };
}

/** Decode the content of a `.spt` file whose model is `tokenizer`. */
export async function fromSpt(name: string, bytes: Uint8Array, tokenizer: RemoteTokenizer): Promise<Clip> {
  const { header, codes } = readSpt(bytes, (id) => {
    const model = entropyModel(tokenizer);
    return model?.id === id ? model : undefined;
  });
  const { tokensPerFrame, codebookSize } = tokenizer.config;
  const { sampleRate, numSamples } = header;
  if (header.tokensPerFrame !== tokensPerFrame || header.codebookSize !== codebookSize || numSamples === null) {
    throw new InputError(`${name} does not fit the model whose weights it names`);
  }
  if (numSamples > MOST_SECONDS * sampleRate) throw new InputError(`${name} is longer than ${MOST_SECONDS / 60} minutes`);
  const frames = tokenizer.config.numFrames(Math.ceil((numSamples * tokenizer.config.sampleRate) / sampleRate));
  if (frames * tokensPerFrame !== codes.length) throw new InputError(`${name} has another number of codes than its length needs`);
  const [low, high] = PLAYABLE;
  const rate = sampleRate >= low && sampleRate <= high ? sampleRate : 48_000;
  const length = Math.ceil((numSamples * rate) / sampleRate);
  const { decoded, decoding } = await decode(codes, length, rate, tokenizer);
  const seconds = { encoding: 0, decoding };
  return { name, original: undefined, sampleRate: rate, codes, decoded, spt: bytes, tokenizer, seconds };
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

function toSpt(codes: Int32Array, numSamples: number, sampleRate: number, tokenizer: RemoteTokenizer): Uint8Array {
  const { tokensPerFrame, codebookSize } = tokenizer.config;
  const entropy = entropyModel(tokenizer);
  const header = { model: "", weightHash: tokenizer.weightHash, sampleRate, numSamples, tokensPerFrame, codebookSize };
  return writeSpt({ ...header, entropyId: entropy?.id ?? "" }, codes, entropy);
}

const entropyModels = new WeakMap<RemoteTokenizer, EntropyModel>();

function entropyModel(tokenizer: RemoteTokenizer): EntropyModel | undefined {
  if (tokenizer.entropy === undefined) return undefined;
  let model = entropyModels.get(tokenizer);
  if (model === undefined) {
    model = EntropyModel.fromBytes(tokenizer.entropy, tokenizer.config.tokensPerFrame);
    entropyModels.set(tokenizer, model);
  }
  return model;
}
