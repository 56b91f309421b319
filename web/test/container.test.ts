import { sha256 } from "@noble/hashes/sha2.js";
import { describe, expect, test } from "vitest";

import { crc32, littleEndian, varint } from "../src/container/bytes.js";
import { makeHeader, readHeader, readSpt, SptWriter, writeSpt, type HeaderFields } from "../src/container/index.js";
import { EntropyModel } from "../src/entropy.js";
import { InputError } from "../src/errors.js";
import { ENTROPY_MODELS, entropyModel, GOLDEN, hex, randomNumbers, readData } from "./data.js";

const TINY: HeaderFields = {
  ...{ model: "tiny", weightHash: "0123456789abcdef", sampleRate: 16000, codebookSize: 1024, tokensPerFrame: 2 },
  ...{ framesPerPacket: 2, numSamples: 900, streamId: "a1b2c3d4" },
};
const TINY_CODES = [1, 1023, 512, 5, 7, 700];
const TINY_BYTES = hex(
  "a5535054 02 0123456789abcdef a1b2c3d4 02 0a 04 02 04 74696e79 fc260914" +
    "89deeef8 02 01fc0f6001 776b5951 01 8407 07f00a 10cb910e",
);
const TINY1_BYTES = hex(
  "a5535054 01 02 0200 00040000 803e0000 8403000000000000 0123456789abcdef 04 74696e79 43a64a94" +
    "663c6e14 0200 01fc0f6001 40816dd0 0180 07f00a",
);
const SMALL: HeaderFields = { ...TINY, codebookSize: 8, numSamples: null, framesPerPacket: 0, packetBytes: 64 };

/** The file with a true checksum of its header, which has `end` bytes before it. */
function mended(bytes: Uint8Array, end: number): Uint8Array {
  const file = bytes.slice();
  file.set(littleEndian(crc32(file.subarray(0, end)), 4), end);
  return file;
}

/** A file of these packets, whose bytes after the checksum are given, with true checksums and a true digest. */
function crafted(header: Uint8Array, packets: readonly (readonly number[])[]): Uint8Array {
  const streamId = header.subarray(13, 17);
  const whole = concatenated(
    header,
    ...packets.map((body, index) => {
      const crc = crc32(Uint8Array.from(body), crc32(littleEndian(index, 4), crc32(streamId)));
      return concatenated(littleEndian(crc, 4), [...body]);
    }),
  );
  return concatenated(whole, sha256(whole).subarray(0, 4));
}

function concatenated(...pieces: (Uint8Array | number[])[]): Uint8Array {
  return Uint8Array.from(pieces.flatMap((piece) => Array.from(piece)));
}

/** A seeded file of version 3 with 40 frames in several packets. */
function codedFile(seed = 1): { bytes: Uint8Array; codes: number[]; header: HeaderFields } {
  const model = ENTROPY_MODELS.tiny;
  const header = { ...SMALL, codebookSize: model.codebookSize, numSamples: 4000 };
  const codes = randomNumbers(400, model.codebookSize, seed);
  return { bytes: writeSpt(header, codes, model), codes, header };
}

describe("golden files", () => {
  const cases = Object.keys(GOLDEN).flatMap((name) => [1, 2].map((version) => ({ name, version })));

  test.each(cases)("$name of version $version is read", ({ name, version }) => {
    const golden = GOLDEN[name]!;
    const { header, codes } = readSpt(readData(`tests/data/format/${name}-version${version}.spt`));
    expect(Array.from(codes)).toEqual(golden.codes);
    expect(header).toEqual({
      model: version === 1 ? name : "",
      weightHash: golden.weight_hash,
      sampleRate: golden.sample_rate,
      codebookSize: golden.codebook_size,
      tokensPerFrame: golden.tokens_per_frame,
      framesPerPacket: version === 1 ? 50 : 40,
      numSamples: golden.num_samples,
      streamId: version === 1 ? null : "00c0ffee",
      version,
      entropyId: "",
      packetBytes: 0,
    });
  });

  test.each(Object.keys(GOLDEN))("%s is written with the same bytes", (name) => {
    const bytes = readData(`tests/data/format/${name}-version2.spt`);
    const { header, codes } = readSpt(bytes);
    expect(writeSpt(header, codes)).toEqual(bytes);
  });

  test("version 3 is read, and written with the same bytes", () => {
    const bytes = readData("tests/data/entropy/tiny-version3.spt");
    const { header, codes } = readSpt(bytes, entropyModel);
    expect(header).toMatchObject({ version: 3, entropyId: ENTROPY_MODELS.tiny.id });
    expect(codes.length).toBeGreaterThan(0);
    expect(writeSpt(header, codes, ENTROPY_MODELS.tiny)).toEqual(bytes);
  });

  test("the bytes of the specification's example", () => {
    expect(writeSpt(TINY, TINY_CODES)).toEqual(TINY_BYTES);
    expect(Array.from(readSpt(TINY_BYTES).codes)).toEqual(TINY_CODES);
    const { header, codes } = readSpt(TINY1_BYTES);
    expect(header).toEqual(makeHeader({ ...TINY, streamId: null, version: 1 }));
    expect(writeSpt({ ...header, streamId: "a1b2c3d4" }, codes)).toEqual(TINY_BYTES);
  });
});

