/**
 * Streaming: sessions that accept chunks of any size and hold the state of one stream.
 *
 * The joined outputs of `push` and `flush` do not depend on how the stream is split into chunks, up to rounding of the
 * arithmetic. Offline encoding is one session with one push.
 */
import { joined } from "./arrays.js";
import type { Engine, State } from "./engine.js";
import { require } from "./errors.js";
import { Queue, turn } from "./queue.js";
import { checkAudio, StreamResampler } from "./resampling.js";

const HOLD_FRAMES = 5; // lost in a row until the audio begins to fade
const FADE_FRAMES = 5; // lost in a row after that until it is silent
const BLOCK_SECONDS = 2; // long pushes are split into blocks of this length

/** Encodes audio that arrives in chunks of any size, and returns codes as soon as a frame is complete. */
export class StreamEncoder {
  readonly #queue = new Queue();
  readonly #resampler: StreamResampler | undefined;
  #state: State = {};
  #waiting = new Float32Array(0); // of the incomplete frame
  #samples = 0; // since the start of the stream, at the codec's rate

  /**
   * @param engine - runs the codec.
   * @param sampleRate - of the audio, in Hz; by default the codec's own.
   * @throws InputError if the sample rate is out of range.
   */
  constructor(
    readonly engine: Engine,
    readonly sampleRate: number = engine.config.sampleRate,
  ) {
    const inside = engine.config.sampleRate;
    this.#resampler = sampleRate === inside ? undefined : new StreamResampler(sampleRate, inside);
  }

  /**
   * Add audio, and return the codes of all frames that are now complete. Calls need not be awaited: they take effect
   * in their order.
   *
   * @param audio - `[T]`, floats from -1 to 1, or 16-bit integers; T may be 0.
   * @returns Codes `[N]`, N a multiple of `tokensPerFrame`, often 0.
   * @throws InputError if a sample is not finite; the stream is then unchanged.
   */
  async push(audio: Float32Array | Int16Array | ArrayLike<number>): Promise<Int32Array> {
    const samples = checkAudio(audio).slice(); // the caller may write into its array before the call takes effect
    return this.#queue.run(() => this.#add(this.#resampler?.push(samples) ?? samples));
  }

  /** End the stream: return the last frames, padded with zeros so that every sample is encoded, and reset. */
  flush(): Promise<Int32Array> {
    return this.#queue.run(async () => {
      const rest = this.#resampler?.flush() ?? new Float32Array(0);
      const samples = this.#samples + rest.length;
      const missing = this.engine.config.numFrames(samples) * this.engine.config.frameLength - samples;
      const codes = await this.#add(joined(Float32Array, [rest, new Float32Array(missing)]));
      this.#start();
      return codes;
    });
  }

  /** Start a new stream. */
  reset(): Promise<void> {
    return this.#queue.run(async () => {
      this.#resampler?.flush();
      this.#start();
    });
  }

  #start(): void {
    this.#state = {};
    this.#waiting = new Float32Array(0);
    this.#samples = 0;
  }

  async #add(samples: Float32Array): Promise<Int32Array> {
    const { frameLength, frameRate } = this.engine.config;
    this.#samples += samples.length;
    const input = this.#waiting.length ? joined(Float32Array, [this.#waiting, samples]) : samples;
    const whole = input.length - (input.length % frameLength);
    this.#waiting = input.slice(whole);
    const block = Math.max(1, Math.round(BLOCK_SECONDS * frameRate)) * frameLength;
    const pieces: Int32Array[] = [];
    for (let start = 0; start < whole; start += block) {
      if (start > 0) await turn(); // other streams of this thread go on meanwhile
      const part = input.slice(start, Math.min(start + block, whole));
      const [output, after] = await this.engine.encodeStep(part, this.#state);
      this.#state = after;
      pieces.push(output);
    }
    return joined(Int32Array, pieces);
  }
}

/**
 * Decodes codes that arrive in chunks of any size, and returns audio as soon as a frame is complete. Sample n of the
 * output is sample n of the encoder's input.
 */
export class StreamDecoder {
  readonly #queue = new Queue();
  readonly #resampler: StreamResampler | undefined;
  #state: State = {};
  #waiting = new Int32Array(0); // of the incomplete frame
  #samples = 0; // decoded since the start of the stream, at the codec's rate
  #lastFrame: Int32Array | undefined;
  #lostInRow = 0;

  /**
   * @param engine - runs the codec.
   * @param sampleRate - of the audio, in Hz; by default the codec's own.
   * @throws InputError if the sample rate is out of range.
   */
  constructor(
    readonly engine: Engine,
    readonly sampleRate: number = engine.config.sampleRate,
  ) {
    const inside = engine.config.sampleRate;
    this.#resampler = sampleRate === inside ? undefined : new StreamResampler(inside, sampleRate);
  }

