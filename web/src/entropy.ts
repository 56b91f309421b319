/**
 * Entropy coding of codes: a range coder, and the entropy model that tells it how probable each code is.
 *
 * The documentation of `spectok/entropy.py` specifies both. All arithmetic is in whole numbers that a double holds
 * exactly, so that every machine computes the same probabilities and reads the same codes.
 */

import { sha256 } from "@noble/hashes/sha2.js";

import { InputError, require } from "./errors.js";

const BITS = 14; // of a probability
const UNIT = 32; // logits in a factor of two
const FRAMES = 2; // frames before, whose digits are used
const SMALLEST = 2 ** 24; // of the range
const WHOLE = 2 ** 32;
const MAX_LEVELS = 4096; // in a frame
const MAX_DIGITS = 84; // in a frame; a logit is the sum of at most 3 * 84 weights and a bias
const POWERS = Array.from({ length: UNIT }, (_, place) => Math.floor(2 ** 16 * 2 ** (-place / UNIT) + 0.5));
const WEIGHTS = Int32Array.from({ length: 512 }, (_, below) => POWERS[below % UNIT]! >> Math.floor(below / UNIT));
const IMPOSSIBLE = "no encoder writes such codes";

/** What a {@link RangeEncoder} has done so far. */
export interface RangeState {
  /** The lowest number of the range without the bytes that were moved out of it; from 2^32 on it has a carry. */
  readonly low: number;
  readonly width: number;
  /** The last byte that was moved out and is not 255, which a carry would change; -1 before the first one. */
  readonly held: number;
  /** The bytes 255 after it, which a carry would change to 0. */
  readonly numPending: number;
  /** The bytes before it, which no carry can change. */
  readonly numFinal: number;
}

/** Codes intervals of probability as a string of bytes. */
export class RangeEncoder {
  private low = 0;
  private width = WHOLE - 1;
  private held = -1;
  private numPending = 0;
  private readonly final: number[] = [];

  /** The state, which can be kept, and restored later in the same encoder, as long as no earlier one was restored. */
  get state(): RangeState {
    const { low, width, held, numPending, final } = this;
    return { low, width, held, numPending, numFinal: final.length };
  }

  set state(state: RangeState) {
    this.low = state.low;
    this.width = state.width;
    this.held = state.held;
    this.numPending = state.numPending;
    this.final.length = state.numFinal;
  }

  /**
   * Code intervals, of 2^14 parts.
   *
   * @param starts - Where they begin.
   * @param sizes - How many parts they have, 1 or more.
   */
  put(starts: ArrayLike<number>, sizes: ArrayLike<number>): void {
    for (let index = 0; index < starts.length; index++) {
      const step = this.width >>> BITS;
      this.low += step * starts[index]!;
      this.width = step * sizes[index]!;
      while (this.width < SMALLEST) {
        this.shift();
        this.width *= 256;
      }
    }
  }

  /** The largest number of bytes that {@link RangeEncoder.finish} can return now. */
  get mostBytes(): number {
    return this.final.length + (this.held >= 0 ? 1 : 0) + this.numPending + 1;
  }

  /** The string; the encoder can go on afterwards. */
  finish(): Uint8Array {
    const { low, width, held, numPending, final } = this;
    const highest = low + width - 1;
    let value = highest - (highest % WHOLE);
    if (value < low) value = highest - (highest % SMALLEST); // not less than `low`: the range is at least 2^24
    const carry = value >= WHOLE ? 1 : 0;
    const bytes = [...final];
    if (held >= 0) bytes.push(held + carry);
    for (let index = 0; index < numPending; index++) bytes.push((255 + carry) & 255);
    bytes.push((value / 2 ** 24) & 255);
    while (bytes.length && bytes[bytes.length - 1] === 0) bytes.pop();
    return Uint8Array.from(bytes);
  }

