/** Reads `.spt` files of all versions. */

import { sha256 } from "@noble/hashes/sha2.js";

import type { EntropyModel } from "../entropy.js";
import { InputError, require } from "../errors.js";
import { areEqual, FieldReader, MAGIC, UNFINISHED } from "./bytes.js";
import { checkLength, type Header } from "./header.js";
import type { Packet } from "./packet.js";
import * as version1 from "./version1.js";
import * as version2 from "./version2.js";
import * as version3 from "./version3.js";

const READERS = { 1: version1, 2: version2, 3: version3 };

/** What {@link readSpt} returns. */
export interface SptContent {
  /** The header, with the number of samples of the original audio. */
  readonly header: Header & { readonly numSamples: number };
  /** The codes, `[numFrames * tokensPerFrame]`, frame after frame. */
  readonly codes: Int32Array;
}

/**
 * Read a whole `.spt` file of version 1, 2 or 3, and verify all of its checksums.
 *
 * Memory is bounded by a multiple of the file's size, and 10 MB, whatever the file claims.
 *
 * @param bytes - The file.
 * @param entropyModels - Finds an entropy model by its id, for files of version 3.
 * @returns The header and all codes.
 * @throws {@link InputError} The file is not a `.spt` file, has another version, is damaged, cut off or unfinished, is
 * followed by other bytes, or needs an entropy model that is not known.
 */
export function readSpt(bytes: Uint8Array, entropyModels?: (id: string) => EntropyModel | undefined): SptContent {
  const file = open(bytes);
  const { numSamples, numFrames } = verify(file);
  const { header } = file;
  let model: EntropyModel | undefined;
  if (header.entropyId) {
    model = entropyModels?.(header.entropyId);
    version3.checkModel(header, model);
  }
  const tokens = header.tokensPerFrame;
  const codes = new Int32Array(numFrames * tokens);
  for (const packet of packets(file, model)) {
    const start = packet.startFrame * tokens;
    packet.decode(codes.subarray(start, start + packet.numFrames * tokens));
  }
  return { header: { ...header, numSamples }, codes };
}

/**
 * Read the header of a `.spt` file. The number of samples is only known in a file of version 1.
 *
 * @param bytes - The file, or its beginning.
 * @throws {@link InputError} It does not begin with a valid header.
 */
export function readHeader(bytes: Uint8Array): Header {
  return open(bytes).header;
}

/** A file whose header was read. */
interface OpenFile {
  readonly bytes: Uint8Array;
  readonly header: Header;
  /** Where the first packet begins. */
  readonly body: number;
}

function open(bytes: Uint8Array): OpenFile {
  require(bytes.length > 0, "it is empty");
  const isSpt = areEqual(bytes.subarray(0, 4), MAGIC);
  require(isSpt, "it is not a .spt file");
  const source = new FieldReader(bytes, 0, "its header");
  source.take(4);
  const version = source.number(1);
  const known = `it has format version ${version}, and this program reads versions 1 to 3`;
  require(version === 1 || version === 2 || version === 3, known);
  const header = READERS[version].readHeader(source);
  return { bytes, header, body: source.position };
}

/** The packets in order, up to the last one; each has the right place and a true checksum. */
function* packets(file: OpenFile, model?: EntropyModel): Generator<Packet> {
  const { bytes, header } = file;
  const { readPacket } = READERS[header.version as 1 | 2 | 3];
  let position = file.body;
  let isLast = false;
  let startFrame = 0;
  for (let index = 0; !isLast; index++) {
    const source = new FieldReader(bytes, position, `its packet ${index}`);
    const packet = readPacket(source, header, index, model);
    require(packet.startFrame === startFrame, `its packet ${index} begins with another frame than it should`);
    yield packet;
    position = source.position;
    startFrame += packet.numFrames;
    isLast = packet.isLast;
  }
  require(position === bytes.length, "other bytes follow its end");
}

/** Check everything but the codes, before there is memory for them. Returns the lengths of the recording. */
function verify(file: OpenFile): { readonly numSamples: number; readonly numFrames: number } {
  const hashed = sha256.create().update(file.bytes.subarray(0, file.body));
  let numSamples: number | null = null;
  let numFrames = 0;
  for (const packet of packets(file)) {
    hashed.update(packet.raw);
    numFrames += packet.numFrames;
    if (!packet.isLast) continue;
    numSamples = packet.numSamples;
    if (numSamples === null) throw new InputError(UNFINISHED);
    checkLength(file.header, numSamples, numFrames);
    if (packet.digest === null) continue;
    const isTrue = areEqual(packet.digest, hashed.digest().subarray(0, version2.DIGEST_BYTES));
    require(isTrue, "the digest at its end is not that of the file");
  }
  if (numSamples === null) throw new InputError(UNFINISHED);
  return { numSamples, numFrames };
}
