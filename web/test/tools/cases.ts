/**
 * Reads and writes the files of tests/test_web_container.py, which compares them with what Python does.
 *
 * The arguments are two files of JSON: what to do, and where the results go. Bytes are in base64.
 */

import { readFileSync, writeFileSync } from "node:fs";

import { readSpt, SptWriter, type HeaderFields } from "../../src/container/index.js";
import { EntropyModel } from "../../src/entropy.js";
import { InputError } from "../../src/errors.js";
import { readWav, writeWav } from "../../src/wav.js";

interface Task {
  readonly models: readonly { readonly content: string; readonly tokensPerFrame: number }[];
  /** `.spt` files. */
  readonly files: readonly string[];
  /** Files to write, with their codes in pieces. */
  readonly writes: readonly { readonly header: HeaderFields; readonly pieces: readonly (readonly number[])[] }[];
  /** WAV files. */
  readonly wavs: readonly string[];
  /** Float32 samples to write. */
  readonly sounds: readonly { readonly audio: string; readonly sampleRate: number }[];
}

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "base64"));
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}

/** What a function returns; or the message of the InputError, or of another error, that it throws. */
function outcome<Result>(act: () => Result): Result | { readonly refused: string } | { readonly failed: string } {
  try {
    return act();
  } catch (error) {
    return error instanceof InputError ? { refused: error.message } : { failed: String(error) };
  }
}

const [taskPath = "", resultPath = ""] = process.argv.slice(2);
const task = JSON.parse(readFileSync(taskPath, "utf8")) as Task;
const models = new Map(
  task.models.map(({ content, tokensPerFrame }) => {
    const model = EntropyModel.fromBytes(fromBase64(content), tokensPerFrame);
    return [model.id, model];
  }),
);

const files = task.files.map((content) =>
  outcome(() => {
    const { header, codes } = readSpt(fromBase64(content), (id) => models.get(id));
    return { header, codes: Array.from(codes) };
  }),
);
const writes = task.writes.map(({ header, pieces }) =>
  outcome(() => {
    const writer = new SptWriter(header, models.get(header.entropyId ?? ""));
    for (const piece of pieces) writer.append(piece);
    return { content: toBase64(writer.finish()) };
  }),
);
const wavs = task.wavs.map((content) =>
  outcome(() => {
    const { audio, sampleRate } = readWav(fromBase64(content));
    return { sampleRate, audio: toBase64(new Uint8Array(audio.buffer)) };
  }),
);
const sounds = task.sounds.map(({ audio, sampleRate }) =>
  outcome(() => ({ content: toBase64(writeWav(new Float32Array(fromBase64(audio).buffer), sampleRate)) })),
);
writeFileSync(resultPath, JSON.stringify({ files, writes, wavs, sounds }));
