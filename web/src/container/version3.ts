/** The bytes of version 3: entropy coding. */

import { joined } from "../arrays.js";
import { RangeEncoder, type EntropyModel, type FramePredictor } from "../entropy.js";
import { InputError, require } from "../errors.js";
import { areEqual, FieldReader, fromHex, toHex, varint } from "./bytes.js";
import { makeHeader, type Header } from "./header.js";
import type { Packet } from "./packet.js";
import { checkHeader, checksumOf, DIGEST_BYTES, packed, packFields, readFields, withChecksum } from "./version2.js";

/** The bytes of a header whose stream id is known. */
export function packHeader(header: Header): Uint8Array {
  return withChecksum(joined(Uint8Array, [packFields(header), varint(header.packetBytes), fromHex(header.entropyId)]));
}

/** The header, after its magic number and version. */
export function readHeader(source: FieldReader): Header {
  const fields = readFields(source);
  const packetBytes = source.varint() || -1; // left out, it would be the usual number
  const entropyId = toHex(source.take(4));
  checkHeader(source);
  const header = makeHeader({ ...fields, packetBytes, entropyId });
  require(areEqual(packHeader(header), source.raw), "its header is not in its shortest form");
  return header;
}

/**
 * Check that an entropy model is the one that a header names.
 *
 * @throws {@link InputError} There is none, or it is another one.
 */
export function checkModel(header: Header, model: EntropyModel | undefined): asserts model is EntropyModel {
  const { entropyId, weightHash } = header;
  const name = header.model || `the model with the weights ${weightHash}`;
  const isKnown = model !== undefined && model.id === entropyId;
  require(isKnown, `its codes need the entropy model ${entropyId} of ${name}, which is not known`);
  const fits = model.codebookSize === header.codebookSize && model.tokensPerFrame === header.tokensPerFrame;
  require(fits, `its entropy model ${entropyId} is of codes of another size`);
}

/** Packet `index`, which begins where the reader is. Without an entropy model its codes cannot be decoded. */
export function readPacket(source: FieldReader, header: Header, index: number, model?: EntropyModel): Packet {
  const checksum = source.number(4);
  const mark = source.varint();
  const startFrame = source.varint();
  const numFrames = Math.floor(mark / 2);
  const isLast = mark % 2 === 1;
  const numSamples = isLast ? source.varint() : null;
  const numBytes = isLast ? source.varint() : header.packetBytes - source.raw.length;
  const coded = source.take(Math.min(Math.max(0, numBytes), header.packetBytes));
  const raw = source.raw;
  const isPossible = (isLast || numFrames > 0) && numFrames <= header.framesPerPacket;
  const isRight = checksum === checksumOf(header, index, raw.subarray(4)) && isPossible;
  require(isRight, `${source.what} is damaged or cut off`);
  return {
    startFrame,
    numFrames,
    isLast,
    numSamples,
    raw,
    digest: isLast ? source.take(DIGEST_BYTES) : null,
    decode: (codes) => {
      try {
        checkModel(header, model);
        model.decodeInto(coded, codes);
      } catch (error) {
        if (!(error instanceof InputError)) throw error;
        throw new InputError(`${source.what} cannot be decoded: ${error.message}`);
      }
    },
  };
}

/** Makes packets of the codes of successive frames. */
export class Packer {
  private numFrames = 0;
  private numPackets = 0;
  private numPending = 0; // frames in the packet that is not yet full
  private coder = new RangeEncoder();
  private predictor: FramePredictor;
  private room = 0; // bytes of the packet for coded codes

  constructor(
    private readonly header: Header,
    private readonly model: EntropyModel,
  ) {
    this.predictor = model.predictor();
    this.begin();
  }

  /**
   * Add the codes of one frame. Returns the packets that are now full.
   *
   * @throws {@link InputError} The frame is too large for a packet.
   */
  add(frame: Int32Array): Uint8Array[] {
    const full: Uint8Array[] = [];
    if (!this.fits(frame)) {
      if (this.numPending) full.push(this.full());
      const fits = full.length > 0 && this.fits(frame);
      require(fits, `packetBytes is ${this.header.packetBytes}, which is too small for a frame`);
    }
    this.numPending++;
    this.numFrames++;
    if (this.numPending === this.header.framesPerPacket) full.push(this.full());
    return full;
  }

  /** The last packet without its digest, for a recording of so many samples. */
  last(numSamples: number): Uint8Array {
    const coded = this.coder.finish();
    const fields = [2 * this.numPending + 1, this.numFrames - this.numPending, numSamples, coded.length];
    return packed(this.header, this.numPackets, [...fields.map(varint), coded]);
  }

  /** Begin a packet. */
  private begin(): void {
    this.numPending = 0;
    this.coder = new RangeEncoder();
    this.predictor = this.model.predictor();
    const head = 4 + varint(2 * this.header.framesPerPacket).length + varint(this.numFrames).length;
    this.room = this.header.packetBytes - head;
  }

  /** Code a frame if its codes are sure to fit the packet; else leave the coder as it was. */
  private fits(frame: Int32Array): boolean {
    const state = this.coder.state;
    const { starts, sizes } = this.predictor.intervals(frame);
    this.coder.put(starts, sizes);
    const fits = this.coder.mostBytes <= this.room;
    if (!fits) this.coder.state = state;
    return fits;
  }

  private full(): Uint8Array {
    const fields = [2 * this.numPending, this.numFrames - this.numPending].map(varint);
    const coded = this.coder.finish();
    const size = fields.reduce((length, field) => length + field.length, 4 + coded.length);
    const zeros = new Uint8Array(this.header.packetBytes - size);
    const packet = packed(this.header, this.numPackets++, [...fields, coded, zeros]);
    this.begin();
    return packet;
  }
}
