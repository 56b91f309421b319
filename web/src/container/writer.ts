/** Writes `.spt` files, whole or piece by piece. */

import { sha256 } from "@noble/hashes/sha2.js";

import { joined } from "../arrays.js";
import type { EntropyModel } from "../entropy.js";
import { require } from "../errors.js";
import { toHex } from "./bytes.js";
import { checkLength, CODED, makeHeader, PLAIN, type Header, type HeaderFields } from "./header.js";
import * as version2 from "./version2.js";
import * as version3 from "./version3.js";

/**
 * Writes a `.spt` file in pieces, as the codes of a recording come in. The bytes do not depend on the pieces.
 *
 * With an entropy model the file has version 3, else version 2, whatever the header's version.
 */
export class SptWriter {
  /** The header with all of its fields, with the stream id. */
  readonly header: Header;
  private readonly packer: version2.Packer | version3.Packer;
  private readonly pieces: Uint8Array[] = []; // the header and the packets that are full
  private readonly frame: Int32Array; // codes at the end that are no whole frame
  private numRest = 0; // of them
  private numFrames = 0;
  private isFinished = false;

  /**
   * @param header - Without a stream id, one is drawn at random.
   * @param entropyModel - The model's entropy model, for entropy coding.
   * @throws {@link InputError} A field is out of range, or the entropy model is not the one that the header names.
   */
  constructor(header: HeaderFields, entropyModel?: EntropyModel) {
    const entropyId = header.entropyId || (entropyModel?.id ?? "");
    const streamId = header.streamId ?? toHex(crypto.getRandomValues(new Uint8Array(4)));
    this.header = makeHeader({ ...header, entropyId, streamId, version: entropyId ? CODED : PLAIN });
    if (entropyId) {
      version3.checkModel(this.header, entropyModel);
      this.packer = new version3.Packer(this.header, entropyModel);
      this.pieces.push(version3.packHeader(this.header));
    } else {
      this.packer = new version2.Packer(this.header);
      this.pieces.push(version2.packHeader(this.header));
    }
    this.frame = new Int32Array(this.header.tokensPerFrame);
  }

  /** The number of codes so far. */
  get numCodes(): number {
    return this.numFrames * this.header.tokensPerFrame + this.numRest;
  }

  /**
   * Add codes.
   *
   * @param codes - Whole numbers from 0 to codebookSize - 1, `[n]` for any n: they need not be whole frames.
   * @throws {@link InputError} A code is out of range, or a frame is too large for a packet; or the file is finished.
   */
  append(codes: ArrayLike<number>): void {
    require(!this.isFinished, "the file is finished");
    const { codebookSize } = this.header;
    for (let index = 0; index < codes.length; index++) {
      const code = codes[index]!;
      const isCode = Number.isInteger(code) && code >= 0 && code < codebookSize;
      require(isCode, `codes must be whole numbers from 0 to ${codebookSize - 1}, and one is ${code}`);
    }
    for (let index = 0; index < codes.length; index++) {
      this.frame[this.numRest++] = codes[index]!;
      if (this.numRest < this.frame.length) continue;
      this.pieces.push(...this.packer.add(this.frame));
      this.numFrames++;
      this.numRest = 0;
    }
  }

  /**
   * End the file.
   *
   * @param numSamples - Number of samples of the original audio; left out, that of the header.
   * @returns The whole file.
   * @throws {@link InputError} The number of samples is unknown or more than the frames can hold, or the codes end
   * within a frame; or the file is finished.
   */
  finish(numSamples?: number): Uint8Array {
    require(!this.isFinished, "the file is finished");
    const { tokensPerFrame } = this.header;
    const header = numSamples === undefined ? this.header : makeHeader({ ...this.header, numSamples });
    const length = header.numSamples;
    require(length !== null, "cannot finish a file without numSamples");
    require(this.numRest === 0, `${this.numCodes} codes are not whole frames of ${tokensPerFrame}`);
    checkLength(header, length, this.numFrames);
    this.isFinished = true;
    const body = joined(Uint8Array, [...this.pieces, this.packer.last(length)]);
    return joined(Uint8Array, [body, sha256(body).subarray(0, version2.DIGEST_BYTES)]);
  }
}

/**
 * Write a whole `.spt` file: of version 3 with an entropy model, else of version 2.
 *
 * @param header - Its numSamples must be known. Without a stream id, one is drawn at random.
 * @param codes - Whole numbers from 0 to codebookSize - 1, `[numFrames * tokensPerFrame]`, frame after frame.
 * @param entropyModel - The model's entropy model, for entropy coding.
 * @throws {@link InputError} The header, the codes and the entropy model do not fit each other.
 */
export function writeSpt(header: HeaderFields, codes: ArrayLike<number>, entropyModel?: EntropyModel): Uint8Array {
  const writer = new SptWriter(header, entropyModel);
  writer.append(codes);
  return writer.finish();
}
