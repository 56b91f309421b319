"""`CodecConfig`: the structure of a codec, stored as `config.json` beside its weights.

The dataclasses are frozen and strict: an unknown key, a wrong type or an impossible value raises an `InputError` that
names the values. Rates are properties computed from the fields, never fields themselves.
"""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spectok.errors import InputError, require
from spectok.files import read_regular
from spectok.schema import from_dict

FORMAT = 2  # version of config.json; files without a version have format 1
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # names of models
MAX_BYTES = 100_000  # of config.json; the time to check a list of numbers grows with the square of its length
EXTENSION_FACTOR = 3  # sample rate of extended audio (model/extension.py) over that of the codec
EXCITATION_PERIOD = 3200  # hops after which every fixed sequence of excitation.py begins again


@dataclass(frozen=True)
class SpectrumConfig:
    """The short-time Fourier transform and its power law (SpecTokenizer, section 2.1)."""

    n_fft: int = 320  # length of the analysis window and of the transform, samples
    hop_length: int = 160  # samples between frames
    synthesis_length: int = 320  # number of the window's last samples that the synthesis uses; fewer: less latency
    power: float = 2.0  # p of |s|^(1/p); 1 leaves the spectrum unchanged

    def __post_init__(self) -> None:
        n_fft, hop, synthesis = self.n_fft, self.hop_length, self.synthesis_length
        require(n_fft > 0 and n_fft % 2 == 0, f"n_fft is {n_fft}, but must be a positive even number")
        require(hop > 0, f"hop_length is {hop}, but must be positive")
        require(
            2 * hop <= synthesis <= n_fft and synthesis % (2 * hop) == 0,
            f"synthesis_length is {synthesis}, but must be a multiple of twice the hop {hop} and at most n_fft {n_fft}",
        )
        require(1 <= self.power < math.inf, f"power is {self.power}, but must be at least 1, and finite")

    @property
    def positions(self) -> int:
        """Frequency positions of the network: all bins but the Nyquist bin, which is left out."""
        return self.n_fft // 2


@dataclass(frozen=True)
class TowerConfig:
    """The strided convolutions and GRUs between spectrum and bottleneck, in encoder order; the decoder mirrors them."""

    channels: tuple[int, ...] = (16, 32)  # after the input convolution, then after each stage
    frequency_strides: tuple[int, ...] = (2,)
    time_strides: tuple[int, ...] = (2,)
    input_kernel: tuple[int, int] = (3, 3)  # (time, frequency) of the convolution next to the spectrum
    kernel: tuple[int, int] = (3, 4)  # (time, frequency) of each strided convolution
    activation: Literal["snake", "silu", "relu"] = "snake"  # silu is the cheapest in streaming
    residual: bool = True  # a residual path around each RNN2d, initialised to the identity; the paper has none
    rnn_stages: Literal["all", "finest"] = "all"  # stages with an RNN2d: all, or that with the most positions only
    norm: Literal["frame", "batch", "none"] = "frame"  # in each RNN2d: FrameNorm, BatchNorm, or no normalisation

    def __post_init__(self) -> None:
        stages = len(self.channels) - 1
        require(
            stages == len(self.frequency_strides) == len(self.time_strides) and stages > 0,
            f"channels {self.channels} describe {stages} stages, but there are {len(self.frequency_strides)} "
            f"frequency_strides and {len(self.time_strides)} time_strides",
        )
        require(
            min(*self.channels, *self.frequency_strides, *self.time_strides) > 0,
            f"channels {self.channels}, frequency_strides {self.frequency_strides} and time_strides "
            f"{self.time_strides} must all be positive",
        )
        require(
            self.input_kernel[0] > 0 and self.input_kernel[1] > 0 and self.input_kernel[1] % 2 == 1,
            f"input_kernel is {self.input_kernel}, but must be positive, and odd in frequency",
        )
        for stride in self.time_strides:
            require(self.kernel[0] >= stride, f"kernel {self.kernel} spans less time than time stride {stride}")
        for stride in self.frequency_strides:
            require(
                self.kernel[1] >= stride and (self.kernel[1] - stride) % 2 == 0,
                f"kernel {self.kernel} and frequency stride {stride} must differ by an even number of positions",
            )


