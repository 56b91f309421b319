"""Records and draws a model's codes, pitch and voicing, and the attention of its queries with their learned biases."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from spectok.model.bottleneck.bands import mel_bands, membership, positional_bias
from spectok.model.bottleneck.queries import QueryAttention
from spectok.model.codec import NETWORK_STATES, Codec
from spectok.model.excitation import Excitation
from spectok.plotting import canvas, save, show_codes, show_spectrogram
from spectok.resampling import fit_length

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

MAX_SECONDS = 10.0  # in a longer recording the figure would be too coarse
PRIOR = 1e-3  # relative to a query's largest attention by its bias alone; below, the bias is not learned
SEEN = 0.02  # relative to a query's largest mean attention; positions below are left out of its panel


@dataclass(frozen=True)
class Attention:
    """The attention of the queries of the encoder's bottleneck over the frequency axis."""

    weights: NDArray[np.float32]  # mean over the heads, [F, queries, positions]
    bias: NDArray[np.float32]  # [heads, queries, positions]
    start: NDArray[np.float32]  # the bias before training, P of SFC, [queries, positions]
    layout: NDArray[np.bool_]  # the band of each query, [queries, positions]

    @property
    def adaptivity(self) -> float:
        """The share of the attention that depends on the input: 0: it is constant; 1: it never overlaps between frames.

        Half of the mean, over frames and queries, of the L1 distance between a frame's weights and their mean over
        time.
        """
        return float(np.abs(self.weights - self.weights.mean(0)).sum(2).mean()) / 2


@dataclass(frozen=True)
class Voice:
    """Pitch and voicing that the decoder's `Excitation` computes from the codes."""

    pitch: NDArray[np.float64]  # Hz, [hops]; NaN in unvoiced hops
    voicing: NDArray[np.float32]  # share of the pulses in the power, [hops, Q']
    lowest: float  # Hz, frequency of the first bin of `voicing`


@dataclass(frozen=True)
class Inspection:
    """What a model computed for one recording."""

    audio: NDArray[np.float32]  # [T]
    codes: NDArray[np.int64]  # [F, K]
    voice: Voice | None  # None if the decoder has no `Excitation`
    attention: Attention | None  # None if the bottleneck has no attention


def inspect_codec(codec: Codec, audio: NDArray[np.float32]) -> Inspection:
    """Encode the first ten seconds of audio `[T]` at the codec's rate, and record what the codec computes."""
    config = codec.config
    audio = audio[: int(MAX_SECONDS * config.sample_rate)]
    mixer = codec.encoder.bottleneck.mixer
    tokens: list[torch.Tensor] = []
    watching = mixer.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    padded = fit_length(audio, config.padded_length(len(audio)))
    with torch.inference_mode():
        with watching:
            codes, _ = codec.encode_step(torch.from_numpy(padded)[None], codec.encoder.init_state(1))
        voice = _voice(codec, codes)
        frames = codes.reshape(-1, config.quantizer.tokens_per_frame).numpy()
        if not isinstance(mixer, QueryAttention):
            return Inspection(audio, frames, voice, None)
        weights, bias = mixer.attention(tokens[0]).mean(1).numpy(), mixer.bias().numpy()
    positions = weights.shape[2]
    edges = mel_bands(config.bottleneck.queries, positions, config.sample_rate)
    attention = Attention(weights, bias, positional_bias(edges, positions), membership(edges, positions))
    return Inspection(audio, frames, voice, attention)


def _voice(codec: Codec, codes: torch.Tensor) -> Voice | None:
    excitation, config = codec.decoder.excitation, codec.config
    if not isinstance(excitation, Excitation):
        return None
    latent = codec.quantizer.decode(codes.reshape(1, -1, config.quantizer.tokens_per_frame))
    estimate, _ = codec.decoder.estimate(latent, codec.decoder.init_state(1)[:NETWORK_STATES])
    assert estimate.pitch is not None and estimate.voicing is not None
    points = excitation.grid.decode(estimate.pitch)[0]
    pitch = excitation.grid.frequencies()[points.clamp_min(0)].where(points >= 0, math.nan)
    lowest = excitation.first * config.sample_rate / config.spectrum.n_fft
    voicing = torch.sigmoid(estimate.voicing[0] @ excitation.spread)
    return Voice(pitch.numpy(), voicing.numpy(), lowest)