  /** Move the highest byte out of `low`. */
  private shift(): void {
    const carry = this.low >= WHOLE ? 1 : 0;
    const byte = (this.low / 2 ** 24) & 255;
    if (byte === 255 && !carry) {
      this.numPending++;
    } else {
      if (this.held >= 0) this.final.push(this.held + carry);
      for (; this.numPending; this.numPending--) this.final.push((255 + carry) & 255);
      this.held = byte;
    }
    this.low = (this.low % SMALLEST) * 256;
  }
}

/** Decodes what {@link RangeEncoder} has coded. */
export class RangeDecoder {
  private value = 0;
  private width = WHOLE - 1;
  private place = 0;

  /** @param coded - The string. */
  constructor(private readonly coded: Uint8Array) {
    for (let index = 0; index < 4; index++) this.value = this.value * 256 + this.next();
  }

  /**
   * The number of the level that was coded.
   *
   * @param weights - Of the levels, whose intervals follow from them: whole numbers whose sum is 1 to 2^30.
   * @throws {@link InputError} No encoder writes such a string.
   */
  take(weights: ArrayLike<number>): number {
    const count = weights.length;
    const step = this.width >>> BITS;
    const part = Math.floor(this.value / step);
    if (part >= 1 << BITS) throw new InputError(IMPOSSIBLE);
    let total = 0;
    for (let level = 0; level < count; level++) total += weights[level]!;
    const scale = (1 << BITS) - count;
    let level = 0;
    let sums = 0;
    let start = 0;
    let end = 0;
    while (end <= part) {
      sums += weights[level++]!;
      start = end;
      end = Math.floor((sums * scale) / total) + level;
    }
    this.value -= step * start;
    this.width = step * (end - start);
    while (this.width < SMALLEST) {
      this.width *= 256;
      this.value = this.value * 256 + this.next();
    }
    return level - 1;
  }

  private next(): number {
    return this.coded[this.place++] ?? 0;
  }
}

/** The intervals of the digits of a frame, of 2^14 parts. The arrays are used again for the next frame. */
export interface Intervals {
  readonly starts: Int32Array;
  readonly sizes: Int32Array;
}

/**
 * The probabilities of the digits of codes: a multinomial logistic regression, the `entropy.dat` of a model.
 *
 * Two levels share each 32-bit number in which logits are added up: the weights are raised by 128, so that none is
 * negative, and their sums stay below 2^16. All logits of a digit have the same number of weights in them, and only the
 * differences between them count.
 */
export class EntropyModel {
  /** The number of levels of each digit of a code, the lowest first. */
  readonly levels: readonly number[];
  /** The number of codes of a frame. */
  readonly tokensPerFrame: number;
  /** The first 4 bytes of the SHA-256 of `entropy.dat`, as 8 hexadecimal digits. */
  readonly id: string;
  /** @internal How many levels a digit has; of all digits of a frame. */
  readonly counts: readonly number[];
  /** @internal The number of the first level of each digit in a frame. */
  readonly firsts: readonly number[];
  /** @internal Numbers in a row of weights. */
  readonly stride: number;
  /** @internal The biases, and three blocks of weights: of the same frame, the one before, and the one before that. */
  readonly rows: Int32Array;

  private constructor(content: Uint8Array, levels: readonly number[], tokensPerFrame: number, size: number) {
    require(Math.min(...levels) >= 2, "an entropy model needs digits of at least 2 levels");
    require(size <= MAX_LEVELS, `a frame has ${size} levels, but an entropy model can have ${MAX_LEVELS} at most`);
    this.counts = Array.from({ length: tokensPerFrame }, () => levels).flat();
    const most = `an entropy model can have ${MAX_DIGITS} at most`;
    require(this.counts.length <= MAX_DIGITS, `a frame has ${this.counts.length} digits, but ${most}`);
    this.levels = levels;
    this.tokensPerFrame = tokensPerFrame;
    this.id = Array.from(sha256(content).subarray(0, 4), (byte) => byte.toString(16).padStart(2, "0")).join("");
    let end = 0;
    this.firsts = this.counts.map((count) => (end += count) - count);
    this.stride = Math.ceil(size / 2);
    const weights = new Int8Array(content.buffer, content.byteOffset + 1 + levels.length, (1 + 3 * size) * size);
    this.rows = new Int32Array((1 + 3 * size) * this.stride);
    for (let row = 0; row <= 3 * size; row++) {
      for (let level = 0; level < size; level++) {
        const raised = weights[row * size + level]! + 128;
        this.rows[row * this.stride + (level >> 1)]! |= raised << (16 * (level & 1));
      }
    }
    this.counts.forEach((count, digit) => {
      const end = this.firsts[digit]! + count;
      for (let level = end - count; level < end; level++) {
        const later = weights.subarray((1 + level) * size, (1 + level) * size + end);
        require(later.every((weight) => weight === 0), "an entropy model predicts digits from later ones");
      }
    });
  }

