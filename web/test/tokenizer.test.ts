import { readFileSync } from "node:fs";

import { beforeAll, describe, expect, test } from "vitest";

import { InputError, type ModelFiles, Tokenizer } from "../src/index.js";

const FOLDER = "../pretrained/spectok-16k-800";
const golden = (JSON.parse(readFileSync("../tests/data/golden.json", "utf8")) as Record<string, { codes: number[] }>)[
  "spectok-16k-800"
]!.codes;
let tokenizer: Tokenizer;
const tone = Float32Array.from({ length: 8000 }, (_, n) => 0.1 * Math.sin(n / 20) * Math.sin(n / 999));

function files(changes: ModelFiles = {}): ModelFiles {
  const names = ["config.json", "model.safetensors", "encoder.onnx", "decoder.onnx", "entropy.dat"] as const;
  return { ...Object.fromEntries(names.map((name) => [name, new Uint8Array(readFileSync(`${FOLDER}/${name}`))])), ...changes };
}

beforeAll(async () => {
  tokenizer = await Tokenizer.fromPretrained(FOLDER);
});

describe("a model", () => {
  test("has the sizes of its configuration", () => {
    const { name, sampleRate, frameLength, tokensPerFrame, codebookSize, frameRate, latencySamples } = tokenizer.config;
    expect([name, sampleRate, frameLength, tokensPerFrame]).toEqual(["spectok-16k-800", 16000, 320, 1]);
    expect([codebookSize, frameRate, latencySamples, tokenizer.config.bitrate]).toEqual([65536, 50, 480, 800]);
    const index = readFileSync("../pretrained/index.toml", "utf8");
    expect(index).toContain(`"model.safetensors" = "${tokenizer.engine.sha256}"`);
  });

  test("can be loaded from memory, and by its address", async () => {
    const expected = await tokenizer.encode(tone);
    for (const source of [files(), new URL(`file://${process.cwd()}/${FOLDER}`)]) {
      expect(await (await Tokenizer.fromPretrained(source)).encode(tone)).toEqual(expected);
    }
  });

  test("without one of its files, or with damaged ones, is refused", async () => {
    await expect(Tokenizer.fromPretrained("../pretrained/none")).rejects.toThrow("the model has no file config.json");
    for (const json of ["", "[]", '{"name": "x"}', '{"name": 3, "spectrum": {}, "quantizer": {}, "tower": {}}']) {
      const damaged = files({ "config.json": new TextEncoder().encode(json) });
      await expect(Tokenizer.fromPretrained(damaged)).rejects.toThrow(InputError);
    }
    const weights = new Uint8Array(readFileSync(`${FOLDER}/model.safetensors`));
    weights[weights.length - 1]! ^= 1;
    const other = await Tokenizer.fromPretrained(files({ "model.safetensors": weights }));
    await expect(other.encode(tone)).rejects.toThrow("encoder.onnx was made from other weights");
    const cut = files({ "encoder.onnx": new Uint8Array(readFileSync(`${FOLDER}/encoder.onnx`)).slice(0, 9000) });
    await expect((await Tokenizer.fromPretrained(cut)).encode(tone)).rejects.toThrow(InputError);
  });
});

