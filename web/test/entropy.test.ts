import { expect, test } from "vitest";

import { EntropyModel, RangeDecoder, RangeEncoder } from "../src/entropy.js";
import { InputError } from "../src/errors.js";
import { ENTROPY_MODELS, GOLDEN, randomNumbers, readData } from "./data.js";

const WHOLE = 1 << 14;

/** Starts of the intervals of levels with these weights, and the end, as the specification says. */
function edgesOf(weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let before = 0;
  const starts = weights.map((weight, level) => {
    const start = Number((BigInt(before) * BigInt(WHOLE - weights.length)) / BigInt(total)) + level;
    before += weight;
    return start;
  });
  return [...starts, WHOLE];
}

/** The range coder as the specification has it, with a number of any size. */
function encoded(starts: readonly number[], sizes: readonly number[]): { bytes: Uint8Array; mostBytes: number } {
  let low = 0n;
  let width = 2n ** 32n - 1n;
  let shifts = 0;
  starts.forEach((start, index) => {
    const step = width >> 14n;
    low += step * BigInt(start);
    width = step * BigInt(sizes[index]!);
    for (; width < 2n ** 24n; shifts++) [low, width] = [low << 8n, width << 8n];
  });
  let value = ((low + width - 1n) >> 32n) << 32n;
  if (value < low) value = ((low + width - 1n) >> 24n) << 24n;
  const digits = value.toString(16).padStart(2 * (shifts + 4), "0");
  const bytes = Buffer.from(digits, "hex");
  let length = bytes.length;
  while (length && bytes[length - 1] === 0) length--;
  return { bytes: new Uint8Array(bytes.subarray(0, length)), mostBytes: shifts + 1 };
}

test("the bytes of the range coder are those of the specification", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = randomNumbers(seed, 2 ** 30, seed);
    const sizes = random.map((value) => (seed % 3 ? 1 + (value % WHOLE) : seed % 2 ? 1 : WHOLE - 1 + (value % 2)));
    const starts = random.map((value, index) => {
      const room = WHOLE - sizes[index]!;
      return seed % 5 ? (value >> 3) % (room + 1) : room; // at the end, bytes of 255 wait for a carry
    });
    const coder = new RangeEncoder();
    coder.put(starts, sizes);
    const expected = encoded(starts, sizes);
    expect(coder.mostBytes).toBe(expected.mostBytes);
    expect(coder.finish()).toEqual(expected.bytes);
  }
});

test("a state is kept and restored, also across carries", () => {
  for (let seed = 1; seed <= 100; seed++) {
    const coder = new RangeEncoder();
    const kept: [number[], number[]] = [[], []];
    for (let step = 0; step < 20; step++) {
      const random = randomNumbers(5, WHOLE, 100 * seed + step);
      const sizes = random.map((value) => 1 + (value % (seed % 2 ? 3 : 5000)));
      const starts = random.map((_, index) => WHOLE - sizes[index]! - (index === 4 ? step % 2 : 0));
      const state = coder.state;
      coder.put(starts, sizes);
      if (step % 3) {
        kept[0].push(...starts);
        kept[1].push(...sizes);
      } else {
        coder.state = state;
      }
      expect(coder.finish()).toEqual(encoded(...kept).bytes);
    }
  }
});

test("the range coder gives back any levels", () => {
  for (let seed = 1; seed <= 100; seed++) {
    const draws = Array.from({ length: seed }, (_, index) => {
      const count = 2 + ((seed + index) % 8);
      const weights = randomNumbers(count, 65537, 1000 * seed + index).map((weight) => (weight < 9000 ? 0 : weight));
      weights[index % count] = 65536;
      return { weights, level: (seed * 7 + index * 3) % count };
    });
    const coder = new RangeEncoder();
    for (const { weights, level } of draws) {
      const edges = edgesOf(weights);
      coder.put([edges[level]!], [edges[level + 1]! - edges[level]!]);
    }
    const decoder = new RangeDecoder(coder.finish());
    expect(draws.map(({ weights }) => decoder.take(weights))).toEqual(draws.map(({ level }) => level));
  }
});

