"""Draw what the queries of a trained separator look at in a mixture, beside what those of the codec look at in speech.

    python recipes/separation/looks.py RUN --data SOURCES --out recipes/separation/looks.png

RUN is a run folder of recipes/separation/train.py whose bottleneck has queries. The mixture is the first one of the
test; the codec hears the speech in it alone, and its part is drawn as `spectok inspect` draws it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.separation.config import SeparationConfig
from recipes.separation.mixtures import Mixtures
from recipes.separation.separator import Separator
from recipes.separation.train import CHECKPOINT
from spectok import pretrained
from spectok.engine import load_codec
from spectok.errors import InputError, require
from spectok.evaluation.inspection import Attention, draw_attention, inspect_codec
from spectok.model.bottleneck.bands import mel_bands, membership, positional_bias
from spectok.plotting import canvas, save, show_spectrogram
from spectok.schema import from_dict
from spectok.training.checkpoint import with_prefix
from spectok.weights import load_tensors

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

SECONDS = 2.0  # that are shown, of the first mixture of the test


def load_separator(run: Path) -> tuple[Separator, SeparationConfig]:
    """The separator of a run folder, and its recipe.

    Raises:
        InputError: the folder holds no run, or one of another version.
    """
    path = run / "run.json"
    require(path.is_file(), f"{run} holds no run")
    config = from_dict(SeparationConfig, json.loads(path.read_text(encoding="utf-8"))["recipe"], str(path))
    model = Separator(config.separator, config.outputs)
    model.load_state_dict(with_prefix(load_tensors(run / CHECKPOINT)[0], "model."))
    return model.eval(), config


def attention_of(model: Separator, mixture: NDArray[np.float32]) -> Attention:
    """The attention of the separator's queries in a mixture `[T]`.

    Raises:
        InputError: the bottleneck has no adaptive queries.
    """
    config = model.config
    bottleneck = config.bottleneck
    require(bottleneck.kind == "query", f"the bottleneck is {bottleneck.kind}, which has no queries to look at")
    with torch.inference_mode():
        weights, bias = model.attention(torch.from_numpy(mixture)[None])
    positions = weights.shape[-1]
    edges = mel_bands(bottleneck.queries, positions, config.sample_rate)
    start, layout = positional_bias(edges, positions), membership(edges, positions)
    return Attention(weights[0].numpy(), bias.detach().numpy(), start, layout)


def draw(path: Path, parts: Sequence[tuple[str, NDArray[np.float32], Attention]], sample_rate: int) -> None:
    """Draw audio `[T]` and its attention under their titles, one part beside the other."""
    rows = max(-(-attention.weights.shape[1] // 4) for _, _, attention in parts)
    figure = canvas((11 * len(parts), 2.5 + 1.6 * rows))
    columns = figure.subfigures(1, len(parts), squeeze=False)[0]
    for column, (title, audio, attention) in zip(columns, parts, strict=True):
        _draw_part(column, title, audio, attention, rows, sample_rate)
    save(figure, path, dpi=52, colours=14)


def _draw_part(
    column: "SubFigure", title: str, audio: NDArray[np.float32], attention: Attention, rows: int, sample_rate: int
) -> None:
    top, bottom = column.subfigures(2, 1, height_ratios=[2.5, 1.6 * rows], squeeze=False)[:, 0]
    axis = top.subplots(1, 1)
    show_spectrogram(axis, audio, sample_rate)
    axis.set_title(f"{title} (adaptivity {attention.adaptivity:.3f})")
    draw_attention(bottom, attention, len(audio) / sample_rate, sample_rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of recipes/separation/train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/separation/prepare.py")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="PNG file to write")
    parser.add_argument("--model", default="spectok-16k-4k", help="codec to compare with (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        model, config = load_separator(args.run)
        data = Mixtures(args.data, "test", config.mix)
        require(config.separator.sample_rate == data.sample_rate, f"{args.run} works at another rate than the codec")
        sources = data.test()[0][:, : int(SECONDS * data.sample_rate)]
        mixture = sources.sum(0)
        codec = inspect_codec(load_codec(pretrained.find(args.model)), sources[0])
        require(codec.attention is not None, f"{args.model} has no queries to look at")
        assert codec.attention is not None
        parts = [
            (f"separator, mixture of {', '.join(config.sources)}", mixture, attention_of(model, mixture)),
            (f"{args.model}, the speech of the mixture", codec.audio, codec.attention),
        ]
        draw(args.out, parts, data.sample_rate)
    except InputError as error:
        print(f"looks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
