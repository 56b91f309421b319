/**
 * Reads the metadata of an ONNX file, which ONNX Runtime Web does not show.
 *
 * It decodes protocol buffers (https://protobuf.dev/programming-guides/encoding) with the field numbers of onnx.proto.
 */
import { InputError } from "./errors.js";

const METADATA = 14; // field of ModelProto: StringStringEntryProto, repeated

/**
 * The metadata of an ONNX file, for example `weights`, the SHA-256 of the weights that a graph was made for.
 *
 * @throws InputError if the bytes are not an ONNX file.
 */
export function readMetadata(graph: Uint8Array): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [field, entry] of fields(graph)) {
    if (field !== METADATA) continue;
    const texts = new Map([...fields(entry)].map(([part, bytes]) => [part, new TextDecoder().decode(bytes)]));
    found[texts.get(1) ?? ""] = texts.get(2) ?? "";
  }
  return found;
}

/** The fields of a message that hold bytes: their numbers and contents. Others are skipped. */
function* fields(message: Uint8Array): Generator<[number, Uint8Array]> {
  let place = 0;
  const number = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = message[place++];
      if (byte === undefined) throw new InputError("the graph is cut off");
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw new InputError("the graph is not an ONNX file");
  };
  while (place < message.length) {
    const key = number();
    const kind = key % 8;
    let length = { 1: 8, 5: 4 }[kind] ?? 0;
    if (kind === 0) number();
    else if (kind === 2) length = number();
    else if (length === 0) throw new InputError("the graph is not an ONNX file");
    if (place + length > message.length) throw new InputError("the graph is cut off");
    if (kind === 2) yield [Math.floor(key / 8), message.subarray(place, place + length)];
    place += length;
  }
}
