/** A client of `spectok serve`, which encodes, decodes or passes on codes over a WebSocket. */
import { InputError, require } from "./errors.js";
import { checkAudio, toInt16 } from "./resampling.js";
import { checkCodes } from "./sessions.js";

const OPEN_SECONDS = 10; // for the connection, and for the answer to the first message
const PIECE = 8192; // the most samples or codes of a message

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
  #flushed: { resolve: () => void; reject: (error: Error) => void }[] = [];
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
      if (message.flushed) this.#flushed.shift()?.resolve();
      if (message.error !== undefined) this.#reason = message.error;
    };
    socket.onclose = () => {
      for (const { reject } of this.#flushed.splice(0)) reject(new InputError(this.#reason || "the connection is closed"));
      this.onClose(this.#reason);
    };
  }

  /**
   * Connect to a server.
   *
   * @param url - for example "ws://127.0.0.1:8766".
   * @param hello - what is asked for.
   * @throws InputError if the server cannot be reached, or refuses.
   */
  static connect(url: string, hello: Hello): Promise<Client> {
    return new Promise((resolve, fail) => {
      if (typeof WebSocket === "undefined") {
        fail(new InputError("there is no WebSocket here: Node.js has it from version 22 on, or with --experimental-websocket"));
        return;
      }
      let socket: WebSocket;
      try {
        socket = new WebSocket(url);
      } catch (error) {
        fail(new InputError(`${url} is not an address of a server: ${(error as Error).message}`));
        return;
      }
      const reject = (message: string): void => {
        clearTimeout(timer);
        socket.onclose = socket.onerror = null;
        socket.close();
        fail(new InputError(message));
      };
      const timer = setTimeout(() => reject(`${url} does not answer`), 1000 * OPEN_SECONDS);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        const { sampleRate, ...others } = hello;
        socket.send(JSON.stringify(sampleRate === undefined ? others : { ...others, sample_rate: sampleRate }));
      };
      socket.onerror = socket.onclose = () => reject(`cannot reach a server at ${url}`);
      socket.onmessage = ({ data }: MessageEvent<string>) => {
        let message: { ready?: Record<string, never>; error?: string };
        try {
          message = JSON.parse(data) as typeof message;
        } catch {
          reject(`${url} is no server of streams: it answers something else`);
          return;
        }
        if (message.ready === undefined) {
          reject(`the server refuses: ${message.error ?? "it gives no reason"}`);
          return;
        }
        clearTimeout(timer);
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
   * Send audio or codes, of any length: what is longer than a message is divided.
   *
   * @param data - in the modes "encode" and "transcode" audio, 16-bit integers or floats from -1 to 1; in the others
   *   codes of whole frames.
   * @throws InputError if the audio is not finite, a code is not in the codebook, or the codes end within a frame;
   *   nothing is then sent.
   */
  send(data: Int16Array | Float32Array | ArrayLike<number>): void {
    const sendsAudio = this.mode === "encode" || this.mode === "transcode";
    const frame = sendsAudio ? 1 : this.ready.tokensPerFrame;
    let words: Int16Array | Uint16Array;
    if (sendsAudio) words = data instanceof Int16Array ? data : toInt16(checkAudio(data));
    else words = Uint16Array.from(checkCodes(data, this.ready.codebookSize));
    const left = words.length % frame;
    require(left === 0, `the codes end within a frame: ${left} are left over, a frame has ${frame}`);
    const piece = Math.max(1, Math.floor(PIECE / frame)) * frame;
    for (let start = 0; start < words.length; start += piece) {
      this.socket.send(words.subarray(start, start + piece) as Int16Array<ArrayBuffer> | Uint16Array<ArrayBuffer>);
    }
  }

  /**
   * End the stream; resolves when all of its output was received. Then another stream can begin.
   *
   * @throws InputError if the connection has ended, or ends before.
   */
  flush(): Promise<void> {
    if (this.socket.readyState !== WebSocket.OPEN) {
      return Promise.reject(new InputError(this.#reason || "the connection is closed"));
    }
    this.socket.send(JSON.stringify({ flush: true }));
    return new Promise((resolve, reject) => this.#flushed.push({ resolve, reject }));
  }

  /** Close the connection. */
  close(): void {
    this.#reason = "";
    this.socket.close();
  }
}
