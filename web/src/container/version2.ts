/** The bytes of version 2: codes that all have the same number of bits. */

import { joined } from "../arrays.js";
import { require } from "../errors.js";
import {
  areEqual,
  crc32,
  FieldReader,
  fromHex,
  littleEndian,
  MAGIC,
  packCodes,
  toHex,
  unpackCodes,
  varint,
} from "./bytes.js";
import { bitsPerCode, makeHeader, payloadBytes, type Header, type HeaderFields } from "./header.js";
import type { Packet } from "./packet.js";

/** Bytes of the digest at the end of a file. */
export const DIGEST_BYTES = 4;

const RATES = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000];

/** The bytes of a header whose stream id is known. */
export function packHeader(header: Header): Uint8Array {
  return withChecksum(packFields(header));
}

/** The header up to the model's name, as bytes. */
export function packFields(header: Header): Uint8Array {
  const { codebookSize, sampleRate, model } = header;
  const bits = bitsPerCode(header);
  const rate = RATES.indexOf(sampleRate) + 1;
  return joined(Uint8Array, [
    MAGIC,
    Uint8Array.of(header.version),
    fromHex(header.weightHash),
    fromHex(header.streamId ?? ""),
    Uint8Array.of(header.tokensPerFrame),
    codebookSize === 1 << bits ? Uint8Array.of(bits) : littleEndian(codebookSize * 256, 4),
    rate ? Uint8Array.of(rate) : littleEndian(sampleRate * 256, 4),
    varint(header.framesPerPacket),
    Uint8Array.of(model.length),
    Uint8Array.from(model, (character) => character.charCodeAt(0)),
  ]);
}

/** The bytes of a header, with the checksum at its end. */
export function withChecksum(body: Uint8Array): Uint8Array {
  return joined(Uint8Array, [body, littleEndian(crc32(body), 4)]);
}

/** The header, after its magic number and version. */
export function readHeader(source: FieldReader): Header {
  const fields = readFields(source);
  checkHeader(source);
  const header = makeHeader(fields);
  require(areEqual(packHeader(header), source.raw), "its header is not in its shortest form");
  return header;
}

/** The fields of the header up to the model's name. */
export function readFields(source: FieldReader): HeaderFields {
  const weightHash = toHex(source.take(8));
  const streamId = toHex(source.take(4));
  const tokensPerFrame = source.number(1);
  const bits = source.number(1);
  const codebookSize = bits ? 2 ** bits : source.number(3);
  const rate = source.number(1);
  const sampleRate = rate ? (RATES[rate - 1] ?? 0) : source.number(3);
  const framesPerPacket = source.varint() || -1; // left out, it would be the usual number
  const model = String.fromCharCode(...source.take(source.number(1)));
  return { model, weightHash, sampleRate, codebookSize, tokensPerFrame, framesPerPacket, streamId };
}

/**
 * Read the checksum at the end of the header.
 *
 * @throws {@link InputError} It is not that of the bytes before it.
 */
export function checkHeader(source: FieldReader): void {
  const checksum = crc32(source.raw);
  require(source.number(4) === checksum, "its header is damaged");
}

/** A packet without its digest. `numSamples` is null for all packets but the last. */
export function packPacket(header: Header, index: number, codes: Int32Array, numSamples: number | null): Uint8Array {
  return packed(header, index, [
    varint(codes.length / header.tokensPerFrame),
    ...(numSamples === null ? [] : [varint(numSamples)]),
    packCodes(codes, header),
  ]);
}

/** A packet of fields: they follow their checksum. */
export function packed(header: Header, index: number, fields: readonly Uint8Array[]): Uint8Array {
  const body = joined(Uint8Array, fields);
  return joined(Uint8Array, [littleEndian(checksumOf(header, index, body), 4), body]);
}

/** The checksum of a packet, whose bytes after it are `body`. */
export function checksumOf(header: Header, index: number, body: Uint8Array): number {
  return crc32(body, crc32(littleEndian(index, 4), crc32(fromHex(header.streamId ?? ""))));
}

/** Packet `index`, which begins where the reader is. */
export function readPacket(source: FieldReader, header: Header, index: number): Packet {
  const damaged = `${source.what} is damaged or cut off`;
  const checksum = source.number(4);
  const numFrames = source.varint();
  require(numFrames <= header.framesPerPacket, damaged);
  const isLast = numFrames < header.framesPerPacket;
  const numSamples = isLast ? source.varint() : null;
  const payload = source.take(payloadBytes(header, numFrames));
  const raw = source.raw;
  require(checksum === checksumOf(header, index, raw.subarray(4)), damaged);
  return {
    startFrame: index * header.framesPerPacket,
    numFrames,
    isLast,
    numSamples,
    raw,
    digest: isLast ? source.take(DIGEST_BYTES) : null,
    decode: (codes) => unpackCodes(payload, codes, header, source.what),
  };
}

/** Makes packets of the codes of successive frames. */
export class Packer {
  private pending: Int32Array; // codes of the packet that is not yet full
  private numPending = 0;
  private numPackets = 0;

  constructor(private readonly header: Header) {
    this.pending = new Int32Array(header.framesPerPacket * header.tokensPerFrame);
  }

  /** Add the codes of one frame. Returns the packet if it is now full. */
  add(frame: Int32Array): Uint8Array[] {
    this.pending.set(frame, this.numPending);
    this.numPending += frame.length;
    if (this.numPending < this.pending.length) return [];
    this.numPending = 0;
    return [packPacket(this.header, this.numPackets++, this.pending, null)];
  }

  /** The last packet without its digest, for a recording of so many samples. */
  last(numSamples: number): Uint8Array {
    return packPacket(this.header, this.numPackets, this.pending.subarray(0, this.numPending), numSamples);
  }
}
