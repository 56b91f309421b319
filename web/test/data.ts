/** Files that the tests share with those of the Python package. */

import { readFileSync } from "node:fs";

import { EntropyModel } from "../src/entropy.js";

const root = new URL("../../", import.meta.url);

/** A file of the repository, by its path from the root. */
export function readData(path: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(path, root)));
}

/** What the golden files in `tests/data/format` hold, by the name of the model. */
export interface Golden {
  readonly weight_hash: string;
  readonly sample_rate: number;
  readonly num_samples: number;
  readonly codebook_size: number;
  readonly tokens_per_frame: number;
  readonly codes: readonly number[];
}

/** The content of the golden files. */
export const GOLDEN = JSON.parse(
  new TextDecoder().decode(readData("tests/data/format/content.json")),
) as Readonly<Record<string, Golden>>;

/** The entropy models of the released models and of the tests. */
export const ENTROPY_MODELS = {
  "spectok-16k-4k": EntropyModel.fromBytes(readData("pretrained/spectok-16k-4k/entropy.dat"), 8),
  "spectok-16k-800": EntropyModel.fromBytes(readData("pretrained/spectok-16k-800/entropy.dat"), 1),
  tiny: EntropyModel.fromBytes(readData("tests/data/entropy/tiny-entropy.dat"), 2),
};

/** Finds one of the entropy models by its id. */
export function entropyModel(id: string): EntropyModel | undefined {
  return Object.values(ENTROPY_MODELS).find((model) => model.id === id);
}

/** Whole numbers from 0 to below `limit`, the same for the same seed. */
export function randomNumbers(count: number, limit: number, seed = 1): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  });
}

/** Bytes of hexadecimal digits, between which there may be spaces. */
export function hex(digits: string): Uint8Array {
  return new Uint8Array(Buffer.from(digits.replaceAll(" ", ""), "hex"));
}
