"""Engines run the network. Their interface uses NumPy arrays, and callers treat states as opaque.

Sessions and tokenizer use only the protocol `Engine`. `OnnxEngine` runs a model's graphs in ONNX Runtime and does not
need PyTorch; `TorchEngine` runs the codec in PyTorch. Each library is imported when its engine is created.
"""

from spectok.engine.onnx import OnnxEngine
from spectok.engine.protocol import CodecState, Engine, Side
from spectok.engine.torch import TorchEngine, load_codec, load_extension
from spectok.errors import InputError, require
from spectok.pretrained import Model

__all__ = [
    "ENGINES",
    "CodecState",
    "Engine",
    "OnnxEngine",
    "Side",
    "TorchEngine",
    "load_codec",
    "load_engine",
    "load_extension",
    "model_size",
]

ENGINES = ("onnx", "torch")


def load_engine(
    model: Model,
    name: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    encoder: Model | None = None,
) -> Engine:
    """Create an engine for a model.

    Args:
        model: configuration and weights on disk.
        name: "onnx" or "torch"; by default onnx, but torch on a device other than the CPU, or if the model has no
            graphs.
        device: "cpu", or for torch also "cuda" or "cuda:1".
        threads: CPU threads; by default 1 for onnx, and PyTorch's own default for torch.
        encoder: an encoder of the model to use in place of its own, from `pretrained.find_encoder`.

    Raises:
        InputError: there is no such engine or device, a package is not installed, or the model is damaged.
    """
    require(name is None or name in ENGINES, f"there is no engine '{name}'; known are {', '.join(ENGINES)}")
    require(threads is None or threads > 0, f"the number of threads is {threads}, but must be positive")
    has_graphs = model.has_graphs and (encoder is None or encoder.has_graph("encoder"))
    if name == "torch" or (name is None and (device != "cpu" or not has_graphs)):
        return TorchEngine(model, device, threads, encoder)
    require(device == "cpu", f"the engine onnx runs on the device cpu, not on '{device}'; torch does")
    return OnnxEngine(model, threads or 1, encoder)


def model_size(model: Model) -> tuple[int, dict[str, float]]:
    """Number of a model's parameters, and multiply-accumulates per second of audio of its "encoder" and "decoder".

    They are read from the metadata of the graphs; without graphs they are counted (`Codec.macs_per_second`).

    Raises:
        InputError: there are neither graphs nor PyTorch.
    """
    if not model.has_graphs:
        codec = TorchEngine(model).codec
        return codec.num_parameters, codec.macs_per_second()
    engine = OnnxEngine(model)
    facts = {side: engine.facts(side) for side in ("encoder", "decoder")}
    try:
        macs = {side: float(fact["macs_per_second"]) for side, fact in facts.items()}
        return int(facts["encoder"]["parameters"]), macs
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the graphs of {model.config.name} do not tell their size; spectok export makes them anew"
        ) from error
