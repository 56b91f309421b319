/** The header of a `.spt` file as a value; the modules `version1` to `version3` know its bytes. */

import { InputError, require } from "../errors.js";

/** The version that is written without entropy coding: every code has the same number of bits. */
export const PLAIN = 2;
/** The version with entropy coding. */
export const CODED = 3;

const PACKET_BYTES = 1200; // of a packet's codes in version 2, unless framesPerPacket says otherwise
const CODED_BYTES = 1000; // of a packet in version 3, unless packetBytes says otherwise
const MOST_SAVED = 4; // packets in version 3 hold at most so many times the frames that fit them in version 2
const MAX_FRAMES = (1 << 15) - 1; // in a packet
const MIN_PACKET = 32; // bytes, in version 3
const MAX_PACKET = 1 << 16;

/** What a `.spt` file is to say about its codes. Fields that are left out take the usual values. */
export interface HeaderFields {
  /** Name of the model that wrote the codes; "" if the hash of its weights identifies it, as for released models. */
  readonly model: string;
  /** 16 hexadecimal digits in lower case: the first 8 bytes of the SHA-256 of the model's `model.safetensors`. */
  readonly weightHash: string;
  /** Sample rate of the original audio in Hz, 1000 to 192000. */
  readonly sampleRate: number;
  /** Number of different codes, 2 to 2^24. */
  readonly codebookSize: number;
  /** Codes in a frame, 1 to 255. */
  readonly tokensPerFrame: number;
  /** Frames in a packet, with entropy coding at most, 1 to 32767; 0 or left out: the usual number. */
  readonly framesPerPacket?: number;
  /** Number of samples of the original audio; null or left out while it is not known. */
  readonly numSamples?: number | null;
  /** 8 hexadecimal digits; with null, or left out, a writer draws them at random. */
  readonly streamId?: string | null;
  /** Version of the format, 1 to 3; 0 or left out: 3 with an entropy model, else 2. */
  readonly version?: number;
  /** 8 hexadecimal digits that identify the entropy model; "" or left out without entropy coding. */
  readonly entropyId?: string;
  /** With entropy coding, the bytes of a packet, 32 to 65536; 0 or left out: 1000. */
  readonly packetBytes?: number;
}

/** What a `.spt` file says about its codes: {@link HeaderFields} that are checked and complete. */
export type Header = Required<HeaderFields>;

/**
 * Check the fields of a header, and give those that are left out their usual values.
 *
 * @throws {@link InputError} A field is out of range, or the fields do not fit each other.
 */
export function makeHeader(fields: HeaderFields): Header {
  const { model, weightHash, sampleRate, codebookSize, tokensPerFrame } = fields;
  const { numSamples = null, streamId = null, entropyId = "" } = fields;
  const isName = typeof model === "string" && /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$/.test(model);
  require(isName, `model is ${shown(model)}; a name is up to 64 letters, digits, '.', '_' or '-'`);
  checkDigits("weightHash", weightHash, 16);
  if (streamId !== null) checkDigits("streamId", streamId, 8);
  if (entropyId !== "") checkDigits("entropyId", entropyId, 8);
  const version = given(fields.version) ?? (entropyId ? CODED : PLAIN);
  checkRange("version", version, 1, CODED);
  checkRange("sampleRate", sampleRate, 1000, 192_000);
  checkRange("codebookSize", codebookSize, 2, 1 << 24);
  checkRange("tokensPerFrame", tokensPerFrame, 1, 255);
  if (numSamples !== null) checkRange("numSamples", numSamples, 0, Number.MAX_SAFE_INTEGER);
  require((version === CODED) === (entropyId !== ""), `a file of version ${version} has entropyId ${shown(entropyId)}`);
  const isCoded = version === CODED;
  const packetBytes = given(fields.packetBytes) ?? (isCoded ? CODED_BYTES : 0);
  if (isCoded) checkRange("packetBytes", packetBytes, MIN_PACKET, MAX_PACKET);
  const room = isCoded ? MOST_SAVED * packetBytes : PACKET_BYTES;
  const usual = Math.floor((8 * room) / (tokensPerFrame * bitsPerCode({ codebookSize })));
  const framesPerPacket = given(fields.framesPerPacket) ?? Math.min(Math.max(1, usual), MAX_FRAMES);
  checkRange("framesPerPacket", framesPerPacket, 1, MAX_FRAMES);
  const header = {
    ...{ model, weightHash, sampleRate, codebookSize, tokensPerFrame, framesPerPacket, numSamples, streamId },
    ...{ version, entropyId, packetBytes },
  };
  const largest = payloadBytes(header, framesPerPacket);
  if (isCoded) {
    const most = `${MOST_SAVED} times as many codes as fit ${packetBytes} bytes`;
    require(largest <= room, `framesPerPacket is ${framesPerPacket}; that is more than ${most}`);
  } else {
    const most = version === 1 ? 1 << 20 : 1 << 16;
    require(largest <= most, `framesPerPacket is ${framesPerPacket}; packets would be over ${most} bytes`);
  }
  return header;
}

/** Bits of a code without entropy coding: ceil(log2(codebookSize)). */
export function bitsPerCode(header: { readonly codebookSize: number }): number {
  return 32 - Math.clz32(header.codebookSize - 1);
}

/** Bytes of the codes of `numFrames` frames in one packet without entropy coding. */
export function payloadBytes(header: Header, numFrames: number): number {
  return Math.ceil((numFrames * header.tokensPerFrame * bitsPerCode(header)) / 8);
}

/**
 * Check that frames can hold so many samples: a frame lasts at most 1 s.
 *
 * @throws {@link InputError} They cannot.
 */
export function checkLength(header: Header, numSamples: number, numFrames: number): void {
  const fits = numSamples <= numFrames * header.sampleRate;
  require(fits, `numSamples is ${numSamples}, which ${numFrames} frames of codes cannot hold`);
}

/** A number that stands for itself: 0 stands for the usual one. */
function given(value: number | undefined): number | undefined {
  return value === 0 ? undefined : value;
}

function checkDigits(name: string, value: unknown, count: number): void {
  const are = typeof value === "string" && value.length === count && /^[0-9a-f]*$/.test(value);
  require(are, `${name} is ${shown(value)}; expected ${count} hexadecimal digits in lower case`);
}

function checkRange(name: string, value: unknown, low: number, high: number): void {
  if (typeof value !== "number" || !Number.isInteger(value)) {
    throw new InputError(`${name} is ${shown(value)}; expected a whole number`);
  }
  require(low <= value && value <= high, `${name} is ${value}; expected ${low} to ${high}`);
}

/** A value in a message, cut to a short length. */
function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value).slice(0, 80) : String(value).slice(0, 80);
}
