"""The catalogue of all metrics and costs: titles, units, digits, and whether higher or lower is better.

All tables, figures and pages use it. The module imports no large packages, so that results can be shown without loading
the packages that compute them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from spectok.evaluation.tables import mean, number


@dataclass(frozen=True)
class Metric:
    """A measured quantity."""

    name: str  # in results
    title: str  # in tables and figures
    unit: str  # empty if there is none, or if the title contains it
    digits: int  # after the decimal point
    better: Literal["higher", "lower", "zero"]
    meaning: str

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def description(self) -> str:
        """One line that explains the quantity."""
        best = "0 is best" if self.better == "zero" else f"{self.better} is better"
        return f"{self.heading}: {self.meaning}; {best}"

    def text(self, value: float | None) -> str:
        """A value with its digits, without the unit."""
        return number(value, self.digits)

    def mean(self, summary: dict[str, Any], files: int | None = None) -> str:
        """A mean with its interval, as `spectok.evaluation.tables.mean` writes it."""
        return mean(summary, self.digits, files)


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


JUDGED = _by_name(  # computed with models, by `spectok.evaluation.judges.judge`; those that follow listeners best first
    Metric("distillmos", "DistillMOS", "", 2, "higher", "prediction of listeners' rating of quality, 1 to 5"),
    Metric("dnsmos", "DNSMOS", "", 2, "higher", "DNSMOS P.835, prediction of listeners' overall rating, 1 to 5"),
    Metric("visqol", "ViSQOL", "", 2, "higher", "ViSQOL for speech, prediction of listeners' comparison, 1 to 5"),
    Metric("warpq", "WARP-Q", "", 2, "lower", "distance of cepstra after warping of time; about 0.6 for a copy"),
    Metric(
        "speaker", "speaker similarity", "", 3, "higher", "cosine of Resemblyzer's embeddings of the speaker, up to 1"
    ),
    Metric(
        "wer",
        "word error rate",
        "",
        3,
        "lower",
        "against the transcript of the original, both transcribed by Whisper base, at most 1",
    ),
    Metric(
        "wer_moonshine",
        "word error rate by Moonshine",
        "",
        3,
        "lower",
        "the same with Moonshine tiny, in English speech; it is not used to train spectok",
    ),
    Metric("pitch_cents", "pitch error", "cents", 0, "lower", "mean absolute error where both are voiced"),
    Metric(
        "voicing_error",
        "voicing error",
        "",
        3,
        "lower",
        "share of the time that is voiced in only one of original and decoded speech",
    ),
)
SCORED = _by_name(  # computed by `spectok.evaluation.metrics.score`
    Metric("pesq", "PESQ-WB", "", 2, "higher", "ITU-T P.862.2, MOS-LQO, from 1.0 to 4.64"),
    Metric("stoi", "STOI", "", 3, "higher", "short-time objective intelligibility, up to 1"),
    Metric("estoi", "ESTOI", "", 3, "higher", "extended STOI, up to 1"),
    Metric("si_sdr", "SI-SDR", "dB", 1, "higher", "scale-invariant signal-to-distortion ratio, limited to +-100"),
    Metric("level_db", "level", "dB", 1, "zero", "level of the output relative to that of the original"),
    Metric(
        "overshoot_db",
        "overshoot",
        "dB",
        2,
        "lower",
        "excess of the spectrum over that of the original, mean over time and frequency",
    ),
    Metric("mel_distance", "mel distance", "", 3, "lower", "L1 between natural-log mel spectra over five scales"),
)
RATES = _by_name(
    Metric(
        "payload_bits_per_second",
        "bits/s",
        "",
        0,
        "lower",
        "bits of the codes or frames per second of audio, without container, headers and padding to whole bytes",
    ),
    Metric(
        "disk_bits_per_second",
        "bits/s on disk",
        "",
        0,
        "lower",
        "bits of the coded file per second of audio, including container and headers, for every codec that has a file "
        "format",
    ),
)
COSTS = _by_name(  # by `costs_of` in report.py
    Metric("rtf_encode", "rtf encode", "", 4, "lower", "compute seconds per second of audio"),
    Metric("rtf_encode_ratio", "ratio", "", 2, "lower", "to the first coder's rtf encode"),
    Metric("rtf_decode", "rtf decode", "", 4, "lower", "compute seconds per second of audio"),
    Metric("rtf_decode_ratio", "ratio", "", 2, "lower", "to the first coder's rtf decode"),
    Metric("latency", "latency", "ms", 0, "lower", "time before an impulse at which the output begins to change"),
    Metric("cold", "cold encode of 5 s", "s", 2, "lower", "time of a new process that encodes 5 s of speech"),
    Metric("memory", "peak memory", "MB", 0, "lower", "of such a process, or of one that decodes"),
    Metric("installed", "installed", "MB", 0, "lower", "size of the package and its dependencies"),
    Metric("packages", "packages", "", 0, "lower", "number of these packages"),
    Metric("weight_megabytes", "weights", "MB", 1, "lower", "size of the weights"),
    Metric("parameters", "parameters", "M", 2, "lower", "number of learned parameters"),
    Metric(
        "macs",
        "MMAC/s",
        "",
        0,
        "lower",
        "million multiply-accumulates per second of audio in layers with weights: linear layers, convolutions (a "
        "transposed one at its input rate), recurrent layers and attention, but no elementwise operations",
    ),
    Metric(
        "macs_with_transforms",
        "MMAC/s with transforms",
        "",
        0,
        "lower",
        "the same and all other matrix products, which are Fourier transforms and the postfilter in spectok and the "
        "search of codebook entries in its rivals",
    ),
)
METRICS = JUDGED | SCORED | RATES | COSTS  # in the order of columns and panels


def in_order(names: Iterable[str]) -> list[Metric]:
    """Metrics by their names, in the order of the catalogue."""
    wanted = set(names)
    return [metric for name, metric in METRICS.items() if name in wanted]


def legend(metrics: Iterable[Metric]) -> str:
    """A sentence that explains metrics, for below or above a table."""
    return "; ".join(f"{metric.heading}: {metric.meaning}" for metric in metrics) + "."