@dataclass(frozen=True)
class BottleneckConfig:
    """The part that reduces the frequency axis to one vector per frame (model/bottleneck)."""

    kind: Literal["query", "mamba", "band_split", "band_conv", "flat"] = "query"
    queries: int = 16  # K: number of learnable queries, or of bands where there are no queries; not used by flat
    heads: int = 4  # query: attention heads; band_conv: groups of channels
    bias: Literal["none", "matrix", "mask"] = "matrix"  # query: attention bias towards a band for each query
    adaptive: bool = True  # query: attention depends on the frame; False: on the bias alone

    def __post_init__(self) -> None:
        require(self.queries > 0 and self.heads > 0, f"queries {self.queries} and heads {self.heads} must be positive")


@dataclass(frozen=True)
class QuantizerConfig:
    """The quantizer: one codebook, used `tokens_per_frame` times per frame."""

    kind: Literal["fsq", "vq"] = "fsq"
    tokens_per_frame: int = 8
    levels: tuple[int, ...] = (4, 4, 4, 4, 4)  # fsq: levels of each dimension
    codebook_size: int = 1024  # fsq: must be the product of the levels
    codebook_dim: int = 5  # width of a codebook entry; fsq: must be the number of dimensions of levels
    decay: float = 0.99  # vq: decay of the moving averages
    expiry_threshold: float = 0.01  # vq: entries used less often than this per update, on average, are replaced
    pool_size: int = 32768  # vq: number of recent latents that new entries are drawn from; 0: those of the batch

    def __post_init__(self) -> None:
        require(self.tokens_per_frame > 0, f"tokens_per_frame is {self.tokens_per_frame}, but must be positive")
        require(
            2 <= self.codebook_size <= 2**24, f"codebook_size is {self.codebook_size}, but must be from 2 to {2**24}"
        )
        require(self.codebook_dim > 0, f"codebook_dim is {self.codebook_dim}, but must be positive")
        require(0 <= self.decay < 1, f"decay is {self.decay}, but must be at least 0 and less than 1")
        for name in ("expiry_threshold", "pool_size"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, but must not be negative")
        if self.kind == "fsq":
            dimensions = len(self.levels)  # 24 with 2 levels each make the largest codebook
            require(dimensions <= 24, f"levels have {dimensions} dimensions, but may have at most 24")
            require(min(self.levels, default=0) >= 2, f"levels {self.levels} must each be at least 2")
            entries = math.prod(self.levels)
            require(
                entries == self.codebook_size,
                f"levels {self.levels} make {entries} entries, but codebook_size is {self.codebook_size}",
            )
            require(
                len(self.levels) == self.codebook_dim,
                f"levels {self.levels} have {len(self.levels)} dimensions, but codebook_dim is {self.codebook_dim}",
            )


@dataclass(frozen=True)
class ExcitationConfig:
    """How the decoder generates phases that the codes do not contain (excitation.py)."""

    kind: Literal["none", "signs", "pulses"] = "none"  # none: the codes contain all phases
    above: float = 1500.0  # Hz: phases are generated from here up, and decoded below
    contrast: float = 0.0  # exponent of the postfilter, from `above` up (postfilter.py); 0: no postfilter
    pitch_range: tuple[float, float] = (55.0, 520.0)  # Hz, range of the pulses' pitch
    pitch_classes: int = 72  # classes of the pitch head, in equal ratios over pitch_range
    pitch_hidden: int = 128  # width of the pitch head
    voicing_hidden: int = 96  # width of the voicing head
    voicing_bands: int = 20  # number of bands of equal width, from `above` up
    band_limit: float = 7800.0  # Hz: highest frequency of the pulses' harmonics

    def __post_init__(self) -> None:
        lowest, highest = self.pitch_range
        require(self.above >= 0, f"above is {self.above}, but must not be negative")
        require(0 <= self.contrast <= 1, f"contrast is {self.contrast}, but must be from 0 to 1")
        require(
            0 < lowest < highest <= self.band_limit,
            f"pitch_range {self.pitch_range} must rise, from above 0 to at most the band_limit {self.band_limit}",
        )
        for name, least in (("pitch_classes", 2), ("pitch_hidden", 1), ("voicing_hidden", 1), ("voicing_bands", 1)):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}, but must be at least {least}")

    @property
    def phase_below(self) -> float | None:
        """The frequency in Hz below which the codes contain the phases; None if they contain all phases."""
        return None if self.kind == "none" else self.above

    def first_bin(self, n_fft: int, sample_rate: int) -> int:
        """The lowest bin of the spectrum whose phase is generated."""
        return math.ceil(self.above * n_fft / sample_rate)


