// Encodes and decodes recordings with the built package, for the Python tests.
//   node test/tools/convert.js JOBS.json
// JOBS.json: [{ model: folder, audio: path of float32 samples, sampleRate, chunk: samples or 0 }]. Prints for each the
// codes, and writes the decoded audio beside the samples, with the ending .decoded.
import { readFileSync, writeFileSync } from "node:fs";

import { Tokenizer } from "../../dist/index.js";

const models = new Map();
const results = [];
for (const { model, audio: path, sampleRate, chunk } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  if (!models.has(model)) models.set(model, await Tokenizer.fromPretrained(model));
  const tokenizer = models.get(model);
  const bytes = readFileSync(path);
  const audio = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  let codes, decoded;
  if (chunk === 0) {
    codes = await tokenizer.encode(audio, { sampleRate });
    decoded = await tokenizer.decode(codes, { length: audio.length, sampleRate });
  } else {
    const [encoder, decoder] = [tokenizer.streamEncoder({ sampleRate }), tokenizer.streamDecoder({ sampleRate })];
    const pieces = [];
    const push = async (part) => pieces.push(part, await decoder.push(part));
    for (let start = 0; start < audio.length; start += chunk) await push(await encoder.push(audio.subarray(start, start + chunk)));
    await push(await encoder.flush());
    pieces.push(new Int32Array(0), await decoder.flush());
    const joined = (kind, parts) => kind.from(parts.flatMap((part) => [...part]));
    codes = joined(Int32Array, pieces.filter((_, place) => place % 2 === 0));
    decoded = joined(Float32Array, pieces.filter((_, place) => place % 2 === 1));
  }
  writeFileSync(`${path}.decoded`, new Uint8Array(decoded.buffer, decoded.byteOffset, decoded.byteLength));
  results.push([...codes]);
}
console.log(JSON.stringify(results));