describe("round trips", () => {
  test.each([2, 3, 1000, 1024, 65536, 65537, (1 << 24) - 1, 1 << 24])("a codebook of %i codes", (codebookSize) => {
    for (const numFrames of [0, 1, 3, 7, 8, 9, 40]) {
      const header = { ...TINY, codebookSize, tokensPerFrame: 3, framesPerPacket: 7, numSamples: numFrames * 100 };
      const codes = randomNumbers(3 * numFrames, codebookSize);
      if (numFrames) codes[1] = codebookSize - 1;
      const read = readSpt(writeSpt(header, codes));
      expect(Array.from(read.codes)).toEqual(codes);
      expect(read.header).toEqual(makeHeader(header));
    }
  });

  test.each(["spectok-16k-4k", "spectok-16k-800"] as const)("entropy coding with %s", (name) => {
    const golden = GOLDEN[name]!;
    const header = {
      ...{ model: "", weightHash: golden.weight_hash, sampleRate: golden.sample_rate, numSamples: golden.num_samples },
      ...{ codebookSize: golden.codebook_size, tokensPerFrame: golden.tokens_per_frame },
    };
    const model = ENTROPY_MODELS[name];
    const bytes = writeSpt(header, golden.codes, model);
    expect(bytes.length).toBeLessThan(0.91 * writeSpt(header, golden.codes).length);
    expect(Array.from(readSpt(bytes, entropyModel).codes)).toEqual(golden.codes);
    const random = randomNumbers(400 * model.tokensPerFrame, model.codebookSize);
    expect(Array.from(readSpt(writeSpt(header, random, model), entropyModel).codes)).toEqual(random);
  });

  test.each([undefined, ENTROPY_MODELS.tiny])("the bytes do not depend on the pieces", (model) => {
    const header = { ...SMALL, codebookSize: ENTROPY_MODELS.tiny.codebookSize, framesPerPacket: 9 };
    const codes = randomNumbers(202, header.codebookSize);
    const whole = writeSpt({ ...header, numSamples: 100 }, codes, model);
    for (const size of [1, 3, 18, 50]) {
      const writer = new SptWriter(header, model);
      for (let place = 0; place < codes.length; place += size) writer.append(codes.slice(place, place + size));
      expect(writer.numCodes).toBe(202);
      expect(writer.finish(100)).toEqual(whole);
    }
  });

  test("a view of a larger buffer is read", () => {
    const buffer = concatenated([1, 2, 3], TINY_BYTES, [4]);
    expect(Array.from(readSpt(buffer.subarray(3, 3 + TINY_BYTES.length)).codes)).toEqual(TINY_CODES);
  });

  test("stream ids are drawn", () => {
    const header = { ...TINY, streamId: null };
    const ids = Array.from({ length: 20 }, () => readHeader(writeSpt(header, TINY_CODES)).streamId);
    expect(new Set(ids).size).toBe(20);
  });

  test("a header is read without the rest", () => {
    expect(readHeader(TINY_BYTES.subarray(0, 30))).toEqual(makeHeader({ ...TINY, numSamples: null }));
    expect(readHeader(TINY1_BYTES.subarray(0, 41)).numSamples).toBe(900);
    expect(() => readHeader(TINY_BYTES.subarray(0, 29))).toThrow("its header is damaged or cut off");
  });
});

