"""The tokenizer of a speech language model: audio to integer codes and back.

    tokenizer = Tokenizer.from_pretrained("spectok-16k-4k")
    codes = tokenizer.encode("speech.wav")
    audio = tokenizer.decode(codes)

It adds nothing numeric to the codec: only files, sample rates, batches, lengths, and facts. numpy in, numpy out;
torch in, torch out, on the tensor's own device.
"""

import sys
from operator import index as as_int
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok import audio as audio_files
from spectok import pretrained
from spectok.config import CodecConfig
from spectok.container import Header
from spectok.engine import Engine, load_engine
from spectok.errors import InputError
from spectok.files import check_sample_rate
from spectok.schema import require
from spectok.sessions import StreamDecoder, StreamEncoder

MOST_CHANNELS = 8  # a second axis this short, and shorter than the first, is one of channels


class Tokenizer:
    """A codec with its weights, ready to use.

    Args:
        engine: runs the codec.
        weight_hash: names the weights in .spt files, 16 hexadecimal digits.
    """

    def __init__(self, engine: Engine, weight_hash: str) -> None:
        self.engine, self.weight_hash = engine, weight_hash

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = pretrained.DEFAULT,
        device: str = "cpu",
        engine: str | None = None,
        threads: int | None = None,
    ) -> "Tokenizer":
        """Load a released model by name, or any model from its folder.

        Args:
            name_or_folder: which.
            device: "cpu", or with PyTorch "cuda" or "cuda:1".
            engine: "onnx" or "torch"; by default onnx, but torch on another device, or where a folder has no graphs.
            threads: of the processor; by default 1 for onnx, and for torch what PyTorch thinks right.

        Raises:
            InputError: there is no such model, engine or device, or the weights are damaged.
        """
        model = pretrained.find(name_or_folder)
        return cls(load_engine(model, engine, device, threads), model.weight_hash)

    @property
    def config(self) -> CodecConfig:
        """Everything about the codec."""
        return self.engine.config

    @property
    def sample_rate(self) -> int:
        """Of the audio inside, in Hz."""
        return self.config.sample_rate

    @property
    def codebook_size(self) -> int:
        """Codes are from 0 to `codebook_size - 1`: the vocabulary a language model adds."""
        return self.config.quantizer.codebook_size

    @property
    def tokens_per_frame(self) -> int:
        """Codes per frame, K."""
        return self.config.quantizer.tokens_per_frame

    @property
    def frame_length(self) -> int:
        """Samples per frame, at `sample_rate`."""
        return self.config.frame_length

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def token_rate(self) -> float:
        """Codes per second."""
        return self.config.token_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes."""
        return self.config.bitrate

    def stream_encoder(self) -> StreamEncoder:
        """A new session that encodes one stream."""
        return StreamEncoder(self.engine)

    def stream_decoder(self) -> StreamDecoder:
        """A new session that decodes one stream."""
        return StreamDecoder(self.engine)

    def encode(self, audio: Any, sample_rate: int | None = None) -> Any:
        """Audio to codes.

        Args:
            audio: `[T]` or a batch `[B, T]` (T at least B or over 8, else it is taken for `[T, C]` and refused) as
                array or tensor; the path of a file, whose channels are mixed; or a list of those, whose codes are
                those of its members one by one.
            sample_rate: of arrays and tensors, in Hz; by default the codec's own. Files know theirs.

        Returns:
            int64 codes `[N]` or `[B, N]`, `N = frames * tokens_per_frame`; a list for a list.

        Raises:
            InputError: a file cannot be read, or the audio is empty, not finite or of a wrong shape.
        """
        if isinstance(audio, list):
            return [self.encode(item, sample_rate) for item in audio]
        if isinstance(audio, (str, Path)):
            return self.encode(audio_files.read_audio(audio, self.sample_rate)[0])
        samples = _to_numpy(audio)
        rows = list(np.atleast_2d(audio_files.check_audio(samples, dims=(1, 2))))
        require(
            samples.ndim == 1 or samples.shape[1] > MOST_CHANNELS or samples.shape[1] >= samples.shape[0],
            f"the audio has shape {list(samples.shape)}; a batch is [B, T], and channels, the second axis of [T, C], "
            "are mixed with spectok.audio.to_mono",
        )
        if sample_rate is not None and sample_rate != self.sample_rate:
            rows = [audio_files.resample(row, sample_rate, self.sample_rate) for row in rows]
        session = StreamEncoder(self.engine, batch=len(rows))
        codes = np.concatenate([session.push(np.stack(rows)), session.flush()], axis=1)
        return _like(audio, codes if samples.ndim == 2 else codes[0])

    def decode(self, codes: Any, length: Any = None, sample_rate: int | None = None) -> Any:
        """Codes to audio.

        Args:
            codes: int64 `[N]` or `[B, N]` as array or tensor, or a list of those. N is a multiple of
                tokens_per_frame.
            length: samples to return, at `sample_rate`: one whole number, for a list of codes also a sequence of
                them. By default all that the codes hold, a little more than was encoded.
            sample_rate: to resample to, in Hz; by default the codec's own.

        Returns:
            float32 audio `[T]` or `[B, T]`; a list for a list.

        Raises:
            InputError: the codes end within a frame, are not in the codebook, or hold less than `length`; or that is
                no whole number.
        """
        if isinstance(codes, list):
            try:
                lengths = list(length)
            except TypeError:  # one for all
                lengths = [length] * len(codes)
            require(len(lengths) == len(codes), f"there are {len(lengths)} lengths for {len(codes)} lists of codes")
            return [self.decode(item, samples, sample_rate) for item, samples in zip(codes, lengths, strict=True)]
        tokens = _to_numpy(codes)
        require(tokens.ndim in (1, 2), f"codes must be [N] or [B, N], not {list(tokens.shape)}")
        rows = np.atleast_2d(tokens)
        require(rows.shape[0] > 0, "the batch has no rows")
        session = StreamDecoder(self.engine, batch=rows.shape[0])
        audio = session.push(rows)
        session.flush()
        rate = self.sample_rate if sample_rate is None else check_sample_rate(sample_rate)
        held = -(-audio.shape[1] * rate // self.sample_rate)
        samples = held if length is None else _length(length)
        require(0 <= samples <= held, f"the codes hold {held} samples, not {samples}")
        audio = np.stack([audio_files.restore(row, self.sample_rate, rate, samples) for row in audio])
        return _like(codes, audio if tokens.ndim == 2 else audio[0])

    def header(self, sample_rate: int, num_samples: int | None) -> Header:
        """The header of a .spt file of this codec's codes.

        Args:
            sample_rate: of the original audio, in Hz.
            num_samples: of the original audio; None while it is not known.
        """
        return Header(
            model=self.config.name,
            weight_hash=self.weight_hash,
            sample_rate=sample_rate,
            num_samples=num_samples,
            codebook_size=self.codebook_size,
            tokens_per_frame=self.tokens_per_frame,
            frames_per_packet=max(1, round(self.frame_rate)),
        )

    def check_header(self, header: Header) -> None:
        """Make sure that codes are this codec's own.

        Raises:
            InputError: they were made by another model or by other weights, or are not as many or as large as its.
        """
        ours = self.header(header.sample_rate, header.num_samples)
        if (header.model, header.weight_hash) != (ours.model, ours.weight_hash):
            raise InputError(
                f"the codes were made by {header.model} with weights {header.weight_hash}, "
                f"not by {ours.model} with weights {ours.weight_hash}"
            )
        if (header.codebook_size, header.tokens_per_frame) != (ours.codebook_size, ours.tokens_per_frame):
            raise InputError(
                f"the codes are {header.tokens_per_frame} a frame from a codebook of {header.codebook_size}, "
                f"but those of {ours.model} are {ours.tokens_per_frame} from one of {ours.codebook_size}"
            )


def _to_numpy(value: Any) -> NDArray[Any]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()  # numpy has no bfloat16
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"neither audio nor codes: {error}") from error


def _length(length: Any) -> int:
    try:
        return as_int(length)
    except TypeError as error:
        shown = " ".join(str(length).split())[:40]
        raise InputError(f"the length must be one whole number of samples, not {shown}") from error


def _like(original: Any, result: NDArray[Any]) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(original, torch.Tensor):
        return torch.from_numpy(result).to(original.device)
    return result
