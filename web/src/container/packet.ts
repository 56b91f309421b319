/** A packet of a `.spt` file as a value. */

/** The codes of successive frames, which are decoded when they are needed. */
export interface Packet {
  /** Number of the first frame. */
  readonly startFrame: number;
  readonly numFrames: number;
  /** Whether this is the last packet of the file. */
  readonly isLast: boolean;
  /** Number of samples of the whole recording, in the last packet; null if it is not known. */
  readonly numSamples: number | null;
  /** The bytes of the packet without the digest. */
  readonly raw: Uint8Array;
  /** The digest at the end of the last packet; null if there is none. */
  readonly digest: Uint8Array | null;
  /**
   * Fill an array of `numFrames * tokensPerFrame` values with the codes.
   *
   * @throws {@link InputError} They cannot be decoded.
   */
  decode(codes: Int32Array): void;
}
