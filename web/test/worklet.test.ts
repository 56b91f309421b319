import { beforeAll, expect, test } from "vitest";

// The scope of an AudioWorklet, as far as the processors use it.
const RATE = 48_000;
const QUANTUM = 128;
type Processor = { process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean; port: FakePort };
interface FakePort {
  onmessage?: (message: { data: unknown; ports: unknown[] }) => void;
  sent: unknown[];
  postMessage(data: unknown): void;
}
const processors: Record<string, new (options: unknown) => Processor> = {};
const scope = globalThis as unknown as { currentFrame: number; sampleRate: number };

beforeAll(async () => {
  class AudioWorkletProcessor {
    port: FakePort = { sent: [], postMessage: (data) => void this.port.sent.push(data) };
  }
  const registerProcessor = (name: string, made: new (options: unknown) => Processor): void => {
    processors[name] = made;
  };
  Object.assign(globalThis, { AudioWorkletProcessor, registerProcessor, currentFrame: 0, sampleRate: RATE });
  await import("../src/worklet.js");
});

function player(target: number, most: number): { play: () => Float32Array; send: (audio: Float32Array) => void; node: Processor } {
  scope.currentFrame = 0;
  const node = new processors["spectok-player"]!({ processorOptions: { target, most } });
  const port: { onmessage?: (message: { data: Float32Array }) => void } = {};
  node.port.onmessage?.({ data: "audio", ports: [port] });
  const play = (): Float32Array => {
    const output = new Float32Array(QUANTUM);
    node.process([], [[output]]);
    scope.currentFrame += QUANTUM;
    return output;
  };
  return { play, send: (audio) => port.onmessage?.({ data: audio }), node };
}

const ramp = (length: number, start = 0): Float32Array => Float32Array.from({ length }, (_, n) => start + n + 1);

test("the recorder passes on every sample, and tells where they begin", () => {
  scope.currentFrame = 7 * QUANTUM;
  const node = new processors["spectok-recorder"]!(undefined);
  const heard: number[] = [];
  node.port.onmessage?.({ data: "audio", ports: [{ postMessage: (audio: Float32Array) => heard.push(...audio) }] });
  for (let n = 0; n < 20; n++) node.process([[ramp(QUANTUM, n * QUANTUM)]], []);
  expect(node.port.sent).toEqual([7 * QUANTUM]);
  expect(heard).toEqual([...ramp(20 * QUANTUM)].slice(0, heard.length));
  expect(heard.length).toBe(20 * QUANTUM); // messages of two quanta, 5.3 ms
  node.port.onmessage?.({ data: "stop", ports: [] });
  node.process([[ramp(QUANTUM)]], []);
  expect(heard.length).toBe(20 * QUANTUM);
});

test("the player waits for the target, plays in order, and counts what is missing", () => {
  const { play, send, node } = player(256, 4096);
  send(ramp(200));
  expect(play()).toEqual(new Float32Array(QUANTUM));
  send(ramp(200, 200));
  expect([...play(), ...play(), ...play()]).toEqual([...ramp(384)]);
  expect(play()).toEqual(new Float32Array(QUANTUM)); // 16 samples are left
  send(ramp(240, 400));
  expect(play()[0]).toBe(385);
  for (let n = 0; n < 100; n++) play();
  expect(node.port.sent.at(-1)).toMatchObject({ underruns: 2, dropped: 0 });
});

test("too much at once is left out down to the target", () => {
  const { play, send } = player(256, 1000);
  send(ramp(1001));
  expect(play()[0]).toBe(1001 - 256 + 1);
});

test("what waits above the target for a second is left out once", () => {
  const { play, send, node } = player(256, 4096);
  send(ramp(1280));
  for (let n = 0; n < 3 * (RATE / QUANTUM); n++) {
    send(ramp(QUANTUM, 1280 + n * QUANTUM));
    play();
  }
  const report = node.port.sent.at(-1) as { waiting: number; dropped: number; underruns: number; delay: number };
  expect(report).toMatchObject({ waiting: 256, dropped: 1024, underruns: 0 });
  expect(report.delay).toBeCloseTo((256 + QUANTUM - 1280 - QUANTUM) / RATE, 1); // the input was ahead of the clock
});