describe("damage", () => {
  test.each([
    { version: 1, bytes: TINY1_BYTES },
    { version: 2, bytes: TINY_BYTES },
    { version: 3, bytes: codedFile().bytes },
  ])("every damaged byte, cut and addition in version $version is detected", ({ version, bytes }) => {
    for (let place = 0; place < bytes.length; place++) {
      for (let flip = 1; flip < 256; flip += version === 3 ? 51 : 1) {
        const damaged = bytes.slice();
        damaged[place]! ^= flip;
        expect(() => readSpt(damaged, entropyModel)).toThrow(InputError);
      }
      expect(() => readSpt(bytes.subarray(0, place), entropyModel)).toThrow(InputError);
    }
    for (const extra of [new Uint8Array(1), new Uint8Array(40), bytes]) {
      expect(() => readSpt(concatenated(bytes, extra), entropyModel)).toThrow("other bytes follow its end");
    }
  });

  test.each([
    ["", "it is empty"],
    ["52494646", "it is not a .spt file"],
    [`a553505409${"00".repeat(40)}`, "it has format version 9, and this program reads versions 1 to 3"],
    ["a5535054", "its header is damaged or cut off"],
  ])("%s is refused with a sentence", (bytes, message) => {
    expect(() => readSpt(hex(bytes))).toThrow(message);
  });

  test("packets out of place, or of another file or version of it, are refused", () => {
    const codes = randomNumbers(14, 1024);
    const ours = writeSpt(TINY, codes);
    const packet = (file: Uint8Array, index: number): Uint8Array => file.subarray(30 + 10 * index, 40 + 10 * index);
    const swapped = concatenated(ours.subarray(0, 30), packet(ours, 1), packet(ours, 0), ours.subarray(50));
    expect(() => readSpt(swapped)).toThrow("its packet 0 is damaged");
    const stranger = writeSpt({ ...TINY, streamId: "a1b2c3d5" }, codes);
    const mixed = concatenated(ours.subarray(0, 30), packet(stranger, 0), ours.subarray(40));
    expect(() => readSpt(mixed)).toThrow("its packet 0 is damaged");
    const other = writeSpt(TINY, randomNumbers(14, 1024, 2));
    const newer = concatenated(ours.subarray(0, 30), packet(other, 0), ours.subarray(40));
    expect(() => readSpt(newer)).toThrow("the digest at its end is not that of the file");
  });

  test("only the shortest form of a header is read", () => {
    for (const [place, longer] of [[18, "00000400"], [19, "00803e00"], [20, "8200"]] as const) {
      const header = concatenated(TINY_BYTES.subarray(0, place), hex(longer), TINY_BYTES.subarray(place + 1, 30));
      const file = concatenated(mended(header, header.length - 4), TINY_BYTES.subarray(30));
      expect(() => readSpt(file)).toThrow(/its header is /);
    }
  });

  test("a sample rate over 192 kHz is refused behind a true checksum", () => {
    const header = (rate: number): Uint8Array =>
      mended(concatenated(TINY_BYTES.subarray(0, 19), [0], littleEndian(rate, 3), TINY_BYTES.subarray(20, 30)), 29);
    expect(readHeader(header(191_999)).sampleRate).toBe(191_999);
    expect(() => readHeader(header(192_001))).toThrow("sampleRate is 192001; expected 1000 to 192000");
  });

  test("an unfinished file of version 1 is refused", () => {
    const marked = TINY1_BYTES.slice();
    marked.fill(255, 16, 24);
    expect(() => readSpt(mended(marked, 37))).toThrow("it is cut off, or was never finished");
  });

  test("codes past the codebook and set padding are refused", () => {
    const header = { ...TINY, codebookSize: 1000, numSamples: 0 };
    const bytes = writeSpt(header, [999, 998]);
    const head = 33; // bytes of the header
    for (const [code, changed] of [[1000, 0], [0, 0x80]] as const) {
      const body = concatenated([1, 0], littleEndian(999 + code * 1024, 3)).slice();
      body[4]! |= changed;
      const crc = crc32(body, crc32(littleEndian(0, 4), crc32(hex("a1b2c3d4"))));
      const start = concatenated(bytes.subarray(0, head), littleEndian(crc, 4), body);
      const file = concatenated(start, sha256(start).subarray(0, 4));
      expect(() => readSpt(file)).toThrow("its packet 0 has codes that are not below the codebook size 1000");
    }
  });

  test("only the shortest form of a number of frames is read", () => {
    const header = TINY_BYTES.subarray(0, 30);
    const [frames, codes] = [[1], [7, 0xf0, 0x0a]];
    expect(Array.from(readSpt(crafted(header, [[...frames, 0, ...codes]])).codes)).toEqual([7, 700]);
    for (const longer of [[0x81, 0], [0x81, 0x80, 0], [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]]) {
      expect(() => readSpt(crafted(header, [[...longer, 0, ...codes]]))).toThrow("its packet 0 is damaged");
    }
    const endless = [1, ...new Array<number>(8).fill(255), 127]; // a number of samples of 63 bits
    expect(() => readSpt(crafted(header, [[...endless, ...codes]]))).toThrow("its packet 0 is damaged");
  });

  test("packets with entropy coding begin where the one before ended, and only the last one can be empty", () => {
    const model = ENTROPY_MODELS.tiny;
    const header = { ...SMALL, codebookSize: model.codebookSize, packetBytes: 32, numSamples: 0 };
    const head = writeSpt(header, [], model).slice(0, -12); // without its last packet and the digest
    const fields = (...numbers: number[]): number[] => numbers.flatMap((number) => Array.from(varint(number)));
    const full = (frames: number, start: number): number[] =>
      Array.from({ length: 28 }, (_, place) => fields(2 * frames, start)[place] ?? 0);
    const last = (frames: number, start: number): number[] => fields(2 * frames + 1, start, 0, 0);
    const numCodes = (packets: number[][]): number => readSpt(crafted(head, packets), entropyModel).codes.length;
    expect(numCodes([last(0, 0)])).toBe(0);
    expect(numCodes([full(3, 0), full(1, 3), last(2, 4)])).toBe(12);
    const elsewhere = /begins with another frame than it should/;
    for (const start of [2, 4]) expect(() => numCodes([full(3, 0), last(2, start)])).toThrow(elsewhere);
    expect(() => numCodes([full(0, 0), last(2, 0)])).toThrow("its packet 0 is damaged or cut off");
    expect(() => numCodes([full(3, 0), full(0, 3), last(2, 3)])).toThrow("its packet 1 is damaged or cut off");
    const most = readHeader(head).framesPerPacket;
    expect(numCodes([full(most, 0), last(most, most)])).toBe(4 * most);
    expect(() => numCodes([full(most + 1, 0), last(0, most + 1)])).toThrow("its packet 0 is damaged or cut off");
  });

  test("a length that the frames cannot hold is refused", () => {
    expect(() => writeSpt({ ...TINY, numSamples: 16001 }, [1, 2])).toThrow("numSamples is 16001, which 1 frames");
    const long = mended(concatenated(TINY1_BYTES.subarray(0, 16), [255, 255, 255], TINY1_BYTES.subarray(19)), 37);
    expect(() => readSpt(long)).toThrow("which 3 frames of codes cannot hold");
  });

  test("a small file that claims many frames is refused, or read with little memory", () => {
    const model = ENTROPY_MODELS["spectok-16k-800"];
    const header = { ...TINY, codebookSize: 65536, tokensPerFrame: 1, framesPerPacket: 0, packetBytes: 65536 };
    const writer = new SptWriter({ ...header, numSamples: 0 }, model);
    writer.append(new Int32Array(20_000));
    const bytes = writer.finish();
    expect(bytes.length).toBeLessThan(20_000);
    const before = process.memoryUsage().arrayBuffers;
    expect(readSpt(bytes, entropyModel).codes).toEqual(new Int32Array(20_000));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20e6);
  });
});

