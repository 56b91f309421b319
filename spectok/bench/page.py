"""Writes the benchmark's HTML pages: `report.html`, with figures and a player, and `abx.html`, for blind listening."""

import base64
import html
import importlib.util
import io
import json
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectok.audio import write_audio
from spectok.bench.figures import CAPTIONS, DRAWN, draw_figures, shown_group
from spectok.evaluation.catalogue import METRICS, RATES, Metric, in_order
from spectok.evaluation.coders import Audio
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.pitch import HIGHEST, LOWEST, PITCH_RATE, track_pitch
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
    clips = {clip: {"original": sounds["original"]} | sounds for clip, sounds in clips.items()}
    coded = {clip: {codec: _flac(audio) for codec, audio in sounds.items()} for clip, sounds in clips.items()}
    listening = [
        {"clip": clip, "sounds": {codec: f"data:audio/flac;base64,{flac}" for codec, flac in sounds.items()}}
        for clip, sounds in coded.items()
    ]
    abx = (ASSETS / "abx.html").read_text(encoding="utf-8").replace("/*CLIPS*/[]", _json(listening))
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
    sections += ['<h2 id="listen">Listen</h2>', _listening(clips, coded) if clips else "<p>There are no clips.</p>"]
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


def _listening(clips: Clips, coded: dict[str, dict[str, str]]) -> str:
    """One player for all clips and codecs, and figures of each; coded has the clips as FLAC in base64."""
    names = next(iter(clips.values()))
    options = "".join(
        f'<option value="{html.escape(clip)}" data-seconds="{len(next(iter(sounds.values()))) / SAMPLE_RATE}">'
        f"{html.escape(clip)}</option>"
        for clip, sounds in clips.items()
    )
    choices = "".join(
        f'<label><input type="radio" name="codec" value="{html.escape(name)}"{" checked" * (name == "original")}> '
        f"{html.escape(name)}</label>"
        for name in names
    )
    player = (
        f'<div id="player"><label>Clip <select id="clip">{options}</select></label>'
        f'<fieldset id="codecs" aria-label="Codec">{choices}</fieldset><div id="transport">'
        '<button type="button" id="play">Play</button><input type="range" id="position" min="0" step="0.01" value="0" '
        'aria-label="Position in seconds"><output id="time"></output></div></div>'
    )
    explanation = (
        "<p>A change of codec goes on at the same place of the clip; with the keyboard, the arrow keys change it. The "
        "figures are spectrograms up to 8 kHz, and the pitch in Hz of the original (broad, light) and of the decoded "
        "speech (narrow, black). The name below a figure plays that codec.</p>"
    )
    script = (ASSETS / "player.js").read_text(encoding="utf-8")
    data = f'<script type="application/json" id="sounds">{_json(coded)}</script>\n<script>\n{script}</script>'
    return "\n".join([player, explanation, *(_clip(name, sounds) for name, sounds in clips.items()), data])


def _clip(name: str, sounds: dict[str, Audio]) -> str:
    pitches = _pitches(sounds)
    shown = "".join(
        f"<figure>{_image(_drawing(audio, pitches, codec), f'{codec}, {name}: spectrogram and pitch')}<figcaption>"
        f'<button type="button" data-clip="{html.escape(name)}" data-codec="{html.escape(codec)}">{html.escape(codec)}'
        "</button></figcaption></figure>\n"
        for codec, audio in sounds.items()
    )
    return f'<h3>{html.escape(name)}</h3>\n<div class="clips">{shown}</div>\n'


def _pitches(sounds: dict[str, Audio]) -> dict[str, Audio]:
    """The pitch of every codec's audio, as the pitch error tracks it, NaN where unvoiced; empty without the tracker."""
    if importlib.util.find_spec("swift_f0") is None:
        return {}
    tracked = {codec: track_pitch(audio, SAMPLE_RATE) for codec, audio in sounds.items()}
    return {codec: np.where(pitch > 0, pitch, np.float32(np.nan)) for codec, pitch in tracked.items()}


def _drawing(audio: Audio, pitches: dict[str, Audio], codec: str) -> "Figure":
    """The spectrogram of audio [T], and below it the pitch of the codec over that of the original."""
    figure = canvas((3.2, 2.4 if pitches else 1.5))
    upper, *others = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2]) if pitches else [figure.subplots()]
    show_spectrogram(upper, audio, SAMPLE_RATE)
    upper.set_ylabel("")
    upper.tick_params(labelsize=6)
    for axis in others:
        for name, colour, width in (("original", "0.75", 3.5), (codec, "black", 1.0)):
            if name in pitches:
                times = (np.arange(len(pitches[name])) + 0.5) / PITCH_RATE
                axis.plot(times, pitches[name], color=colour, linewidth=width)
        axis.set_yscale("log")
        axis.set_ylim(LOWEST, HIGHEST)
        axis.set_yticks([100, 200, 400], ["100", "200", "400"])
        axis.minorticks_off()
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
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{_base64(content.getvalue())}">'


def _flac(audio: Audio) -> str:
    """Audio [T] as FLAC in base64."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.flac"
        write_audio(path, audio, SAMPLE_RATE)
        return _base64(path.read_bytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _json(value: Any) -> str:
    """JSON that can stand in a script of a page."""
    return json.dumps(value).replace("<", "\\u003c")
