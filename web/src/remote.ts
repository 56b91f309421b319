/** A {@link Tokenizer} whose network runs in a worker, so that the page stays responsive. */
import { CodecConfig } from "./config.js";
import { InputError } from "./errors.js";
import type { ModelFiles, Progress } from "./files.js";
import type { LoopResult } from "./live.js";
import { load, type Recording, save, type SaveOptions } from "./recording.js";
import type { Rate } from "./tokenizer.js";
import type { Answer, Call, Event } from "./worker.js";

interface Waiting {
  resolve: (result: never) => void;
  reject: (error: Error) => void;
}

/** The messages between a page and its worker. */
class Line {
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<number, (event: never) => void>();
  #calls = 0;
  #objects = 0;
  #failure: Error | undefined; // of the worker itself, which then answers no more

  constructor(readonly worker: Worker) {
    worker.addEventListener("message", ({ data }: MessageEvent<Answer | Event>) => {
      if ("event" in data) {
        this.#listeners.get(data.target)?.(data.event as never);
        return;
      }
      const waiting = this.#waiting.get(data.id);
      if (waiting === undefined) return; // it was told before that the worker has failed
      const { resolve, reject } = waiting;
      this.#waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result as never);
      else reject(data.error.isInput ? new InputError(data.error.message) : new Error(data.error.message));
    });
    worker.addEventListener("error", (event) => this.#fail(event.message || "the worker could not be started"));
  }

  call<Result>(target: number, method: string, args: unknown[], ports: Transferable[] = []): Promise<Result> {
    return this.#send({ id: this.#calls++, target, method, args }, ports);
  }

  /** Create an object in the worker; returns its number at once, because later calls are answered after this one. */
  create<Result>(
    target: number,
    method: string,
    args: unknown[],
    ports: Transferable[] = [],
    listener?: (event: never) => void,
  ): [number, Promise<Result>] {
    const creates = ++this.#objects;
    if (listener) this.#listeners.set(creates, listener);
    return [creates, this.#send({ id: this.#calls++, target, method, args, creates }, ports)];
  }

  /** Forget an object in the worker. */
  async release(target: number): Promise<void> {
    this.#listeners.delete(target);
    await this.call(target, "release", []);
  }

  #send<Result>(call: Call, ports: Transferable[]): Promise<Result> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting.set(call.id, { resolve, reject });
      this.worker.postMessage(call, ports);
    });
  }

  #fail(message: string): void {
    this.#failure = new Error(`${message}; reload the page`);
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}

const lines = new WeakMap<Worker, Line>();

/** The methods of {@link Tokenizer}, computed in a worker that runs `serveTokenizers` (spectok/worker). */
export class RemoteTokenizer {
  private constructor(
    readonly config: CodecConfig,
    /** SHA-256 of the weights, 64 hexadecimal digits. */
    readonly sha256: string,
    /** Content of the model's `entropy.dat`; undefined if it has none. */
    readonly entropy: Uint8Array | undefined,
    readonly line: Line,
    readonly target: number,
  ) {}

  /**
   * Load a model in a worker. One worker can hold several.
   *
   * @param worker - runs `serveTokenizers`.
   * @param source - as for `Tokenizer.fromPretrained`; an address is relative to the page.
   * @param progress - called while files are fetched, with the number of bytes up to now.
   * @throws InputError if a file is missing or damaged.
   */
  static async fromPretrained(
    worker: Worker,
    source: string | URL | ModelFiles,
    progress?: Progress,
  ): Promise<RemoteTokenizer> {
    let line = lines.get(worker);
    if (line === undefined) lines.set(worker, (line = new Line(worker)));
    const isAddress = typeof source === "string" || source instanceof URL;
    const given = isAddress ? new URL(source, globalThis.location?.href).href : source;
    const [target, made] = line.create<{ json: string; sha256: string; entropy: Uint8Array | undefined }>(
      0,
      "load",
      [given],
      [],
      progress,
    );
    const { json, sha256, entropy } = await made;
    return new RemoteTokenizer(new CodecConfig(json), sha256, entropy, line, target);
  }

