"""The results of `evaluate` as results.json, whole, and as results.md, to be read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectok.errors import InputError
from spectok.evaluation.evaluate import GROUPS
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.files import why, write_text

COLUMNS = (("pesq", "PESQ-WB", 2), ("stoi", "STOI", 3), ("estoi", "ESTOI", 3))
MORE_COLUMNS = (
    ("si_sdr", "SI-SDR, dB", 1),
    ("level_db", "level, dB", 1),
    ("overshoot_db", "overshoot, dB", 2),
    ("mel_distance", "mel distance", 3),
    ("dnsmos", "DNSMOS", 2),
    ("distillmos", "DistillMOS", 2),
    ("speaker", "speaker", 3),
    ("pitch_cents", "pitch, cents", 0),
    ("voicing_error", "voicing error", 3),
    ("wer", "WER", 3),
)
Columns = Sequence[tuple[str, str, int]]  # metric, title, digits
Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Tables of what `evaluate` gave: the coders over `clean_*` and `hard_*`, their cost, each category, the pairs.

    Groups without files have no table; where no category is named `clean_*` or `hard_*`, one table covers all files.
    """
    coders = results["coders"]
    columns = [column for column in COLUMNS + MORE_COLUMNS if column[0] in results["conventions"]["metrics"]]
    present = next(iter(coders.values()))["groups"]
    shown = [group for group in ("clean_*", "hard_*") if group in present] or ["*"]
    parts = ["# Results", _preamble(results)]
    for group in shown:
        parts += [f"## {_title(group)}: {_extent(present[group])}", _group_table(coders, group, columns)]
    parts += ["## Rates and cost, over all files", _cost_table(coders)]
    if "costs" in next(iter(coders.values())):
        parts += ["## Costs, one core", _bench_table(coders | results.get("weightless", {}))]
    categories = [group for group in present if group not in GROUPS]
    if len(categories) > 1:
        for metric, title, digits in COLUMNS[:2]:
            parts += [f"## {title} by category", _category_table(coders, categories, metric, digits)]
    pairs = [pair for pair in results["paired"] if pair["group"] == shown[0]]
    if pairs:
        parts += [f"## Differences file by file, {_title(shown[0])}", _pair_table(pairs, columns)]
    return "\n\n".join(parts) + "\n"


def write_report(results: Results, out_folder: str | Path) -> None:
    """Write results.json and results.md into the folder, made if need be; each appears whole or not at all.

    Raises:
        InputError: the folder cannot be made or written to.
        ValueError: the results hold NaN, which JSON does not have; `evaluate` gives None instead.
    """
    out_folder = Path(out_folder)
    texts = {"results.json": json.dumps(results, indent=1, allow_nan=False) + "\n", "results.md": markdown(results)}
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out_folder}: {why(error)}") from error
    for name, text in texts.items():
        write_text(out_folder / name, text)


def _preamble(results: Results) -> str:
    machine = results["machine"]
    tools = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    engines = sorted({coder["facts"]["engine"] for coder in results["coders"].values() if "engine" in coder["facts"]})
    ran = f"spectok ran on {' and '.join(engines)}" if engines else "the coders ran"
    return (
        "Mean ± half the width of its 95 % interval (Student's t), at 16 kHz mono; n is said where a metric is not "
        "defined for all files. Bits per second come from the bytes on disk, header included. rtf is compute seconds "
        f"per audio second (lower is better); {ran} of a machine of {machine['cores']} cores "
        f"({machine['processor']}). Measured with {tools}."
    )


def _title(group: str) -> str:
    return "All files" if group == "*" else f"`{group}`"


def _extent(group: dict[str, Any]) -> str:
    return f"n = {group['files']} files, {group['seconds'] / 60:.1f} minutes"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _value(summary: dict[str, Any], files: int, digits: int) -> str:
    """Mean ± half width, with n where values are missing."""
    if summary["mean"] is None:
        return "-"
    text = _number(summary["mean"], digits)
    if summary["half_width_95"] is not None:
        text += f" ± {_number(summary['half_width_95'], digits)}"
    return text if summary["n"] == files else f"{text} (n = {summary['n']})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _group_table(coders: dict[str, Any], group: str, columns: Columns) -> str:
    rows = []
    for name, coder in coders.items():
        values = coder["groups"][group]
        metrics = [_value(values[metric], values["files"], digits) for metric, _, digits in columns]
        rows.append([name, _number(values["bits_per_second"], 0), *metrics])
    return _table(["coder", "bits/s", *(title for _, title, _ in columns)], rows)


def _bench_table(coders: dict[str, Any]) -> str:
    """What `bench` adds: time in turns, new processes, delay, and disk."""
    rows = []
    for name, coder in coders.items():
        costs, facts = coder["costs"], coder["facts"]
        delay = 1000 * costs["latency"] / SAMPLE_RATE if "latency" in costs else None
        sides = [cell for side in ("encode", "decode") for cell in (costs["rtf"][side], costs[f"rtf_{side}_ratio"])]
        seconds, install = costs["cold"]["encode"]["seconds"], costs["install"].get("megabytes")
        macs = None if facts.get("macs") is None else facts["macs"] / 1e6
        numbers = zip((*sides, delay, seconds, install, macs), (4, 2, 4, 2, 0, 2, 0, 0), strict=True)
        rows.append([name, *(_number(value, digits) for value, digits in numbers)])
    head = [
        "rtf encode",
        "ratio",
        "rtf decode",
        "ratio",
        "delay, ms",
        "cold encode of 5 s, s",
        "installed, MB",
        "MMAC/s",
    ]
    return _table(["coder", *head], rows)


def _cost_table(coders: dict[str, Any]) -> str:
    rows = []
    for name, coder in coders.items():
        group, codebook = coder["groups"]["*"], coder["codebook"]
        files = group["files"]
        cells = [
            _value(group[key], files, digits)
            for key, digits in (("file_bits_per_second", 0), ("file_rtf_encode", 4), ("file_rtf_decode", 4))
        ]
        use = ["-"] * 3
        if codebook is not None:
            use = [f"{codebook['size']:,}", *(_value(codebook[key], files, 3) for key in ("used", "entropy"))]
        rows.append([name, *cells, *use])
    head = ["coder", "bits/s of a file", "rtf encode", "rtf decode", "codebook", "share used", "entropy / log2(size)"]
    return _table(head, rows)


def _category_table(coders: dict[str, Any], categories: Sequence[str], metric: str, digits: int) -> str:
    rows = []
    for category in categories:
        groups = [coder["groups"][category] for coder in coders.values()]
        values = [_value(group[metric], group["files"], digits) for group in groups]
        rows.append([category, str(groups[0]["files"]), *values])
    return _table(["category", "n", *coders], rows)


def _pair_table(pairs: Sequence[dict[str, Any]], columns: Columns) -> str:
    rows = []
    for pair in pairs:
        values = [_value(pair[metric], pair["files"], digits) for metric, _, digits in columns]
        rows.append([f"{pair['first']} minus {pair['second']}", str(pair["files"]), *values])
    return _table(["difference", "n", *(title for _, title, _ in columns)], rows)
