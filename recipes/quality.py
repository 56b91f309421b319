"""Tables and figures of `pretrained/results`, the quality of the released models and their rivals."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectok import pretrained
from spectok.audio import read_audio
from spectok.bench.figures import CAPTIONS, draw_figures
from spectok.evaluation.catalogue import JUDGED, RATES, in_order
from spectok.evaluation.tables import markdown_table
from spectok.plotting import comparison, save
from spectok.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent.parent / "pretrained" / "results" / "results.json"
FIGURES = (*CAPTIONS, "harmonics")
SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"  # shown in "harmonics"
COLOURS = 32  # of a figure
QUALITY = set(JUDGED) - {"voicing_error"} | {"pesq", "stoi", "si_sdr", "level_db"}  # of tables


def table(results: dict[str, Any], group: str) -> str:
    """The coders over one group of files, as Markdown."""
    metrics = in_order(QUALITY & set(results["conventions"]["metrics"]))
    rows = []
    for name, coder in results["coders"].items():
        values = coder["groups"][group]
        cells = [metric.mean(values[metric.name]) for metric in metrics]
        rows.append([name, *(rate.text(values[rate.name]) for rate in RATES.values()), *cells])
    written = markdown_table(["codec", *(metric.heading for metric in (*RATES.values(), *metrics))], rows) + "\n"
    judged = [metric for metric in metrics if metric.name in JUDGED]
    if not judged:
        return written
    own = [results["coders"][name]["groups"][group] for name in pretrained.models()]
    fewer = [(metric.title, {values[metric.name]["n"] for values in own}) for metric in judged]
    notes = [
        f"{' or '.join(map(str, sorted(counts)))} have a {title}"
        for title, counts in fewer
        if counts != {own[0]["files"]}
    ]
    return f"{written}\nOf the {own[0]['files']} files, {' and '.join(notes)}.\n" if notes else written


def extent(results: dict[str, Any], group: str) -> str:
    """How much speech the figures are over."""
    values = next(iter(results["coders"].values()))["groups"][group]
    return f"{values['files']} files, {values['seconds'] / 60:.1f} minutes"


def worst_level(results: dict[str, Any], name: str, group: str) -> float:
    """The largest difference of level, output to input, of any file whose category begins so, in dB."""
    return max(levels(results, name, group), key=abs)


def levels(results: dict[str, Any], name: str, group: str) -> list[float]:
    """The differences of level, output to input, of the files whose category begins so, in dB."""
    pairs = zip(results["files"], results["coders"][name]["rows"], strict=True)
    found = [row["level_db"] for file, row in pairs if file["category"].startswith(group[:-1])]
    return [level for level in found if level is not None]


def stale_figures(content: bytes) -> list[str]:
    """The names of the figures that do not show these results."""
    from PIL import Image

    digest = hashlib.sha256(content).hexdigest()

    def shown(path: Path) -> Any:
        with Image.open(path) as image:
            return image.info.get("Results")

    paths = {name: RESULTS.with_name(f"{name}.png") for name in FIGURES}
    return [name for name, path in paths.items() if not path.exists() or shown(path) != digest]


def draw(content: bytes, names: list[str]) -> None:
    """Draw figures of the results, with the SHA-256 of the results in each; few colours save space."""
    figures, digest = draw_figures(json.loads(content)), hashlib.sha256(content).hexdigest()
    if "harmonics" in names:
        figures["harmonics"] = _harmonics()
    for name, figure in figures.items():
        if name in names:
            dpi = 76 if name == "harmonics" else 110
            save(figure, RESULTS.with_name(f"{name}.png"), dpi, COLOURS, Results=digest)


def _harmonics() -> "Figure":
    """A sentence, and the same sentence decoded by the default model."""
    tokenizer = Tokenizer.from_pretrained(pretrained.DEFAULT)
    original, sample_rate = read_audio(SPEECH, tokenizer.sample_rate)
    codes = tokenizer.encode(original)
    frames = codes.reshape(-1, tokenizer.tokens_per_frame)
    decoded = tokenizer.decode(codes, length=len(original))
    title = f"{pretrained.DEFAULT}, {tokenizer.bitrate:g} bits/s"
    return comparison(original, decoded, frames, sample_rate, tokenizer.frame_rate, title)
