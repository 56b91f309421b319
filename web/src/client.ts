/** A client of `spectok serve`, which encodes, decodes or passes on codes over a WebSocket. */
import { InputError } from "./errors.js";

/** What a client asks for. */
export interface Hello {
  /** Name of the model. */
  model: string;
  /**
   * "encode": audio in, codes out. "decode": codes in, audio out. "transcode": audio in and out, through the codes.
   * "relay": codes in, which the other member of the room gets.
   */
  mode: "encode" | "decode" | "transcode" | "relay";
  /** Of the audio, in Hz; by default the model's own. */
  sampleRate?: number;
  /** 16 hexadecimal digits; a server with other weights refuses. */
  weights?: string;
  /** The secret that the server was started with. */
  token?: string;
  /** Name of the room, in the mode "relay". */
  room?: string;
}

/** What the server answers. */
export interface Ready {
  model: string;
  weights: string;
  sampleRate: number;
  frameLength: number;
  tokensPerFrame: number;
  codebookSize: number;
  latencySamples: number;
}

/** What one message of the server holds: 16-bit audio, or codes. */
export type Received = Int16Array | Uint16Array;

/** A connection to a server, with one stream at a time. */
export class Client {
  /** Is called with the content of each message, in order. */
  onData: (data: Received) => void = () => undefined;
  /** Is called when the connection ends, with the reason; an empty one if this side closed it. */
  onClose: (reason: string) => void = () => undefined;
  #flushed: (() => void)[] = [];
  #reason = "the connection was lost";

  private constructor(
    readonly socket: WebSocket,
    readonly ready: Ready,
    readonly mode: Hello["mode"],
  ) {
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (typeof data !== "string") {
        this.onData(mode === "encode" || mode === "relay" ? new Uint16Array(data) : new Int16Array(data));
        return;
      }
      const message = JSON.parse(data) as { flushed?: boolean; error?: string };
      if (message.flushed) this.#flushed.shift()?.();
      if (message.error !== undefined) this.#reason = message.error;
    };
    socket.onclose = () => this.onClose(this.#reason);
  }

  /**
   * Connect to a server.
   *
   * @param url - for example "ws://127.0.0.1:8766".
   * @param hello - what is asked for.
   * @throws InputError if the server cannot be reached, or refuses.
   */
  static connect(url: string, hello: Hello): Promise<Client> {
    return new Promise((resolve, reject) => {
      let socket: WebSocket;
      try {
        socket = new WebSocket(url);
      } catch (error) {
        reject(new InputError(`${url} is not an address of a server: ${(error as Error).message}`));
        return;
      }
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        const { sampleRate, ...others } = hello;
        socket.send(JSON.stringify(sampleRate === undefined ? others : { ...others, sample_rate: sampleRate }));
      };
      socket.onerror = socket.onclose = () => reject(new InputError(`cannot reach a server at ${url}`));
      socket.onmessage = ({ data }: MessageEvent<string>) => {
        const message = JSON.parse(data) as { ready?: Record<string, never>; error?: string };
        if (message.ready === undefined) {
          reject(new InputError(`the server refuses: ${message.error ?? "it gives no reason"}`));
          return;
        }
        const ready = Object.fromEntries(
          Object.entries(message.ready).map(([name, value]) => [
            name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
            value,
          ]),
        ) as unknown as Ready;
        socket.onerror = null;
        resolve(new Client(socket, ready, hello.mode));
      };
    });
  }

  /** Bytes that wait to be sent: a sender that is faster than the connection should wait until there are few. */
  get waiting(): number {
    return this.socket.bufferedAmount;
  }

  /**
   * Send audio or codes.
   *
   * @param data - audio, 16-bit integers or floats from -1 to 1; or codes of whole frames, as integers of any type but
   *   16-bit signed ones.
   */
  send(data: Int16Array | Float32Array | Int32Array | Uint16Array): void {
    if (data instanceof Float32Array) data = Int16Array.from(data, (sample) => toInt16(sample));
    if (data instanceof Int32Array) data = Uint16Array.from(data);
    this.socket.send(data as Int16Array<ArrayBuffer> | Uint16Array<ArrayBuffer>);
  }

  /** End the stream; resolves when all of its output was received. Then another stream can begin. */
  flush(): Promise<void> {
    this.socket.send(JSON.stringify({ flush: true }));
    return new Promise((resolve) => this.#flushed.push(resolve));
  }

  /** Close the connection. */
  close(): void {
    this.#reason = "";
    this.socket.close();
  }
}

function toInt16(sample: number): number {
  return Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
}
