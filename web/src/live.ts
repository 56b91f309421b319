/** A stream from a microphone through the codes to a loudspeaker, between the ports of two AudioWorklets. */
import { joined } from "./arrays.js";
import { turn } from "./queue.js";
import type { StreamDecoder, StreamEncoder } from "./sessions.js";
import type { Tokenizer } from "./tokenizer.js";

/** What {@link Loop.stop} returns. */
export interface LoopResult {
  /** Codes of all that was heard, `[N]`. */
  codes: Int32Array;
  /** All that was heard, `[T]`. */
  heard: Float32Array;
  /** Seconds that encoding took. */
  seconds: number;
}

/**
 * Encodes what arrives at one port, and sends the decoded audio to another.
 *
 * What waits is encoded in one call, of many frames if the computer was busy, so that the loop catches up.
 */
export class Loop {
  readonly #encoder: StreamEncoder;
  readonly #decoder: StreamDecoder;
  readonly #codes: Int32Array[] = [];
  readonly #heard: Float32Array[] = [];
  #waiting: Float32Array[] = [];
  #running: Promise<void> | undefined;
  #failure: unknown;
  #seconds = 0;

  /**
   * @param tokenizer - the codec.
   * @param sampleRate - of the audio at both ports, in Hz.
   * @param microphone - gets chunks of audio, `Float32Array [T]`.
   * @param speaker - is sent the decoded audio; undefined if it is not wanted.
   * @param sent - is told the codes of each step.
   */
  constructor(
    tokenizer: Tokenizer,
    sampleRate: number,
    readonly microphone: MessagePort,
    readonly speaker?: MessagePort,
    readonly sent?: (codes: Int32Array) => void,
  ) {
    this.#encoder = tokenizer.streamEncoder({ sampleRate });
    this.#decoder = tokenizer.streamDecoder({ sampleRate });
    microphone.onmessage = ({ data }: MessageEvent<Float32Array>) => {
      this.#waiting.push(data);
      this.#heard.push(data);
      this.#running ??= this.#drain();
    };
  }

  /**
   * End the stream, and return what was heard, and its codes.
   *
   * @throws the error of a step that has failed; nothing was encoded after it.
   */
  async stop(): Promise<LoopResult> {
    this.microphone.onmessage = null;
    await this.#running;
    if (this.#failure !== undefined) throw this.#failure;
    await this.#give(await this.#encoder.flush());
    return { codes: joined(Int32Array, this.#codes), heard: joined(Float32Array, this.#heard), seconds: this.#seconds };
  }

  async #drain(): Promise<void> {
    try {
      while (this.#waiting.length > 0 && this.#failure === undefined) {
        const audio = joined(Float32Array, this.#waiting);
        this.#waiting = [];
        const began = performance.now();
        const codes = await this.#encoder.push(audio);
        this.#seconds += (performance.now() - began) / 1000;
        await this.#give(codes);
        await turn();
      }
    } catch (error) {
      this.#failure = error;
    }
    this.#running = undefined;
  }

  async #give(codes: Int32Array): Promise<void> {
    if (codes.length === 0) return;
    this.#codes.push(codes);
    this.sent?.(codes);
    if (this.speaker === undefined) return;
    const audio = await this.#decoder.push(codes);
    this.speaker.postMessage(audio, [audio.buffer]);
  }
}