  /**
   * Add codes, and return the audio of all frames that are now complete. Calls need not be awaited: they take effect in
   * their order.
   *
   * @param codes - integers `[N]`; N may be 0. Or null for one lost frame: the one before is repeated; after 100 ms of
   *   lost frames the audio fades, and after 200 ms it is silent. The frame before must then be complete.
   * @returns Audio `[T]` at the session's sample rate.
   * @throws InputError if a code is not in the codebook; the stream is then unchanged.
   */
  async push(codes: ArrayLike<number> | null): Promise<Float32Array> {
    const given = codes === null ? null : checkCodes(codes, this.engine.config.codebookSize);
    return this.#queue.run(async () => {
      if (given === null) {
        require(this.#waiting.length === 0, "a frame can be lost only where the frame before is complete");
      }
      return this.#give(given === null ? await this.#conceal() : await this.#add(given));
    });
  }

  /**
   * End the stream: return the audio that the resampler still holds (none at the codec's own rate), and reset.
   *
   * @throws InputError if the codes ended within a frame.
   */
  flush(): Promise<Float32Array> {
    return this.#queue.run(async () => {
      const left = this.#waiting.length;
      const rest = this.#resampler?.flush() ?? new Float32Array(0);
      this.#start();
      const frame = this.engine.config.tokensPerFrame;
      require(left === 0, `the codes end within a frame: ${left} are left over, a frame has ${frame}`);
      return rest;
    });
  }

  /** Start a new stream. */
  reset(): Promise<void> {
    return this.#queue.run(async () => {
      this.#resampler?.flush();
      this.#start();
    });
  }

  #start(): void {
    this.#state = {};
    this.#waiting = new Int32Array(0);
    this.#samples = this.#lostInRow = 0;
    this.#lastFrame = undefined;
  }

  async #add(codes: Int32Array): Promise<Float32Array> {
    const { tokensPerFrame, frameRate } = this.engine.config;
    const input = joined(Int32Array, [this.#waiting, codes]);
    const whole = input.length - (input.length % tokensPerFrame);
    this.#waiting = input.slice(whole);
    if (whole === 0) return new Float32Array(0);
    this.#lastFrame = input.slice(whole - tokensPerFrame, whole);
    const block = Math.max(1, Math.round(BLOCK_SECONDS * frameRate)) * tokensPerFrame;
    const pieces: Float32Array[] = [];
    for (let start = 0; start < whole; start += block) {
      if (start > 0) await turn(); // other streams of this thread go on meanwhile
      pieces.push(await this.#step(input.slice(start, Math.min(start + block, whole))));
    }
    const audio = joined(Float32Array, pieces);
    const before = this.#level();
    this.#lostInRow = 0;
    if (before < 1) this.#ramp(audio, before, 1); // the first frame after a loss brings the audio back
    return audio;
  }

  /** The audio of a lost frame. */
  async #conceal(): Promise<Float32Array> {
    const before = this.#lastFrame ? this.#level() : 0;
    this.#lostInRow += 1;
    const codes = this.#lastFrame ?? new Int32Array(this.engine.config.tokensPerFrame);
    const audio = await this.#step(codes, true);
    this.#ramp(audio, before, this.#lastFrame ? this.#level() : 0);
    return audio;
  }

  async #step(codes: Int32Array, lost = false): Promise<Float32Array> {
    const [audio, after] = await this.engine.decodeStep(codes, this.#state, lost);
    this.#state = after;
    return audio;
  }

  /** The level after so many lost frames in a row. */
  #level(): number {
    return Math.min(1, Math.max(0, 1 - (this.#lostInRow - HOLD_FRAMES) / FADE_FRAMES));
  }

  /** Bring the first frame of audio from one level to another. */
  #ramp(audio: Float32Array, from: number, to: number): void {
    const length = this.engine.config.frameLength;
    for (let n = 0; n < length; n++) audio[n]! *= from + ((to - from) * (n + 1)) / length;
  }

  #give(audio: Float32Array): Float32Array {
    const kept = audio.slice(Math.max(0, this.engine.config.synthesisDelay - this.#samples));
    this.#samples += audio.length;
    return this.#resampler?.push(kept) ?? kept;
  }
}

/** Check codes and return a copy of them. */
export function checkCodes(codes: ArrayLike<number>, codebookSize: number): Int32Array {
  const kept = new Int32Array(codes.length);
  for (let n = 0; n < kept.length; n++) {
    const code = codes[n];
    require(
      code !== undefined && Number.isInteger(code) && code >= 0 && code < codebookSize,
      `codes must be whole numbers from 0 to ${codebookSize - 1}, but code ${n} is ${code}`,
    );
    kept[n] = code;
  }
  return kept;
}
