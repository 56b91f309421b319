"""Figures of spectrograms and codes."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectok.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def comparison(
    original: NDArray[np.float32],
    decoded: NDArray[np.float32],
    codes: NDArray[np.int64],
    sample_rate: int,
    frame_rate: float,
    title: str = "",
) -> "Figure":
    """Draw the spectrogram of the original, the codes, and the spectrogram of the decoded audio, on one time axis.

    Args:
        original: audio `[T]`.
        decoded: audio `[T]`.
        codes: `[F, K]`.
        sample_rate: of both, in Hz.
        frame_rate: of the codes, in Hz.
        title: text above the figure.
    """
    figure = canvas((9, 6.5))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[3, max(0.5, min(1.5, codes.shape[1] / 6)), 3])
    for axis, audio, name in ((axes[0], original, "original"), (axes[2], decoded, "decoded")):
        show_spectrogram(axis, audio, sample_rate)
        axis.set_ylabel(f"{name}\nkHz")
    show_codes(axes[1], codes, len(codes) / frame_rate)
    axes[2].set_xlabel("seconds")
    axes[2].set_xlim(0, len(original) / sample_rate)
    figure.suptitle(title)
    return figure


def show_spectrogram(axis: "Axes", audio: NDArray[np.float32], sample_rate: int) -> None:
    """Draw the spectrogram of audio `[T]`, over seconds and kHz."""
    extent = (0, len(audio) / sample_rate, 0, sample_rate / 2000)
    axis.imshow(spectrogram(audio), origin="lower", aspect="auto", extent=extent, vmin=-90, vmax=-10, cmap="magma")
    axis.set_ylabel("kHz")


def show_codes(axis: "Axes", codes: NDArray[np.int64], seconds: float) -> None:
    """Draw codes `[F, K]`, over seconds and slots."""
    slots = codes.shape[1]
    extent = (0, seconds, codes.shape[1] + 0.5, 0.5)
    axis.imshow(codes.T, aspect="auto", extent=extent, cmap="viridis", interpolation="nearest")
    axis.set_ylabel("codes\nslot" if slots > 1 else "codes")
    axis.set_yticks(sorted({1, slots}) if slots > 1 else [])


def canvas(inches: tuple[float, float]) -> "Figure":
    """An empty figure that is drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: str | Path, dpi: int = 110, colours: int | None = None, **texts: str) -> None:
    """Write a figure as a PNG file, with `atomic_write`.

    Args:
        figure: what is drawn.
        path: of the file.
        dpi: pixels per inch.
        colours: the number of different colours, at most 256, which makes a small file; None keeps all.
        texts: are stored in the file under their names.
    """
    from PIL import Image, PngImagePlugin

    drawn, metadata = io.BytesIO(), PngImagePlugin.PngInfo()
    figure.savefig(drawn, format="png", dpi=dpi)
    for name, text in texts.items():
        metadata.add_text(name, text)
    with atomic_write(path) as temporary, Image.open(drawn) as image:
        kept = image.convert("RGB").quantize(colours) if colours else image
        kept.save(temporary, format="PNG", optimize=True, pnginfo=metadata)


def spectrogram(audio: NDArray[np.float32], n_fft: int = 512, hop_length: int = 128) -> NDArray[np.float64]:
    """Power spectrogram in decibels of full scale, `[n_fft // 2 + 1, frames]`, with a Hann window."""
    window = np.hanning(n_fft)
    padded = np.pad(audio, (n_fft // 2, n_fft))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length][: 1 + len(audio) // hop_length]
    magnitude = np.abs(np.fft.rfft(frames * window)) * (2 / window.sum())
    decibels: NDArray[np.float64] = 20 * np.log10(magnitude.T + 1e-6)
    return decibels