@dataclass(frozen=True)
class CodecConfig:
    """The whole codec. A dense rank of 0 or 0 GRU layers leaves that part out."""

    name: str = "spectok"
    sample_rate: int = 16000
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)  # of the encoder; the decoder mirrors it
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    excitation: ExcitationConfig = field(default_factory=ExcitationConfig)
    latent_dim: int = 192  # width of a frame between tower and quantizer
    encoder_dense_rank: int = 128  # rank of the dense path from the whole frame to the latent
    decoder_dense_rank: int = 192  # rank of the dense path from the latent to the whole frame
    gru_hidden: int = 192  # hidden size of the residual GRUs over the latent
    encoder_gru_layers: int = 1
    decoder_gru_layers: int = 1
    silence_codes: tuple[int, ...] = ()  # codes of a frame of digital silence (silence.py); empty: whatever comes out
    leveller: bool = False  # whether the encoder brings its input to one level first (leveller.py)
    denoiser_hidden: int = 0  # width of the GRUs that remove noise from the encoder's spectrum (denoiser.py); 0: none
    concealment_hidden: int = 0  # width of the GRU that conceals lost frames (concealment.py); 0: they are repeated

    def __post_init__(self) -> None:
        positions = self.spectrum.positions
        require(
            re.fullmatch(NAME, self.name) is not None,
            f"name is {self.name!r}, but must be 1 to 64 letters, digits, '.', '_' or '-'",
        )
        require(self.sample_rate > 0, f"sample_rate is {self.sample_rate}, but must be positive")
        require(
            self.excitation.kind == "none"
            or max(self.excitation.above, self.excitation.band_limit) < self.sample_rate / 2,
            f"excitation: above {self.excitation.above} Hz and band_limit {self.excitation.band_limit} Hz must be less "
            f"than half of the sample rate {self.sample_rate}",
        )
        quantizer = self.quantizer
        require(
            not self.silence_codes
            or (
                quantizer.kind == "fsq"
                and len(self.silence_codes) == quantizer.tokens_per_frame
                and 0 <= min(self.silence_codes) <= max(self.silence_codes) < quantizer.codebook_size
            ),
            f"silence_codes are {self.silence_codes}, but must be {quantizer.tokens_per_frame} codes of an fsq, from 0 "
            f"to {quantizer.codebook_size - 1}",
        )
        for name in ("latent_dim", "gru_hidden"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, but must be positive")
        for name in (
            "encoder_dense_rank",
            "decoder_dense_rank",
            "encoder_gru_layers",
            "decoder_gru_layers",
            "denoiser_hidden",
            "concealment_hidden",
        ):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, but must not be negative")
        left = positions // math.prod(self.tower.frequency_strides)
        require(
            left > 0 and positions % math.prod(self.tower.frequency_strides) == 0,
            f"the frequency strides {self.tower.frequency_strides} do not divide the {positions} positions of n_fft "
            f"{self.spectrum.n_fft}",
        )
        if self.bottleneck.kind != "flat":
            width, heads, queries = self.tower.channels[-1], self.bottleneck.heads, self.bottleneck.queries
            if self.bottleneck.kind in ("query", "band_conv"):
                require(width % heads == 0, f"the tower's last width {width} is not a multiple of {heads} heads")
            require(queries <= left, f"{queries} queries are more than the {left} positions that the tower leaves")

    @property
    def frame_length(self) -> int:
        """Samples per code frame."""
        return self.spectrum.hop_length * math.prod(self.tower.time_strides)

    @property
    def synthesis_delay(self) -> int:
        """The overlap of the synthesis: samples by which the decoder's raw output lags behind the encoder's input."""
        return self.spectrum.synthesis_length - self.spectrum.hop_length

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency in samples: the frame length, plus the delay of the synthesis."""
        return self.frame_length + self.synthesis_delay

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_length

    @property
    def token_rate(self) -> float:
        """Tokens per second."""
        return self.frame_rate * self.quantizer.tokens_per_frame

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes alone, without the header and checksums of a file."""
        return self.token_rate * math.log2(self.quantizer.codebook_size)

    def num_frames(self, num_samples: int) -> int:
        """The number of code frames for `num_samples` samples and the synthesis delay after them; 0 for 0."""
        return -(-(num_samples + self.synthesis_delay) // self.frame_length) if num_samples else 0

    def padded_length(self, num_samples: int) -> int:
        """The number of samples that the encoder takes for `num_samples` samples: whole frames, padded with zeros."""
        return self.num_frames(num_samples) * self.frame_length

    def num_samples(self, num_frames: int) -> int:
        """The largest number of samples that `num_frames` code frames hold."""
        return max(0, num_frames * self.frame_length - self.synthesis_delay)

    def to_json(self) -> str:
        """All fields and the format version, as JSON text."""
        return json.dumps({"format": FORMAT} | dataclasses.asdict(self), indent=2) + "\n"

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the fields whose values are not the defaults, 64 hexadecimal digits; graphs contain it.

        The layout of `config.json` does not matter, nor does a field that a later version adds with a default.
        """
        parsed = CodecConfig.from_json(json.loads(self.to_json()), "the configuration")  # integers become floats
        values, defaults = (json.loads(config.to_json()) for config in (parsed, CodecConfig()))
        changed = json.dumps(_changed(values, defaults), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(changed.encode()).hexdigest()

    @classmethod
    def from_json(cls, data: Any, where: str) -> "CodecConfig":
        """Build a configuration from parsed JSON of this or an earlier format version.

        Args:
            data: the parsed output of `to_json`.
            where: what to call the data in an error.

        Raises:
            InputError: the version is unknown, or a key or value is wrong.
        """
        require(isinstance(data, dict), f"{where} must be a table of keys, not {data!r}")
        version = data.get("format", 1)
        require(
            type(version) is int and 1 <= version <= FORMAT,
            f"{where} has the format {version!r}; this version of spectok reads formats 1 to {FORMAT}",
        )
        fields = {key: value for key, value in data.items() if key != "format"}
        return from_dict(cls, _upgraded(fields, where) if version == 1 else fields, where)

    @classmethod
    def load(cls, path: str | Path) -> "CodecConfig":
        """Read `config.json` strictly.

        Raises:
            InputError: the file is missing, is not a regular file, has over 100 kB or is not JSON, or a key or value
                is wrong.
        """
        try:
            return cls.from_json(json.loads(read_regular(path, MAX_BYTES).decode("utf-8")), str(path))
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"cannot read {path}: {error}") from error


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults, in nested tables too."""
    return {
        key: _changed(value, defaults[key]) if isinstance(value, dict) else value
        for key, value in values.items()
        if value != defaults[key]
    }


def _upgraded(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert format 1 to format 2, which has one tower for both directions, and bands of equal width in mel only."""
    towers, bottleneck = {"encoder", "decoder"} & data.keys(), data.get("bottleneck", {})
    require(
        not towers or data.get("encoder") == data.get("decoder"),
        f"{where} has an encoder and a decoder that differ, which only version 0.1 of spectok can run",
    )
    data = {key: value for key, value in data.items() if key not in towers} | (
        {"tower": data["encoder"]} if towers else {}
    )
    if isinstance(bottleneck, dict) and bottleneck.get("bands") == "mel":
        data["bottleneck"] = {key: value for key, value in bottleneck.items() if key != "bands"}
    return data
