/** `Tokenizer`: converts audio to integer codes and back. */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

import { joined } from "./arrays.js";
import { CodecConfig } from "./config.js";
import { Engine } from "./engine.js";
import { require } from "./errors.js";
import { type ModelFiles, type Progress, readFile, readerOf } from "./files.js";
import { load, type Recording, save, type SaveOptions } from "./recording.js";
import { checkSampleRate, resample } from "./resampling.js";
import { StreamDecoder, StreamEncoder } from "./sessions.js";

/**
 * A codec with its weights.
 *
 * ```ts
 * const tokenizer = await Tokenizer.fromPretrained("models/spectok-16k-4k/");
 * const codes = await tokenizer.encode(audio);
 * const decoded = await tokenizer.decode(codes, { length: audio.length });
 * ```
 */
export class Tokenizer {
  private constructor(
    /** Runs the codec. */
    readonly engine: Engine,
    /** Content of the model's `entropy.dat`, with which `.spt` files are compressed; undefined if it has none. */
    readonly entropy: Uint8Array | undefined,
    /** Content of `config.json`. */
    readonly json: string,
  ) {}

  /**
   * Load a model.
   *
   * @param source - the address of a folder with `config.json`, `model.safetensors`, `encoder.onnx`, `decoder.onnx` and
   *   `entropy.dat`; in Node.js also its path; or the contents of these files.
   * @param progress - called while files are fetched, with the number of bytes up to now.
   * @throws InputError if a file is missing or damaged.
   */
  static async fromPretrained(source: string | URL | ModelFiles, progress?: Progress): Promise<Tokenizer> {
    const read = readerOf(source, progress);
    const [configuration, weights, entropy] = await Promise.all([
      readFile(read, "config.json"),
      readFile(read, "model.safetensors"),
      read("entropy.dat"),
    ]);
    const json = new TextDecoder().decode(configuration);
    const config = new CodecConfig(json);
    const engine = new Engine(config, weights, bytesToHex(sha256(weights)), (side) => readFile(read, `${side}.onnx`));
    return new Tokenizer(engine, entropy, json);
  }

  /** The sizes of the codec: `sampleRate`, `frameLength`, `tokensPerFrame`, `codebookSize` and more. */
  get config(): CodecConfig {
    return this.engine.config;
  }

  /** 16 hexadecimal digits that identify the weights in `.spt` files. */
  get weightHash(): string {
    return this.engine.sha256.slice(0, 16);
  }

  /**
   * Encode audio.
   *
   * @param audio - `[T]`, floats from -1 to 1, or 16-bit integers.
   * @param options - `sampleRate` of the audio in Hz, by default the codec's own.
   * @returns Codes `[N]`, frame after frame, `tokensPerFrame` for each.
   * @throws InputError if the audio is empty or not finite.
   */
  async encode(audio: Float32Array | Int16Array | ArrayLike<number>, options: Rate = {}): Promise<Int32Array> {
    require(audio.length > 0, "the audio is empty");
    const rate = checkSampleRate(options.sampleRate ?? this.config.sampleRate);
    const session = this.streamEncoder({ sampleRate: rate });
    return joined(Int32Array, await Promise.all([session.push(audio), session.flush()]));
  }

  /**
   * Decode codes.
   *
   * @param codes - integers `[N]`, N a multiple of `tokensPerFrame`.
   * @param options - `sampleRate` to resample to, in Hz, by default the codec's own; `length`, the number of samples to
   *   return at that rate, by default all samples of the codes, which are a few more than were encoded.
   * @returns Audio `[T]`.
   * @throws InputError if a code is not in the codebook, the codes end within a frame, or `length` is out of range.
   */
  async decode(codes: ArrayLike<number>, options: Rate & { length?: number } = {}): Promise<Float32Array> {
    const inside = this.config.sampleRate;
    const rate = checkSampleRate(options.sampleRate ?? inside);
    const session = this.streamDecoder();
    const [audio] = await Promise.all([session.push(codes), session.flush()]);
    const most = Math.ceil((audio.length * rate) / inside);
    const length = options.length ?? most;
    require(Number.isInteger(length) && length >= 0, `the length is ${length}, but must be a whole number from 0`);
    require(length <= most, `the codes hold ${most} samples, not ${length}`);
    const needed = audio.subarray(0, Math.ceil((length * inside) / rate));
    return resample(needed, inside, rate).slice(0, length);
  }

  /**
   * The content of a `.spt` file with the codes of one recording, with the bytes that the Python package writes.
   *
   * @param codes - integers `[N]`.
   * @param options - length and sample rate of the original, and how to store it.
   * @throws InputError if the codes do not fit the codec or the length.
   */
  save(codes: ArrayLike<number>, options: SaveOptions = {}): Uint8Array {
    return save(this, codes, options);
  }

  /**
   * Read the content of a `.spt` file with codes of this codec; `decode` takes what it returns.
   *
   * @throws InputError if it is damaged, or has codes of another codec or a wrong number of them.
   */
  load(bytes: Uint8Array): Recording {
    return load(this, bytes);
  }

  /** A new session that encodes one stream of audio at `sampleRate` Hz, by default the codec's own. */
  streamEncoder(options: Rate = {}): StreamEncoder {
    return new StreamEncoder(this.engine, options.sampleRate);
  }

  /** A new session that decodes one stream to audio at `sampleRate` Hz, by default the codec's own. */
  streamDecoder(options: Rate = {}): StreamDecoder {
    return new StreamDecoder(this.engine, options.sampleRate);
  }
}

/** A sample rate in Hz. */
export interface Rate {
  sampleRate?: number | undefined;
}