def draw_inspection(path: str | Path, seen: Inspection, sample_rate: int, title: str = "") -> None:
    """Draw a PNG file: spectrogram and codes; pitch and voicing; each query's attention; biases."""
    attention, seconds = seen.attention, len(seen.audio) / sample_rate
    heights = [5.5]
    heights += [] if seen.voice is None else [4.0]
    heights += [] if attention is None else [1.6 * -(-attention.weights.shape[1] // 4), 6.5]
    figure = canvas((12, sum(heights)))
    parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    _draw_codes(next(parts), seen, seconds, sample_rate)
    if seen.voice is not None:
        _draw_voice(next(parts), seen.voice, seconds, sample_rate)
    if attention is not None:
        draw_attention(next(parts), attention, seconds, sample_rate)
        _draw_bias(next(parts), attention, sample_rate)
        title += f" (adaptivity {attention.adaptivity:.3f})"
    figure.suptitle(title)
    save(figure, path)


def _draw_codes(figure: "SubFigure", seen: Inspection, seconds: float, sample_rate: int) -> None:
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    show_spectrogram(top, seen.audio, sample_rate)
    show_codes(middle, seen.codes, seconds)
    count, slots = seen.codes.shape
    first = np.zeros(seen.codes.size, bool)
    first[np.unique(seen.codes, return_index=True)[1]] = True
    times = np.linspace(0, seconds, count + 1)[1:]
    bottom.plot(times, np.cumsum(first)[slots - 1 :: slots], label="different codes so far")
    bottom.plot(times, slots * np.arange(1, count + 1), color="grey", linestyle=":", label="codes so far")
    bottom.legend(loc="upper left")
    bottom.set(xlabel="seconds", xlim=(0, seconds), ylim=(0, None))


def _draw_voice(figure: "SubFigure", voice: Voice, seconds: float, sample_rate: int) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.5])
    times = (np.arange(len(voice.pitch)) + 0.5) * seconds / len(voice.pitch)
    top.plot(times, voice.pitch, ".", markersize=3)
    top.set(ylabel="pitch\nHz", yscale="log")
    extent = (0, seconds, voice.lowest / 1000, sample_rate / 2000)
    bottom.imshow(
        voice.voicing.T,
        origin="lower",
        aspect="auto",
        extent=extent,
        vmin=0,
        vmax=1,
        cmap="magma",
        interpolation="nearest",
    )
    bottom.set(xlabel="seconds", ylabel="voicing\nkHz", xlim=(0, seconds))
    figure.suptitle("excitation of the decoder: pitch of the pulses, and share of pulses (bright) and noise (dark)")


def draw_attention(figure: "SubFigure", attention: Attention, seconds: float, sample_rate: int) -> None:
    """Draw the attention of each query, over seconds and kHz, a panel for each; panels leave out what is not seen."""
    _, queries, positions = attention.weights.shape
    axes = figure.subplots(-(-queries // 4), 4, sharex=True, squeeze=False).ravel()
    for axis in axes[queries:]:
        axis.axis("off")
    for query, axis in enumerate(axes[:queries]):
        weights = attention.weights[:, query]
        looked_at = np.flatnonzero(weights.mean(0) > SEEN * weights.mean(0).max())
        low, high = looked_at[0], looked_at[-1] + 1
        extent = (0, seconds, *(edge * sample_rate / 2000 / positions for edge in (low, high)))
        axis.imshow(weights[:, low:high].T, origin="lower", aspect="auto", extent=extent, vmin=0, cmap="magma")
        axis.text(0.01, 0.96, f"{query + 1}", transform=axis.transAxes, va="top", color="white")
    figure.suptitle("attention of each query: frequency (kHz) over time (s), mean of the heads")


def _draw_bias(figure: "SubFigure", attention: Attention, sample_rate: int) -> None:
    heads = range(len(attention.bias))
    prior = np.exp(attention.bias - attention.bias.max(2, keepdims=True))
    prior /= prior.sum(2, keepdims=True)
    # Where the attention is almost 0 the bias gets no gradient: its changes come from weight decay and are not shown.
    looked_at = prior > PRIOR * prior.max(2, keepdims=True)
    learned = np.where(looked_at & np.isfinite(attention.bias), attention.bias - attention.start, np.nan)
    rows = [
        [("bands", attention.layout), *((f"head {n + 1}: attention by the bias alone", prior[n]) for n in heads)],
        [("bias before training", attention.start), *((f"head {n + 1}: learned change", learned[n]) for n in heads)],
    ]
    most = float(np.nanmax(np.abs(learned))) or 1.0
    axes = figure.subplots(2, 1 + len(heads), sharex=True, sharey=True)
    for row, panels in enumerate(rows):
        for column, (name, image) in enumerate(panels):
            style = {"cmap": "magma"} if row == 0 or column == 0 else {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
            extent = (0, sample_rate / 2000, len(image) + 0.5, 0.5)
            axis = axes[row, column]
            axis.imshow(image, aspect="auto", extent=extent, interpolation="nearest", **style)
            axis.set_title(name, fontsize="small")
        axes[row, 0].set_ylabel("query")
    for axis in axes[1]:
        axis.set_xlabel("kHz")
    figure.suptitle(f"bands, and the bias of each head; learned change: -{most:.2g} (blue) to {most:.2g} (red)")