describe("arguments", () => {
  test.each([
    ["model", "../../etc", "model is"],
    ["model", "a".repeat(65), "up to 64 letters"],
    ["model", "a\n", "model is"],
    ["weightHash", "0123456789ABCDEF", "16 hexadecimal digits"],
    ["weightHash", "00", "16 hexadecimal digits"],
    ["sampleRate", 999, "expected 1000 to 192000"],
    ["sampleRate", 16000.5, "sampleRate is 16000.5; expected a whole number"],
    ["sampleRate", NaN, "sampleRate is NaN; expected a whole number"],
    ["codebookSize", 1, "codebookSize is 1; expected 2 to 16777216"],
    ["tokensPerFrame", 256, "expected 1 to 255"],
    ["framesPerPacket", -1, "expected 1 to 32767"],
    ["framesPerPacket", 32768, "expected 1 to 32767"],
    ["numSamples", -1, "numSamples is -1"],
    ["streamId", "A1B2C3D4", "8 hexadecimal digits"],
    ["version", 4, "expected 1 to 3"],
    ["version", 3, "a file of version 3 has entropyId"],
    ["entropyId", "x", "8 hexadecimal digits"],
  ])("%s cannot be %s", (field, value, message) => {
    expect(() => makeHeader({ ...TINY, [field]: value })).toThrow(message);
  });

  test("the size of packets", () => {
    const sized = (codebookSize: number, tokensPerFrame: number, more = {}): number =>
      makeHeader({ ...TINY, codebookSize, tokensPerFrame, framesPerPacket: 0, ...more }).framesPerPacket;
    expect([sized(65536, 1), sized(1024, 8), sized(1 << 24, 255), sized(2, 1)]).toEqual([600, 120, 1, 9600]);
    expect(sized(65536, 1, { entropyId: "00000000" })).toBe(2000);
    const many = { ...TINY, framesPerPacket: 32767, tokensPerFrame: 255 };
    expect(() => makeHeader(many)).toThrow("packets would be over 65536 bytes");
    expect(() => makeHeader({ ...many, version: 1 })).toThrow("packets would be over 1048576 bytes");
    expect(() => makeHeader({ ...many, entropyId: "00000000" })).toThrow("more than 4 times as many codes");
    expect(() => makeHeader({ ...TINY, entropyId: "00000000", packetBytes: 31 })).toThrow("expected 32 to 65536");
  });

  test.each([[[0.5, 1]], [[-1, 0]], [[0, 1024]], [[NaN, 0]], [[2 ** 32, 0]]])("codes cannot be %s", (codes) => {
    expect(() => writeSpt(TINY, codes)).toThrow("codes must be whole numbers from 0 to 1023");
  });

  test("a file is finished once, with whole frames and a known length", () => {
    const writer = new SptWriter({ ...TINY, numSamples: null });
    writer.append([1, 2, 3]);
    expect(() => writer.finish()).toThrow("cannot finish a file without numSamples");
    expect(() => writer.finish(5)).toThrow("3 codes are not whole frames of 2");
    writer.append([4]);
    expect(readSpt(writer.finish(5)).header.numSamples).toBe(5);
    expect(() => writer.append([1])).toThrow("the file is finished");
    expect(() => writer.finish(5)).toThrow("the file is finished");
  });

  test("entropy models that are not known or do not fit are refused", () => {
    const { bytes, codes, header } = codedFile();
    expect(() => readSpt(bytes)).toThrow("need the entropy model");
    expect(() => readSpt(bytes, () => ENTROPY_MODELS["spectok-16k-4k"])).toThrow("which is not known");
    expect(() => writeSpt(header, codes, ENTROPY_MODELS["spectok-16k-4k"])).toThrow("is of codes of another size");
    expect(() => writeSpt({ ...header, entropyId: ENTROPY_MODELS.tiny.id }, codes)).toThrow("which is not known");
  });

  test("a frame that does not fit a packet is refused", () => {
    const levels = Array.from({ length: 160 }, (_, place) => (place % 4 ? 0x80 : 0x7f)); // level 0 is very likely
    const weights = new Uint8Array(3 * 160 * 160);
    const model = EntropyModel.fromBytes(concatenated([5, 4, 4, 4, 4, 4], levels, weights), 8);
    const header = { ...TINY, tokensPerFrame: 8, packetBytes: 32, framesPerPacket: 2, numSamples: 0 };
    expect(writeSpt(header, new Int32Array(8), model).length).toBeLessThan(60);
    const unlikely = [...new Int32Array(8), ...new Int32Array(8).fill(1023)]; // 8 bits for each of 40 digits
    expect(() => writeSpt(header, unlikely, model)).toThrow("packetBytes is 32, which is too small for a frame");
  });
});
