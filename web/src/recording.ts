/** Recordings of one model as `.spt` files. */
import type { CodecConfig } from "./config.js";
import { readHeader, readSpt, writeSpt } from "./container/index.js";
import { EntropyModel } from "./entropy.js";
import { require } from "./errors.js";
import { checkCodes } from "./sessions.js";

/** What `load` returns: the arguments of `decode`. */
export interface Recording {
  /** `[N]`. */
  codes: Int32Array;
  /** Of the original, in samples at {@link sampleRate}. */
  length: number;
  /** Of the original, in Hz. */
  sampleRate: number;
}

/** The model whose codes are written or read. */
export interface Describes {
  readonly config: CodecConfig;
  /** 16 hexadecimal digits that identify the weights in `.spt` files. */
  readonly weightHash: string;
  /** Content of the model's `entropy.dat`, with which `.spt` files are compressed; undefined if it has none. */
  readonly entropy: Uint8Array | undefined;
}

/** Options of `save`. */
export interface SaveOptions {
  /** Of the original, in samples at `sampleRate`; by default all samples of the codes. */
  length?: number;
  /** Of the original, in Hz; by default the codec's own. */
  sampleRate?: number;
  /** Whether the codes are compressed, if the model has an entropy model. By default they are. */
  entropyCoding?: boolean;
  /** 8 hexadecimal digits that tell files apart; by default they are drawn at random. */
  streamId?: string;
}

/**
 * The content of a `.spt` file with the codes of one recording, with the bytes that the Python package writes.
 *
 * @throws InputError if the codes do not fit the codec or the length.
 */
export function save(model: Describes, codes: ArrayLike<number>, options: SaveOptions = {}): Uint8Array {
  const { config } = model;
  const { tokensPerFrame, codebookSize, frameLength, synthesisDelay } = config;
  const checked = checkCodes(codes, codebookSize);
  require(checked.length % tokensPerFrame === 0, `the codes end within a frame, which has ${tokensPerFrame}`);
  const frames = checked.length / tokensPerFrame;
  const sampleRate = options.sampleRate ?? config.sampleRate;
  const most = Math.max(0, frames * frameLength - synthesisDelay);
  const numSamples = options.length ?? Math.floor((most * sampleRate) / config.sampleRate);
  checkLength(model, numSamples, sampleRate, frames);
  const entropy = options.entropyCoding === false ? undefined : entropyModel(model);
  return writeSpt(
    {
      model: "", // the hash of the weights identifies a released model
      weightHash: model.weightHash,
      ...{ sampleRate, numSamples, tokensPerFrame, codebookSize },
      entropyId: entropy?.id ?? "",
      streamId: options.streamId ?? null,
    },
    checked,
    entropy,
  );
}

/**
 * Read the content of a `.spt` file with codes of a model.
 *
 * @throws InputError if it is damaged, or has codes of another codec or a wrong number of them.
 */
export function load(model: Describes, bytes: Uint8Array): Recording {
  const { weightHash } = readHeader(bytes);
  require(
    weightHash === model.weightHash,
    `the file was written with the weights ${weightHash}, not with ${model.weightHash} of ${model.config.name}`,
  );
  const { header, codes } = readSpt(bytes, (id) => {
    const entropy = entropyModel(model);
    return entropy?.id === id ? entropy : undefined;
  });
  const { tokensPerFrame, codebookSize } = model.config;
  require(
    header.tokensPerFrame === tokensPerFrame && header.codebookSize === codebookSize && header.numSamples !== null,
    "the file does not fit the model whose weights it names",
  );
  checkLength(model, header.numSamples, header.sampleRate, codes.length / tokensPerFrame);
  return { codes, length: header.numSamples, sampleRate: header.sampleRate };
}

function checkLength({ config }: Describes, length: number, sampleRate: number, frames: number): void {
  const samples = Math.ceil((length * config.sampleRate) / sampleRate); // as many as resampling gives
  const needed = config.numFrames(samples);
  require(needed === frames, `${length} samples at ${sampleRate} Hz need ${needed} frames, but there are ${frames}`);
}

const entropyModels = new WeakMap<Uint8Array, EntropyModel>();

function entropyModel({ entropy, config }: Describes): EntropyModel | undefined {
  if (entropy === undefined) return undefined;
  let model = entropyModels.get(entropy);
  if (model === undefined) entropyModels.set(entropy, (model = EntropyModel.fromBytes(entropy, config.tokensPerFrame)));
  return model;
}
