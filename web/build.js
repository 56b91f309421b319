// Builds dist/page/, the page of `spectok web`: scripts, ONNX Runtime's WebAssembly, compressed, and licences.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const OUT = "dist/page";
const RUNTIME = "node_modules/onnxruntime-web";

await rm(OUT, { recursive: true, force: true });
await mkdir(OUT, { recursive: true });
await build({
  entryPoints: { main: "page/main.ts", worker: "page/worker.ts", worklet: "src/worklet.ts" },
  outdir: OUT,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  external: ["node:*"],
  legalComments: "none",
  logLevel: "warning",
});
for (const file of ["index.html", "style.css", "icon.svg"]) await copyFile(`page/${file}`, `${OUT}/${file}`);
const wasm = await readFile(`${RUNTIME}/dist/ort-wasm-simd-threaded.wasm`);
await writeFile(`${OUT}/ort-wasm-simd-threaded.wasm.gz`, gzipSync(wasm, { level: 9 }));
const notice = async (name, path) => `${name}\n\n${await readFile(path, "utf8")}\n`;
await writeFile(
  `${OUT}/LICENSES.txt`,
  (await notice("onnxruntime-web (ort-wasm-simd-threaded.wasm.gz, worker.js)", "licenses/onnxruntime.txt")) +
    (await notice("@noble/hashes (main.js, worker.js)", "node_modules/@noble/hashes/LICENSE")),
);
