"""Random, perfect and released engines and models, for the tests of several modules."""

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import FLAT, QUERY, VQ
from numpy.typing import NDArray

from spectok import pretrained
from spectok.config import CodecConfig, QuantizerConfig, SpectrumConfig, TowerConfig
from spectok.container import read_spt, write_spt
from spectok.engine import CodecState, TorchEngine
from spectok.engine.torch import TorchStates
from spectok.model.codec import Codec
from spectok.model.spectrum import STFT, InverseSTFT
from spectok.pretrained import Model
from spectok.tokenizer import Tokenizer
from spectok.weights import save_tensors

TINY = {"query": QUERY, "flat": FLAT, "vq": VQ}
SHORT_FRAME = TowerConfig(channels=(4, 8), frequency_strides=(2,), time_strides=(1,))


def random_codec(config: CodecConfig) -> Codec:
    """A codec with random values in all weights, also in those that start at 0: codes depend on all earlier input."""
    torch.manual_seed(0)
    codec = Codec(config)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        if config.quantizer.kind == "vq":
            codec.quantizer.codebook.embed.normal_()
    return codec.eval()


class RandomEngine(TorchStates):
    """A random codec in a given precision. `longest` is the number of frames in its longest step."""

    def __init__(self, config: CodecConfig, dtype: torch.dtype = torch.float64) -> None:
        self.config, self.dtype, self.longest, self.name = config, dtype, 0, "random"
        self.codec = random_codec(config).to(dtype)

    def init_state(self, batch: int) -> CodecState:
        return CodecState(*self.codec.init_state(batch))

    @torch.inference_mode()
    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        self.longest = max(self.longest, audio.shape[1] // self.config.frame_length)
        codes, state = self.codec.encode_step(torch.from_numpy(audio).to(self.dtype), state)
        return codes.numpy(), state

    @torch.inference_mode()
    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        self.longest = max(self.longest, codes.shape[1] // self.config.quantizer.tokens_per_frame)
        mask = None if lost is None else torch.from_numpy(lost)
        audio, state = self.codec.decode_step(torch.from_numpy(codes), state, mask)
        return audio.numpy(), state

    def code_vectors(self) -> NDArray[np.float32]:
        codes = torch.arange(self.config.quantizer.codebook_size)
        return self.codec.quantizer.decode(codes).float().numpy()


class EchoEngine(TorchStates):
    """A perfect codec. Its codes are 16-bit samples, and its synthesis delay is that of an STFT and its inverse."""

    def __init__(self, spectrum: SpectrumConfig, tower: TowerConfig = QUERY.tower) -> None:
        frame_length = spectrum.hop_length * tower.time_strides[0]
        quantizer = QuantizerConfig(kind="vq", tokens_per_frame=frame_length, codebook_size=65536, codebook_dim=1)
        self.config = replace(QUERY, spectrum=spectrum, tower=tower, quantizer=quantizer)
        self.name = "echo"
        self.stft, self.inverse = STFT(spectrum).double(), InverseSTFT(spectrum).double()

    def init_state(self, batch: int) -> CodecState:
        return CodecState((), (self.stft.init_state(batch), self.inverse.init_state(batch)))

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        return (np.rint(audio.clip(-1, 1) * 32767) + 32768).astype(np.int64), state

    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        spectrum, analysis = self.stft.step(torch.from_numpy((codes - 32768) / 32767), state[0])
        audio, synthesis = self.inverse.step(spectrum, state[1])
        return audio.numpy().astype(np.float32), (analysis, synthesis)

    def code_vectors(self) -> NDArray[np.float32]:
        return ((np.arange(65536)[:, None] - 32768) / 32767).astype(np.float32)


ECHOES = {
    "overlap of half a frame": lambda: EchoEngine(SpectrumConfig(n_fft=64, hop_length=16, synthesis_length=32)),
    "longer past": lambda: EchoEngine(SpectrumConfig(n_fft=128, hop_length=16, synthesis_length=64)),
    "overlap of three frames": lambda: EchoEngine(SpectrumConfig(64, 16, 64), SHORT_FRAME),
    "20 ms": lambda: EchoEngine(SpectrumConfig(n_fft=320, hop_length=160, synthesis_length=320)),
}


@functools.cache
def random_engine(name: str, dtype: torch.dtype = torch.float64) -> RandomEngine:
    """The random engine of a tiny configuration."""
    return RandomEngine(TINY[name], dtype)


@functools.cache
def echo_engine(name: str) -> EchoEngine:
    """One of `ECHOES`."""
    return ECHOES[name]()


@functools.cache
def released(name: str, engine: str = "onnx") -> Tokenizer:
    """A released model, loaded once."""
    return Tokenizer.from_pretrained(name, engine=engine)


def released_codec(name: str) -> Codec:
    """The codec of a released model in PyTorch."""
    engine = released(name, "torch").engine
    assert isinstance(engine, TorchEngine)
    return engine.codec


class DoubleEngine(RandomEngine):
    """A released codec in float64, where rounding is too small to change a code."""

    def __init__(self, codec: Codec) -> None:
        self.config, self.dtype, self.longest, self.name = codec.config, torch.float64, 0, "double"
        self.codec = copy.deepcopy(codec).double()


@functools.cache
def in_double_precision(name: str) -> Tokenizer:
    """A released model in float64."""
    return Tokenizer(DoubleEngine(released_codec(name)), released(name).weight_hash)


def write_model(folder: Path, config: CodecConfig) -> Model:
    """Write a random model, without graphs, into its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    save_tensors(folder / "model.safetensors", random_codec(config).state_dict(), {})
    return pretrained.find(folder)


def write_root(root: Path) -> None:
    """Write an index of two released models, `tiny-query` and `tiny-flat`, in the layout of `pretrained/`."""
    for config in (QUERY, FLAT):
        write_model(root / config.name, config)
        pretrained.write_index(root, config.name)


def use_root(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Use `root` as the folder of the released models, as in a source tree."""
    monkeypatch.setattr(pretrained, "CHECKOUT", root)
    monkeypatch.setattr(pretrained, "PACKAGED", root / "no such folder")


def listing(folder: str | Path) -> list[str]:
    """All files below a folder, including hidden ones, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def write_inputs(folder: Path) -> None:
    """Write audio files and .spt files of the tiny models, most of them invalid."""
    random = np.random.default_rng(0)
    noise = (0.2 * random.standard_normal(500)).astype(np.float32)
    soundfile.write(folder / "good.wav", noise, 16000)
    soundfile.write(folder / "no samples.wav", noise[:0], 16000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(500) == 77, np.nan, noise), 16000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", 1000 * noise, 16000, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is no audio.\n" * 100, encoding="utf-8")
    for name in ("query", "flat"):
        tokenizer = Tokenizer.from_pretrained(f"tiny-{name}")
        codes, header = tokenizer.encode(folder / "good.wav"), replace(tokenizer.header(16000, 500), stream_id="0" * 8)
        write_spt(folder / f"{name}.spt", replace(header, frames_per_packet=10), codes)
    content, (header, codes) = (folder / "query.spt").read_bytes(), read_spt(folder / "query.spt")
    for name, damaged in {
        "empty": b"",
        "head": content[:20],
        "cut": content[:-9],
        "more": content + b"\0",
        "flipped": content[:40] + bytes([content[40] ^ 4]) + content[41:],
        "random": random.bytes(len(content)),
        "version": content[:4] + b"\x09" + content[5:],
        "digest": content[:-1] + bytes([content[-1] ^ 4]),
    }.items():
        (folder / f"{name}.spt").write_bytes(damaged)
    write_spt(folder / "unknown.spt", replace(header, model="nobody", weight_hash="f" * 16), codes)
    write_spt(folder / "other weights.spt", replace(header, model="tiny-query", weight_hash="0" * 16), codes)
    write_spt(folder / "few.spt", header, codes[:-2])
    write_spt(folder / "larger codes.spt", replace(header, codebook_size=1024), codes + 64)