  /**
   * Read an `entropy.dat`.
   *
   * @param content - The file.
   * @param tokensPerFrame - The number of codes of a frame.
   * @throws {@link InputError} The file is damaged, or of codes with another number of tokens per frame.
   */
  static fromBytes(content: Uint8Array, tokensPerFrame: number): EntropyModel {
    const digits = content[0] ?? 0;
    const levels = Array.from(content.subarray(1, 1 + digits));
    const size = tokensPerFrame * levels.reduce((sum, count) => sum + count, 0);
    const isCount = Number.isInteger(tokensPerFrame) && tokensPerFrame > 0;
    const isWhole = digits > 0 && levels.length === digits && content.length === 1 + digits + (1 + 3 * size) * size;
    require(isCount && isWhole, "an entropy model is damaged, or has another number of tokens per frame");
    return new EntropyModel(content, levels, tokensPerFrame, size);
  }

  /** The number of different codes. */
  get codebookSize(): number {
    return this.levels.reduce((product, count) => product * count, 1);
  }

  /** A predictor for the first frame of a packet. */
  predictor(): FramePredictor {
    return new FramePredictor(this);
  }

  /**
   * Code the frames of a packet.
   *
   * @param codes - `[numFrames * tokensPerFrame]`, each below the codebook size.
   */
  encode(codes: ArrayLike<number>): Uint8Array {
    const coder = new RangeEncoder();
    const predictor = this.predictor();
    const all = Int32Array.from(codes);
    for (let place = 0; place < all.length; place += this.tokensPerFrame) {
      const { starts, sizes } = predictor.intervals(all.subarray(place, place + this.tokensPerFrame));
      coder.put(starts, sizes);
    }
    return coder.finish();
  }

  /**
   * The codes of the first frames of a packet, `[numFrames * tokensPerFrame]`.
   *
   * @param coded - What the range coder has written.
   * @param numFrames - How many frames there are.
   * @throws {@link InputError} No encoder writes such a string.
   */
  decode(coded: Uint8Array, numFrames: number): Int32Array {
    const codes = new Int32Array(numFrames * this.tokensPerFrame);
    this.decodeInto(coded, codes);
    return codes;
  }

  /**
   * Fill an array with the codes of the first frames of a packet, as many as it has room for.
   *
   * @throws {@link InputError} No encoder writes such a string.
   */
  decodeInto(coded: Uint8Array, codes: Int32Array): void {
    const decoder = new RangeDecoder(coded);
    const predictor = this.predictor();
    for (let place = 0; place < codes.length; place += this.tokensPerFrame) {
      predictor.decode(decoder, codes.subarray(place, place + this.tokensPerFrame));
    }
  }
}

/** Predicts the digits of the frames of a packet, one frame after the other; made by {@link EntropyModel.predictor}. */
export class FramePredictor implements Intervals {
  /** @internal */
  readonly starts: Int32Array;
  /** @internal */
  readonly sizes: Int32Array;
  private readonly logits: Int32Array; // two in each number
  private readonly weights: readonly Int32Array[]; // of the levels of a digit, by the digit
  private readonly before: Int32Array[] = []; // the numbers of the levels of the frames before, the last one first
  private frame: Int32Array; // those of this frame

