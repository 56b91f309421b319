"""Compares weights of 8 bits with float32, by ONNX Runtime's dynamic quantization of the matrix products.

    python benchmarks/precision.py CORPUS/test --every 4

Measures the milliseconds per chunk of 20 ms, both in turn on one thread; the mean of the differences of PESQ-WB over
files, for the decoder alone (with the codes of float32) and for encoder and decoder; and the share of codes that
change. Writes `precision.json` beside this file; recipes/cards.py writes the table.
"""

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spectok import pretrained
from spectok.audio import list_audio, read_audio
from spectok.engine import OnnxEngine
from spectok.errors import InputError
from spectok.evaluation.metrics import interval, pesq_wb
from spectok.evaluation.provenance import weights_of, write_results
from spectok.pretrained import Model
from spectok.resampling import resample
from spectok.tokenizer import Tokenizer

HERE = Path(__file__).parent
ROUNDS = 300


def quantized(model: Model, folder: Path) -> Model:
    """A copy of a model whose matrix products have weights of 8 bits.

    Two parts are not quantized: the product that sums the digits of a code, and the postfilter's means, some of which
    are so small that they would become 0.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for side in ("encoder", "decoder"):
        source, target = folder / f"{side}.float32.onnx", folder / f"{side}.onnx"
        _in_float32(model.folder / f"{side}.onnx", source)
        before = onnx.load(source).graph
        kept = {
            item.name for item in before.initializer if len(item.dims) == 1 or item.name.endswith("postfilter.mean")
        }
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[node.name for node in before.node if kept.intersection(node.input[1:2])],
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        facts = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
        graph = onnx.load(target)
        onnx.helper.set_model_props(graph, facts)
        onnx.save(graph, target)
    shutil.copy(model.weights, folder)
    return replace(model, folder=folder, index={})


def _in_float32(source: Path, target: Path) -> None:
    """A graph with float32 constants as weights instead of float16 constants and casts."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def compare(name: str, files: list[Path]) -> dict[str, Any]:
    """The results of one model in both precisions."""
    model = pretrained.find(name)
    with tempfile.TemporaryDirectory() as folder:
        small = quantized(model, Path(folder))
        sizes = [sum(path.stat().st_size for path in m.folder.glob("*coder.onnx")) for m in (model, small)]
        sizes[0] += model.weights.stat().st_size  # the graphs of 8 bits hold their weights themselves
        full, short = (Tokenizer(OnnxEngine(m), m.weight_hash) for m in (model, small))
        decoded, both, changed, total = [], [], 0, 0
        for path in files:
            audio = resample(*read_audio(path), full.sample_rate)
            codes, other = full.encode(audio), short.encode(audio)
            before = pesq_wb(audio, full.decode(codes, len(audio)))
            decoded.append(pesq_wb(audio, short.decode(codes, len(audio))) - before)
            both.append(pesq_wb(audio, short.decode(other, len(audio))) - before)
            changed, total = changed + int((codes != other).sum()), total + len(codes)
        times = chunks((full, short))
    return {
        "model": name,
        "files": len(files),
        "megabytes": [size / 1e6 for size in sizes],
        "chunk_ms": times,
        "codes_changed": changed / total,
        "pesq_decoder": interval(decoded).as_dict(),
        "pesq_both": interval(both).as_dict(),
    }


def chunks(tokenizers: tuple[Tokenizer, ...]) -> list[float]:
    """Median milliseconds of encoding and decoding a chunk of 20 ms, in turn."""
    sessions = [(tokenizer.stream_encoder(), tokenizer.stream_decoder()) for tokenizer in tokenizers]
    times: list[list[float]] = [[] for _ in sessions]
    noise = 0.1 * np.random.default_rng(0).standard_normal((ROUNDS, 320)).astype(np.float32)
    for chunk in noise:
        for kept, (encoder, decoder) in zip(times, sessions, strict=True):
            began = time.perf_counter()
            decoder.push(encoder.push(chunk))
            kept.append(1000 * (time.perf_counter() - began))
    return [float(np.median(kept)) for kept in times]


def main() -> int:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of audio files")
    parser.add_argument("--every", type=int, default=1, help="take one file of so many (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time (default: %(default)s)")
    args = parser.parse_args()
    try:
        files = list_audio(args.corpus)[:: args.every]
        if not files:
            raise InputError(f"{args.corpus} holds no audio")
        with ProcessPoolExecutor(args.jobs) as pool:
            names = pretrained.models()
            rows = list(pool.map(compare, names, [files] * len(names)))
    except InputError as error:
        print(f"precision: {error}", file=sys.stderr)
        return 2
    write_results(HERE / "precision.json", {"rows": rows}, weights_of(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
