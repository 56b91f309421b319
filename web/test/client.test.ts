import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Client, type Hello, InputError } from "../src/index.js";

const READY = { model: "m", weights: "0", sample_rate: 16000, frame_length: 320, tokens_per_frame: 3, codebook_size: 1024 };

/** A WebSocket that keeps what is sent, and receives what the test says. */
class Socket {
  static readonly OPEN = 1;
  static last: Socket;
  readonly sent: (string | Int16Array | Uint16Array)[] = [];
  readyState = 1;
  onopen: () => void = () => undefined;
  onclose: (() => void) | null = null;
  onerror: (() => void) | null = null;
  onmessage: (event: { data: string | ArrayBuffer }) => void = () => undefined;

  constructor() {
    Socket.last = this;
    queueMicrotask(() => this.onopen());
  }

  send(data: string | Int16Array | Uint16Array): void {
    this.sent.push(data);
  }

  close(): void {
    this.readyState = 3;
    this.onclose?.();
  }
}

beforeEach(() => vi.stubGlobal("WebSocket", Socket));
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

async function connected(mode: Hello["mode"]): Promise<[Client, Socket]> {
  const client = Client.connect("ws://server", { model: "m", mode });
  await Promise.resolve();
  Socket.last.onmessage({ data: JSON.stringify({ ready: READY }) });
  Socket.last.sent.length = 0;
  return [await client, Socket.last];
}

test("long audio is divided into messages, and rounded as in Python", async () => {
  const [client, socket] = await connected("encode");
  const audio = Float32Array.from({ length: 20_000 }, (_, n) => Math.sin(n));
  client.send(audio);
  expect(socket.sent.map((message) => message.length)).toEqual([8192, 8192, 3616]);
  const sent = socket.sent.flatMap((message) => [...(message as Int16Array)]);
  expect(sent.every((sample, n) => Math.abs(sample - Math.min(32767, audio[n]! * 32768)) <= 0.5)).toBe(true);
  socket.sent.length = 0;
  client.send(Float32Array.of(0.5 / 32768, 1.5 / 32768, 1, -1));
  expect([...(socket.sent[0] as Int16Array)]).toEqual([0, 2, 32767, -32768]);
});

test("codes are divided at frames", async () => {
  const [client, socket] = await connected("decode");
  client.send(Int32Array.from({ length: 9000 }, (_, n) => n % 1024));
  expect(socket.sent.map((message) => message.length)).toEqual([8190, 810]);
  expect(socket.sent.flatMap((message) => [...(message as Uint16Array)])[8190]).toBe(8190 % 1024);
});

test("what cannot be used is refused, and nothing is sent", async () => {
  const [encoder, microphone] = await connected("encode");
  expect(() => encoder.send(Float32Array.of(0, Number.NaN))).toThrow("the audio must be finite, but sample 1 is NaN");
  expect(microphone.sent).toEqual([]);
  const [decoder, socket] = await connected("relay");
  for (const code of [-1, 1024, 0.5]) {
    expect(() => decoder.send([0, 0, code])).toThrow(`codes must be whole numbers from 0 to 1023, but code 2 is ${code}`);
  }
  expect(() => decoder.send([0, 0, 0, 0])).toThrow("the codes end within a frame: 1 are left over, a frame has 3");
  expect(socket.sent).toEqual([]);
});

test("a flush that the server does not answer ends with the connection", async () => {
  const [client, socket] = await connected("encode");
  const flushed = client.flush();
  const closed = new Promise((resolve) => (client.onClose = resolve));
  socket.onmessage({ data: JSON.stringify({ error: "the stream is too long" }) });
  socket.close();
  await expect(flushed).rejects.toThrow("the stream is too long");
  expect(await closed).toBe("the stream is too long");
  await expect(client.flush()).rejects.toThrow(InputError);
});

test("a server that answers something else, refuses or does not answer is one sentence", async () => {
  for (const [answer, sentence] of [
    ["hello", "ws://server is no server of streams: it answers something else"],
    ['{"error": "no such model"}', "the server refuses: no such model"],
  ] as const) {
    const client = Client.connect("ws://server", { model: "m", mode: "encode" });
    Socket.last.onmessage({ data: answer });
    await expect(client).rejects.toThrow(sentence);
    expect(Socket.last.readyState).toBe(3); // it is closed
  }
  vi.useFakeTimers();
  const silent = Client.connect("ws://server", { model: "m", mode: "encode" });
  const refused = expect(silent).rejects.toThrow("ws://server does not answer");
  vi.advanceTimersByTime(10_000);
  await refused;
  vi.stubGlobal("WebSocket", undefined);
  await expect(Client.connect("ws://server", { model: "m", mode: "encode" })).rejects.toThrow("there is no WebSocket here");
});
