/** spectok in browsers and Node.js: see {@link Tokenizer}. */
export { Client, type Hello, type Ready, type Received } from "./client.js";
export { CodecConfig } from "./config.js";
export {
  type Header,
  type HeaderFields,
  makeHeader,
  readHeader,
  readSpt,
  type SptContent,
  SptWriter,
  writeSpt,
} from "./container/index.js";
export { EntropyModel } from "./entropy.js";
export { InputError } from "./errors.js";
export type { FileName, ModelFiles, Progress } from "./files.js";
export type { LoopResult } from "./live.js";
export type { Recording, SaveOptions } from "./recording.js";
export { type RemoteLoop, type RemoteSession, RemoteTokenizer } from "./remote.js";
export { resample, StreamResampler } from "./resampling.js";
export { StreamDecoder, StreamEncoder } from "./sessions.js";
export { type Rate, Tokenizer } from "./tokenizer.js";
export { readWav, type Wav, writeWav } from "./wav.js";
