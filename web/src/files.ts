/** The files of a model, from a folder on a web server, from a folder on the disk (Node.js), or from memory. */
import { joined } from "./arrays.js";
import { InputError, require } from "./errors.js";

/** Names of a model's files; `entropy.dat` is absent from models without entropy coding. */
export const FILES = ["config.json", "model.safetensors", "encoder.onnx", "decoder.onnx", "entropy.dat"] as const;

/** One of {@link FILES}. */
export type FileName = (typeof FILES)[number];

/** Contents of a model's files by their names. */
export type ModelFiles = Partial<Record<FileName, Uint8Array>>;

/** Gives the content of a file of a model; undefined if there is no such file. */
export type Reader = (name: FileName) => Promise<Uint8Array | undefined>;

/** Told while files are fetched: how many bytes have arrived of all files up to now. */
export type Progress = (bytes: number) => void;

/**
 * A reader of the files of one model.
 *
 * @param source - the address of a folder; in Node.js also its path; or the contents of the files.
 * @param progress - called while files are fetched.
 */
export function readerOf(source: string | URL | ModelFiles, progress?: Progress): Reader {
  if (typeof source !== "string" && !(source instanceof URL)) {
    return async (name) => source[name];
  }
  const address = String(source);
  const isPath = !/^[a-z][a-z0-9+.-]+:/i.test(address);
  if (address.startsWith("file:") || (isPath && typeof process !== "undefined" && process.versions?.node)) {
    return (name) => fromDisk(address, name);
  }
  const folder = new URL(address.endsWith("/") ? address : `${address}/`, globalThis.location?.href);
  let arrived = 0;
  return (name) =>
    fromWeb(new URL(name, folder), (bytes) => {
      arrived += bytes;
      progress?.(arrived);
    });
}

/** A file that must exist. */
export async function readFile(read: Reader, name: FileName): Promise<Uint8Array> {
  const content = await read(name);
  require(content !== undefined, `the model has no file ${name}`);
  return content;
}

async function fromWeb(address: URL, arrived: Progress): Promise<Uint8Array | undefined> {
  let response: Response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw new InputError(`cannot fetch ${address}: ${(error as Error).message}`);
  }
  if (response.status === 404) return undefined;
  require(response.ok && response.body !== null, `cannot fetch ${address}: the server answers ${response.status}`);
  const pieces: Uint8Array[] = [];
  const stream = response.body.getReader();
  for (let step = await stream.read(); !step.done; step = await stream.read()) {
    pieces.push(step.value);
    arrived(step.value.length);
  }
  return joined(Uint8Array, pieces);
}

async function fromDisk(folder: string, name: string): Promise<Uint8Array | undefined> {
  const [{ readFile }, { join }, { fileURLToPath }] = await Promise.all([
    import("node:fs/promises"),
    import("node:path"),
    import("node:url"),
  ]);
  const path = join(folder.startsWith("file:") ? fileURLToPath(folder) : folder, name);
  try {
    return new Uint8Array(await readFile(path));
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw new InputError(`cannot read ${path}: ${(error as Error).message}`);
  }
}