describe("sessions", () => {
  test("give the same for chunks of any size, and begin anew after flush and reset", async () => {
    const whole = await tokenizer.encode(tone);
    const encoder = tokenizer.streamEncoder();
    for (const size of [100, 320, 4000]) {
      const calls = [];
      for (let start = 0; start < tone.length; start += size) calls.push(encoder.push(tone.subarray(start, start + size)));
      calls.push(encoder.flush());
      expect(Int32Array.from((await Promise.all(calls)).flatMap((codes) => [...codes]))).toEqual(whole);
    }
    await encoder.push(tone.subarray(0, 500));
    await encoder.reset();
    expect(await encoder.push(tone.subarray(0, 3200))).toEqual(whole.slice(0, 10));
  });

  test("decode codes of any number at a time", async () => {
    const whole = await tokenizer.decode(golden);
    expect(whole.length).toBe(golden.length * 320 - 160);
    const decoder = tokenizer.streamDecoder();
    const pieces = await Promise.all(golden.map((code) => decoder.push([code])));
    const audio = Float32Array.from(pieces.flatMap((piece) => [...piece]));
    expect(audio.length).toBe(whole.length);
    expect(Math.max(...audio.map((sample, n) => Math.abs(sample - whole[n]!)))).toBeLessThan(1e-5);
    expect((await decoder.flush()).length).toBe(0);
  });

  test("repeat lost frames, fade after 100 ms, and are silent after 200 ms", async () => {
    const decoder = tokenizer.streamDecoder();
    await decoder.push(golden.slice(0, 40));
    const lost: Float32Array[] = [];
    for (let frame = 0; frame < 12; frame++) lost.push(await decoder.push(null));
    const levels = lost.map((audio) => Math.max(...audio.map(Math.abs)));
    expect(levels[0]).toBeGreaterThan(0.01);
    expect(levels.slice(10)).toEqual([0, 0]);
    const next = await decoder.push([golden[52]!]);
    expect(Math.abs(next[0]!)).toBeLessThan(1e-3); // it begins at silence
    const early = tokenizer.streamDecoder();
    expect(Math.max(...(await early.push(null)))).toBe(0); // nothing has arrived yet
  });

  test("refuse what no stream has, and go on", async () => {
    const encoder = tokenizer.streamEncoder();
    const before = await encoder.push(tone.subarray(0, 3200));
    await expect(encoder.push(Float32Array.of(0, Number.NaN))).rejects.toThrow("must be finite, but sample 1 is NaN");
    expect(await encoder.push(tone.subarray(3200, 6400))).toEqual((await tokenizer.encode(tone)).slice(10, 20));
    expect(before.length).toBe(10);
    const decoder = tokenizer.streamDecoder();
    for (const code of [-1, 65536, 0.5, Number.NaN]) {
      const sentence = `codes must be whole numbers from 0 to 65535, but code 1 is ${code}`;
      await expect(decoder.push([0, code])).rejects.toThrow(sentence);
    }
    await expect(tokenizer.encode([])).rejects.toThrow("the audio is empty");
    await expect(tokenizer.encode(Float32Array.of(0, 32767))).rejects.toThrow("the audio has a peak of 32767");
    for (const audio of [new Uint8Array(400), ["1", "2"], "123"] as unknown as Float32Array[]) {
      await expect(tokenizer.encode(audio)).rejects.toThrow("the audio must be a Float32Array, an Int16Array, or");
    }
    await expect(tokenizer.decode([1], { length: -1 })).rejects.toThrow("the length is -1");
    await expect(tokenizer.decode([1], { length: 161 })).rejects.toThrow("the codes hold 160 samples, not 161");
    const more = { length: 1e12, sampleRate: 48000 };
    await expect(tokenizer.decode([1], more)).rejects.toThrow("the codes hold 480 samples, not 1000000000000");
  });

  test("give the same if many run at the same time", async () => {
    const [codes, audio] = [await tokenizer.encode(tone), await tokenizer.decode(golden)];
    const encoded = Array.from({ length: 6 }, () => tokenizer.encode(tone));
    const decoded = Array.from({ length: 6 }, () => tokenizer.decode(golden));
    for (const found of await Promise.all(encoded)) expect(found).toEqual(codes);
    for (const found of await Promise.all(decoded)) expect(found).toEqual(audio);
  });
});

describe("recordings", () => {
  test("are saved and loaded", async () => {
    const codes = await tokenizer.encode(tone, { sampleRate: 8000 });
    const bytes = tokenizer.save(codes, { length: tone.length, sampleRate: 8000 });
    expect(tokenizer.load(bytes)).toEqual({ codes, length: 8000, sampleRate: 8000 });
    const plain = tokenizer.save(codes, { length: tone.length, sampleRate: 8000, entropyCoding: false });
    expect([plain[4], bytes[4]]).toEqual([2, 3]); // the versions of the format
    expect(tokenizer.load(plain).codes).toEqual(codes);
  });

  test("of another model, or with a wrong number of codes, are refused", async () => {
    const other = await Tokenizer.fromPretrained("../pretrained/spectok-16k-4k");
    const bytes = tokenizer.save(golden);
    expect(() => other.load(bytes)).toThrow("the file was written with the weights");
    expect(() => tokenizer.save(golden, { length: 100 })).toThrow("100 samples at 16000 Hz need 1 frames, but there are 101");
    expect(() => other.save([1, 2, 3])).toThrow("the codes end within a frame");
  });
});
