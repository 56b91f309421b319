/** What a model's `config.json` says that its users need; the graphs know the rest. */
import { InputError, require } from "./errors.js";

/** The sizes of a codec. */
export class CodecConfig {
  /** Name of the model. */
  readonly name: string;
  /** Of the audio that the codec hears and makes, in Hz. */
  readonly sampleRate: number;
  /** Samples per frame, at {@link sampleRate}. */
  readonly frameLength: number;
  /** Codes per frame, K. */
  readonly tokensPerFrame: number;
  /** The number of different codes, which are from 0 to `codebookSize - 1`. */
  readonly codebookSize: number;
  /** Samples by which the decoder's raw output lags behind the encoder's input; sessions drop them. */
  readonly synthesisDelay: number;

  /**
   * @param json - the content of `config.json`.
   * @throws InputError if a field is missing or out of range.
   */
  constructor(json: string) {
    let fields: unknown;
    try {
      fields = JSON.parse(json);
    } catch (error) {
      throw new InputError(`config.json is not JSON: ${(error as Error).message}`);
    }
    const spectrum = part(fields, "spectrum");
    const quantizer = part(fields, "quantizer");
    const strides = part(fields, "tower")["time_strides"];
    this.name = String(part({ fields }, "fields")["name"]);
    require(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(this.name), "config.json has no valid name");
    require(Array.isArray(strides) && strides.length <= 8, "config.json has no list time_strides");
    this.sampleRate = whole(fields as Fields, "sample_rate", 1000, 192_000);
    const hop = whole(spectrum, "hop_length", 1, 1 << 16);
    const stride = strides.reduce<number>((product, _, place) => product * whole(strides as never, place, 1, 64), 1);
    this.frameLength = hop * stride;
    require(this.frameLength <= 1 << 20, "config.json has frames of over a million samples");
    this.synthesisDelay = whole(spectrum, "synthesis_length", hop, 1 << 17) - hop;
    this.tokensPerFrame = whole(quantizer, "tokens_per_frame", 1, 255);
    this.codebookSize = whole(quantizer, "codebook_size", 2, 1 << 24);
  }

  /** Code frames per second. */
  get frameRate(): number {
    return this.sampleRate / this.frameLength;
  }

  /** Codes per second. */
  get tokenRate(): number {
    return this.frameRate * this.tokensPerFrame;
  }

  /** Bits per second of the codes, without a container. */
  get bitrate(): number {
    return this.tokenRate * Math.log2(this.codebookSize);
  }

  /** Algorithmic latency of encoder and decoder together, in samples at {@link sampleRate}. */
  get latencySamples(): number {
    return this.frameLength + this.synthesisDelay;
  }

  /** The number of frames for `samples` samples and the synthesis delay after them; 0 for 0. */
  numFrames(samples: number): number {
    return samples === 0 ? 0 : Math.ceil((samples + this.synthesisDelay) / this.frameLength);
  }
}

type Fields = Record<string | number, unknown>;

function part(fields: unknown, name: string): Fields {
  const value = typeof fields === "object" && fields !== null ? (fields as Fields)[name] : undefined;
  require(typeof value === "object" && value !== null, `config.json has no section ${name}`);
  return value as Fields;
}

function whole(fields: Fields, name: string | number, least: number, most: number): number {
  const value = fields[name];
  require(
    typeof value === "number" && Number.isInteger(value) && value >= least && value <= most,
    `config.json: ${name} must be a whole number from ${least} to ${most}`,
  );
  return value;
}
