/** Reads the bytes of version 1, which is no longer written. */

import { InputError, require } from "../errors.js";
import { crc32, FieldReader, littleEndian, toHex, unpackCodes } from "./bytes.js";
import { makeHeader, payloadBytes, type Header } from "./header.js";
import type { Packet } from "./packet.js";

const LAST = 0x8000;

/** The header, after its magic number and version. */
export function readHeader(source: FieldReader): Header {
  const tokensPerFrame = source.number(1);
  const framesPerPacket = source.number(2);
  const codebookSize = source.number(4);
  const sampleRate = source.number(4);
  const length = source.take(8);
  const isKnown = length.some((byte) => byte !== 255);
  const numSamples = length.reduceRight((value, byte) => value * 256 + byte, 0);
  const weightHash = toHex(source.take(8));
  const model = String.fromCharCode(...source.take(source.number(1)));
  const checksum = crc32(source.raw);
  require(source.number(4) === checksum, "its header is damaged");
  require(model !== "", "its header names no model");
  require(framesPerPacket > 0, "framesPerPacket is 0; expected 1 to 32767");
  return makeHeader({
    ...{ model, weightHash, sampleRate, codebookSize, tokensPerFrame, framesPerPacket },
    ...{ numSamples: isKnown ? numSamples : null, version: 1 },
  });
}

/** Packet `index`, which begins where the reader is. */
export function readPacket(source: FieldReader, header: Header, index: number): Packet {
  const checksum = source.number(4);
  const mark = source.number(2);
  const isLast = (mark & LAST) !== 0;
  const numFrames = mark & ~LAST;
  const isPossible = isLast ? numFrames < header.framesPerPacket : numFrames === header.framesPerPacket;
  if (!isPossible) throw new InputError(`${source.what} is damaged or cut off`);
  const payload = source.take(payloadBytes(header, numFrames));
  const expected = crc32(source.raw.subarray(4), crc32(littleEndian(index, 4)));
  require(checksum === expected, `${source.what} is damaged or cut off`);
  return {
    startFrame: index * header.framesPerPacket,
    numFrames,
    isLast,
    numSamples: isLast ? header.numSamples : null,
    raw: source.raw,
    digest: null,
    decode: (codes) => unpackCodes(payload, codes, header, source.what),
  };
}