  /** 16 hexadecimal digits that identify the weights in `.spt` files. */
  get weightHash(): string {
    return this.sha256.slice(0, 16);
  }

  /** Load both graphs now, so that the first call does not have to. */
  prepare(): Promise<void> {
    return this.line.call(this.target, "prepare", []);
  }

  /** As `Tokenizer.encode`. */
  encode(audio: Float32Array | Int16Array, options: Rate = {}): Promise<Int32Array> {
    return this.line.call(this.target, "encode", [audio, options]);
  }

  /** As `Tokenizer.decode`. */
  decode(codes: Int32Array, options: Rate & { length?: number } = {}): Promise<Float32Array> {
    return this.line.call(this.target, "decode", [codes, options]);
  }

  /** As `Tokenizer.save`. */
  save(codes: ArrayLike<number>, options: SaveOptions = {}): Uint8Array {
    return save(this, codes, options);
  }

  /** As `Tokenizer.load`. */
  load(bytes: Uint8Array): Recording {
    return load(this, bytes);
  }

  /** As `Tokenizer.streamEncoder`; call `release` when it is no longer needed. */
  streamEncoder(options: Rate = {}): RemoteSession<Float32Array | Int16Array, Int32Array> {
    return new RemoteSession(this.line, this.line.create<undefined>(this.target, "streamEncoder", [options]));
  }

  /** As `Tokenizer.streamDecoder`; call `release` when it is no longer needed. */
  streamDecoder(options: Rate = {}): RemoteSession<Int32Array | null, Float32Array> {
    return new RemoteSession(this.line, this.line.create<undefined>(this.target, "streamDecoder", [options]));
  }

  /**
   * Start a live stream in the worker (`Loop`); its ports are those of the processors of spectok/worklet.
   *
   * @param sampleRate - of the audio at both ports, in Hz.
   * @param microphone - from which chunks of audio arrive.
   * @param speaker - to which the decoded audio is sent.
   * @param sent - is told the codes of each step.
   */
  loop(sampleRate: number, microphone: MessagePort, speaker?: MessagePort, sent?: (codes: Int32Array) => void): RemoteLoop {
    const ports = speaker ? [microphone, speaker] : [microphone];
    const made = this.line.create<undefined>(this.target, "loop", [sampleRate, ...ports], ports, sent);
    return new RemoteLoop(this.line, made);
  }
}

/** A session in the worker, with the methods of `StreamEncoder` or `StreamDecoder`. */
class RemoteSession<In, Out> {
  readonly #target: number;

  constructor(
    readonly line: Line,
    [target, made]: [number, Promise<undefined>],
  ) {
    this.#target = target;
    made.catch(() => undefined); // the calls that follow have the error
  }

  /** Add a chunk; returns what is now complete. */
  push(chunk: In): Promise<Out> {
    return this.line.call(this.#target, "push", [chunk]);
  }

  /** End the stream: return the rest, and reset. */
  flush(): Promise<Out> {
    return this.line.call(this.#target, "flush", []);
  }

  /** Start a new stream. */
  reset(): Promise<void> {
    return this.line.call(this.#target, "reset", []);
  }

  /** Free the session. */
  release(): Promise<void> {
    return this.line.release(this.#target);
  }
}

/** A live stream in the worker. */
class RemoteLoop {
  readonly #target: number;

  constructor(
    readonly line: Line,
    [target, made]: [number, Promise<undefined>],
  ) {
    this.#target = target;
    made.catch(() => undefined);
  }

  /** End the stream, and return what was heard, and its codes. */
  async stop(): Promise<LoopResult> {
    const result = await this.line.call<LoopResult>(this.#target, "stop", []);
    await this.line.release(this.#target);
    return result;
  }
}

export type { RemoteLoop, RemoteSession };