  /** @internal */
  constructor(private readonly model: EntropyModel) {
    const { counts, stride } = model;
    const weights = new Int32Array(Math.max(...counts));
    this.weights = counts.map((count) => weights.subarray(0, count));
    this.logits = new Int32Array(stride);
    this.frame = new Int32Array(counts.length);
    this.starts = new Int32Array(counts.length);
    this.sizes = new Int32Array(counts.length);
  }

  /**
   * The intervals of the digits of the next frame.
   *
   * @param codes - Of the frame, `[tokensPerFrame]`, each below the codebook size.
   */
  intervals(codes: Int32Array): Intervals {
    const { levels } = this.model;
    this.begin();
    let digit = 0;
    for (let rest of codes) {
      for (const count of levels) {
        const chosen = rest % count;
        rest = (rest - chosen) / count;
        const weights = this.predict(digit);
        let total = 0;
        let before = 0;
        for (let level = 0; level < count; level++) {
          total += weights[level]!;
          if (level < chosen) before += weights[level]!;
        }
        const scale = (1 << BITS) - count;
        const start = Math.floor((before * scale) / total) + chosen;
        this.starts[digit] = start;
        this.sizes[digit] = Math.floor(((before + weights[chosen]!) * scale) / total) + chosen + 1 - start;
        this.choose(digit++, chosen);
      }
    }
    return this;
  }

  /**
   * Decode the next frame.
   *
   * @param decoder - It has decoded the frames before.
   * @param codes - Gets the codes, `[tokensPerFrame]`.
   * @throws {@link InputError} No encoder writes such a string.
   */
  decode(decoder: RangeDecoder, codes: Int32Array): void {
    const { levels } = this.model;
    this.begin();
    let digit = 0;
    for (let index = 0; index < codes.length; index++) {
      let code = 0;
      let power = 1;
      for (const count of levels) {
        const level = decoder.take(this.predict(digit));
        code += level * power;
        power *= count;
        this.choose(digit++, level);
      }
      codes[index] = code;
    }
  }

  /** Add up what the frames before say about the next one. */
  private begin(): void {
    const { rows, stride, counts, firsts } = this.model;
    const size = firsts[firsts.length - 1]! + counts[counts.length - 1]!;
    this.logits.set(rows.subarray(0, stride));
    this.before.forEach((frame, back) => {
      for (const level of frame) this.add(1 + (back + 1) * size + level, 0);
    });
    const oldest = this.before.length === FRAMES ? this.before.pop()! : new Int32Array(counts.length);
    this.frame = oldest;
    this.before.unshift(oldest);
  }

  /** The weights of the levels of a digit. */
  private predict(digit: number): Int32Array {
    const { logits } = this;
    const first = this.model.firsts[digit]!;
    const weights = this.weights[digit]!;
    let highest = 0;
    for (let level = 0; level < weights.length; level++) {
      const place = first + level;
      const logit = (logits[place >> 1]! >>> (16 * (place & 1))) & 0xffff;
      weights[level] = logit;
      if (logit > highest) highest = logit;
    }
    for (let level = 0; level < weights.length; level++) {
      const below = highest - weights[level]!;
      weights[level] = below < 512 ? WEIGHTS[below]! : 0;
    }
    return weights;
  }

  /** Tell which level a digit has. */
  private choose(digit: number, level: number): void {
    const { firsts, counts } = this.model;
    const place = firsts[digit]! + level;
    this.frame[digit] = place;
    this.add(1 + place, (firsts[digit]! + counts[digit]!) >> 1); // weights of digits before add nothing that counts
  }

  /** Add a row of weights to the logits, from a number in it on. */
  private add(row: number, from: number): void {
    const { logits } = this;
    const { rows, stride } = this.model;
    const offset = row * stride;
    for (let index = from; index < stride; index++) logits[index] = (logits[index]! + rows[offset + index]!) | 0;
  }
}