test("the bytes of the range coder, by hand", () => {
  const coder = new RangeEncoder();
  expect(coder.finish()).toEqual(new Uint8Array(0)); // zeros, which are never written, are in the range
  coder.put([8192, 4096], [8192, 4096]);
  expect(coder.finish()).toEqual(Uint8Array.of(0xbf));
  const decoder = new RangeDecoder(Uint8Array.of(0xbf));
  expect([decoder.take([1, 1]), decoder.take([9, 9, 9, 9])]).toEqual([1, 1]);
});

test("a string that no encoder writes is refused", () => {
  expect(() => new RangeDecoder(new Uint8Array(4).fill(255)).take([1, 1])).toThrow("no encoder writes such codes");
});

test("random bytes are decoded or refused", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const coded = Uint8Array.from(randomNumbers(seed, 256, seed));
    if (seed % 4 === 0) coded.fill(255, 0, 2);
    try {
      const codes = ENTROPY_MODELS["spectok-16k-4k"].decode(coded, 50);
      expect(Math.max(...codes)).toBeLessThan(1024);
      expect(Math.min(...codes)).toBeGreaterThanOrEqual(0);
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
    }
  }
});

test.each(["spectok-16k-4k", "spectok-16k-800"] as const)("the codes of %s come back", (name) => {
  const model = ENTROPY_MODELS[name];
  const { codes, codebook_size: size, tokens_per_frame: tokens } = GOLDEN[name]!;
  expect([model.codebookSize, model.tokensPerFrame]).toEqual([size, tokens]);
  const coded = model.encode(codes);
  expect(coded.length).toBeLessThan((0.9 * codes.length * Math.log2(size)) / 8);
  expect(Array.from(model.decode(coded, codes.length / tokens))).toEqual(codes);
});

test("probabilities are those of the specification, by hand", () => {
  const weights = new Int8Array(13 * 4); // one digit of four levels
  weights.set([0, 32, -32, 5]); // biases: one more is a factor of 2^(1/32)
  weights.set([0, 0, 64, 0], 4 * (1 + 4 + 2)); // level 2 in the frame before
  weights.set([-7, 0, 0, 0], 4 * (1 + 8 + 1)); // level 1 in the one before that
  const model = EntropyModel.fromBytes(Uint8Array.of(1, 4, ...new Uint8Array(weights.buffer)), 1);
  const power = (below: number): number => Math.floor(65536 * 2 ** (-below / 32) + 0.5);
  const edges = edgesOf([power(7) >> 1, 65536, 65536, power(27)]); // logits -7, 32, 32, 5
  for (let level = 0; level < 4; level++) {
    const predictor = model.predictor();
    for (const code of [0, 1, 2]) predictor.intervals(Int32Array.of(code));
    const { starts, sizes } = predictor.intervals(Int32Array.of(level));
    expect([starts[0], starts[0]! + sizes[0]!]).toEqual([edges[level], edges[level + 1]]);
  }
});

test("entropy models that are damaged are refused", () => {
  const content = readData("tests/data/entropy/tiny-entropy.dat");
  const message = "is damaged, or has another number of tokens per frame";
  const longer = Uint8Array.of(...content, 0);
  const others = [new Uint8Array(0), content.subarray(1), content.subarray(0, content.length - 1), longer];
  for (const damaged of others) expect(() => EntropyModel.fromBytes(damaged, 2)).toThrow(message);
  for (const tokens of [1, 0, -1, 1.5, NaN]) expect(() => EntropyModel.fromBytes(content, tokens)).toThrow(message);
  const digits = content[0]!;
  const size = ENTROPY_MODELS.tiny.levels.reduce((sum, count) => sum + 2 * count, 0);
  const later = content.slice();
  later[1 + digits + (1 + size) * size - 1] = 1; // the last level for itself
  expect(() => EntropyModel.fromBytes(later, 2)).toThrow("an entropy model predicts digits from later ones");
  expect(() => EntropyModel.fromBytes(Uint8Array.of(1, 1, 0, 0, 0, 0), 1)).toThrow("digits of at least 2 levels");
  const many = new Uint8Array(2 + (1 + 3 * 170) * 170);
  many.set([1, 2]);
  const most = "a frame has 85 digits, but an entropy model can have 84 at most";
  expect(() => EntropyModel.fromBytes(many, 85)).toThrow(most);
});
