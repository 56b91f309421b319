/** The worker of the page: it unpacks ONNX Runtime's WebAssembly, which lies compressed beside it. */
import { env } from "onnxruntime-web/wasm";

import { serveTokenizers } from "../src/worker.js";

const early: MessageEvent[] = [];
const scope = self as unknown as Parameters<typeof serveTokenizers>[0];
scope.onmessage = (message) => early.push(message);

const packed = await fetch(new URL("ort-wasm-simd-threaded.wasm.gz", self.location.href));
if (!packed.ok || packed.body === null) throw new Error("cannot load ort-wasm-simd-threaded.wasm.gz");
// Some servers declare the compression, and the browser has then undone it already.
const bytes = new Uint8Array(await packed.arrayBuffer());
const isPacked = bytes[0] === 0x1f && bytes[1] === 0x8b;
const unpacked = isPacked
  ? await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer()
  : bytes.buffer;
env.wasm.wasmBinary = unpacked;

serveTokenizers(scope);
for (const message of early) scope.onmessage?.(message);
