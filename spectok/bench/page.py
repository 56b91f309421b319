"""Writes the benchmark's HTML pages: `report.html`, with figures and audio, and `abx.html`, for blind listening."""

import base64
import html
import io
import json
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectok.audio import write_audio
from spectok.bench.figures import CAPTIONS, DRAWN, draw_figures, shown_group
from spectok.evaluation.catalogue import METRICS, RATES, Metric, in_order
from spectok.evaluation.coders import Audio
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.report import MACS, costs_of
from spectok.files import write_text
from spectok.plotting import canvas, show_spectrogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]
Clips = dict[str, dict[str, Audio]]  # by the clip's name: audio by codec, and "original"
ASSETS = files("spectok.bench") / "assets"
COST_COLUMNS = (
    "rtf_encode",
    "rtf_encode_ratio",
    "rtf_decode",
    "rtf_decode_ratio",
    "latency",
    "cold",
    "memory",
    "installed",
    "packages",
    "weight_megabytes",
    "parameters",
    *MACS,
)


def write_pages(results: Results, clips: Clips, out: Path) -> None:
    """Write both pages, each with `atomic_write`."""
    coded = {
        clip: {codec: _uri("audio/flac", _flac(audio)) for codec, audio in sounds.items()}
        for clip, sounds in clips.items()
    }
    listening = [{"clip": clip, "sounds": sounds} for clip, sounds in coded.items()]
    abx = (ASSETS / "abx.html").read_text(encoding="utf-8").replace("/*CLIPS*/[]", json.dumps(listening))
    for name, text in (("report.html", _report(results, clips, coded)), ("abx.html", abx)):
        write_text(out / name, text)


def _report(results: Results, clips: Clips, coded: dict[str, dict[str, str]]) -> str:
    group, coders = shown_group(results), results["coders"]
    groups = next(iter(coders.values()))["groups"]
    ours = [name for name in coders if name.startswith("spectok")]
    drawn = {name: _figure(figure, CAPTIONS[name]) for name, figure in draw_figures(results).items()}
    extent = f"{groups[group]['files']} files of speech, {groups[group]['seconds'] / 60:.1f} minutes"
    sections = [
        f"<h1>spectok compared with its rivals</h1><p>{extent}, all codecs on the same files in one run; mean ± half "
        "of the 95 % interval.</p>",
        '<nav><a href="#quality">Quality</a><a href="#cost">Cost</a><a href="#differences">Differences</a>'
        '<a href="#listen">Listen</a><a href="abx.html">Listen blindly</a></nav>',
        '<h2 id="quality">Quality and bitrate</h2>',
        drawn["rate_quality"],
        _quality_table(results, group),
        '<h2 id="cost">Quality and cost</h2>',
        drawn["quality_cost"],
        _cost_table(results),
        '<h2 id="differences">Differences file by file</h2>',
        _pair_table(results, group, ours),
    ]
    if "categories" in drawn:
        sections += ["<h2>By category</h2>", drawn["categories"]]
    sections += ['<h2 id="listen">Listen</h2>', *(_clip(name, clips[name], coded[name]) for name in clips)]
    sections += ["<h2>Methods</h2>", _methods(results)]
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>spectok compared with its rivals</title>\n'
        f"<style>\n{style}</style>\n<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], identity: str, ours: str = "") -> str:
    cells = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    lines = [
        f"<tr{' class=ours' if ours and name.startswith(ours) else ''}><td>{html.escape(name)}</td>"
        + "".join(f"<td>{html.escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in rows
    ]
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table id="{identity}"><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _metrics(results: Results) -> list[Metric]:
    return in_order(DRAWN & set(results["conventions"]["metrics"]))


def _quality_table(results: Results, group: str) -> str:
    metrics = _metrics(results)
    rows = []
    for name, coder in results["coders"].items():
        values = coder["groups"][group]
        cells = [metric.mean(values[metric.name]) for metric in metrics]
        rows.append((name, [*(rate.text(values[rate.name]) for rate in RATES.values()), *cells]))
    titles = ["codec", *(metric.heading for metric in (*RATES.values(), *metrics))]
    return _table(titles, rows, "quality-table", "spectok")


def _cost_table(results: Results) -> str:
    columns = [METRICS[name] for name in COST_COLUMNS]
    rows = []
    weightless = {f"{name} (random weights)": each for name, each in results.get("weightless", {}).items()}
    for name, coder in (results["coders"] | weightless).items():
        costs = costs_of(coder)
        rows.append((name, [column.text(costs[column.name]) for column in columns]))
    return _table(["codec", *(column.heading for column in columns)], rows, "cost-table", "spectok")


def _pair_table(results: Results, group: str, ours: Sequence[str]) -> str:
    metrics = _metrics(results)
    rows = []
    for pair in results["paired"]:
        if pair["group"] == group and pair["first"] in ours and pair["second"] != "original":
            cells = [metric.mean(pair[metric.name]) for metric in metrics]
            rows.append((f"{pair['first']} minus {pair['second']}", cells))
    return _table(["difference", *(metric.heading for metric in metrics)], rows, "difference-table")


def _clip(name: str, sounds: dict[str, Audio], coded: dict[str, str]) -> str:
    shown = "".join(
        f"<figure>{_image(_spectrogram(audio), f'{codec}, {name}')}<figcaption>{html.escape(codec)}</figcaption>"
        f'<audio controls preload="none" src="{coded[codec]}"></audio></figure>\n'
        for codec, audio in sounds.items()
    )
    return f'<h3>{html.escape(name)}</h3>\n<div class="clips">{shown}</div>\n'


def _spectrogram(audio: Audio) -> "Figure":
    figure = canvas((3.2, 1.5))
    axis = figure.subplots()
    show_spectrogram(axis, audio, SAMPLE_RATE)
    axis.set_ylabel("")
    axis.tick_params(labelsize=6)
    return figure


def _methods(results: Results) -> str:
    machine = results["provenance"]["machine"]
    tools = ", ".join(f"{package} {release}" for package, release in machine["versions"].items())
    every = [coder["facts"] for coder in results["coders"].values()]
    packages = ", ".join(sorted({facts["package"] for facts in every if "package" in facts}))
    metrics = in_order((*results["conventions"]["metrics"], *RATES, *COST_COLUMNS))
    meanings = "".join(f"<li>{html.escape(metric.description)}</li>" for metric in metrics)
    return (
        f"<ul>{meanings}</ul><p>All audio is 16 kHz mono. All codecs took turns on one pinned core of "
        f"{machine['cores']} ({html.escape(machine['processor'])}); the rtf of programs includes the start of a "
        "process. The size of an installed package includes its dependencies and the C library, but not Python. A "
        "codec whose weights are not on this disk has random weights: its size and speed are measured, and its quality "
        "is not. Of files that another codec decoded, the quality is measured and the costs are not; their bits/s are "
        "what was stated. "
        f"{html.escape(packages)}; {html.escape(tools)}.</p>"
    )


def _figure(figure: "Figure", text: str) -> str:
    return f"<figure>{_image(figure, text)}</figure>"


def _image(figure: "Figure", text: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f'<img alt="{html.escape(text)}" src="{_uri("image/png", content.getvalue())}">'


def _flac(audio: Audio) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.flac"
        write_audio(path, audio, SAMPLE_RATE)
        return path.read_bytes()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
