/** The parts that the bytes of a `.spt` file are made of: integers, varints, checksums and codes as strings of bits. */

import { InputError, require } from "../errors.js";
import { bitsPerCode, payloadBytes, type Header } from "./header.js";

/** The first bytes of every file: A5 and "SPT". */
export const MAGIC = Uint8Array.of(0xa5, 0x53, 0x50, 0x54);
/** What is wrong with a file that ends between two packets. */
export const UNFINISHED = "it is cut off, or was never finished";

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** The CRC-32 of zlib and PNG: of `data`, or of data with the CRC-32 `before` followed by `data`. */
export function crc32(data: Uint8Array, before = 0): number {
  let crc = ~before;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Takes the fields of one part of a file, such as a packet, one after the other. */
export class FieldReader {
  /** Where the next field begins. */
  position: number;

  /**
   * @param bytes - The file.
   * @param start - Where the part begins.
   * @param what - What the part is called in messages.
   */
  constructor(
    private readonly bytes: Uint8Array,
    private readonly start: number,
    readonly what: string,
  ) {
    this.position = start;
  }

  /** The bytes from the start of the part to the next field, as a view of the file. */
  get raw(): Uint8Array {
    return this.bytes.subarray(this.start, this.position);
  }

  /**
   * The next `count` bytes, as a view of the file.
   *
   * @throws {@link InputError} The file ends before.
   */
  take(count: number): Uint8Array {
    const { bytes, position } = this;
    if (count > bytes.length - position) {
      throw new InputError(this.start === bytes.length ? UNFINISHED : `${this.what} is damaged or cut off`);
    }
    this.position += count;
    return bytes.subarray(position, this.position);
  }

  /**
   * A little-endian integer of `count` bytes, up to 8. Numbers from 2^53 on are rounded.
   *
   * @throws {@link InputError} The file ends before.
   */
  number(count: number): number {
    return this.take(count).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  /**
   * An integer with 7 bits in each byte, the lowest first.
   *
   * @throws {@link InputError} The file ends before, or the integer has more bytes than it needs, or is 2^53 or more,
   * which no field of a file can be.
   */
  varint(): number {
    let value = 0;
    for (let place = 0; place < 8; place++) {
      const byte = this.number(1);
      value += (byte & 127) * 2 ** (7 * place);
      if (byte < 128) {
        require((byte > 0 || place === 0) && Number.isSafeInteger(value), `${this.what} is damaged`);
        return value;
      }
    }
    throw new InputError(`${this.what} is damaged`);
  }
}

/** A number below 2^53 as 7 bits in each byte, the lowest first. */
export function varint(value: number): Uint8Array {
  const data: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) data.push((value % 128) | 128);
  data.push(value);
  return Uint8Array.from(data);
}

/** A number as `count` little-endian bytes, up to 4. */
export function littleEndian(value: number, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, place) => value >>> (8 * place));
}

/** The bytes of an even number of hexadecimal digits. */
export function fromHex(digits: string): Uint8Array {
  const length = digits.length / 2;
  return Uint8Array.from({ length }, (_, place) => parseInt(digits.slice(2 * place, 2 * place + 2), 16));
}

/** Bytes as hexadecimal digits in lower case. */
export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether two arrays hold the same bytes. */
export function areEqual(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, place) => byte === other[place]);
}

/** The codes of whole frames as one string of bits. */
export function packCodes(codes: Int32Array, header: Header): Uint8Array {
  const width = bitsPerCode(header);
  const packed = new Uint8Array(payloadBytes(header, codes.length / header.tokensPerFrame));
  let place = 0;
  let waiting = 0; // bits that fill no byte yet: with those of a code at most 31
  let count = 0;
  for (const code of codes) {
    waiting |= code << count;
    for (count += width; count >= 8; count -= 8) {
      packed[place++] = waiting;
      waiting >>>= 8;
    }
  }
  if (count) packed[place] = waiting;
  return packed;
}

/**
 * Fill `codes` from a string of bits, which has as many bytes as they need.
 *
 * @throws {@link InputError} A code is not below the codebook size, or a bit after the last code is set.
 */
export function unpackCodes(payload: Uint8Array, codes: Int32Array, header: Header, what: string): void {
  const width = bitsPerCode(header);
  const mask = (1 << width) - 1;
  let place = 0;
  let waiting = 0;
  let count = 0;
  let largest = 0;
  for (let index = 0; index < codes.length; index++) {
    for (; count < width; count += 8) waiting |= payload[place++]! << count;
    const code = waiting & mask;
    if (code > largest) largest = code;
    codes[index] = code;
    waiting >>>= width;
    count -= width;
  }
  const isRight = largest < header.codebookSize && waiting === 0;
  require(isRight, `${what} has codes that are not below the codebook size ${header.codebookSize}`);
}
