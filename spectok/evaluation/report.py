"""Writes the results of `evaluate_coders` as results.json and, as tables in Markdown, as results.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectok.errors import InputError
from spectok.evaluation.catalogue import METRICS, RATES, Metric, in_order, legend
from spectok.evaluation.evaluate import GROUPS
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.tables import markdown_table, mean, number
from spectok.files import why, write_text

MACS = ("macs", "macs_with_transforms")
COST_COLUMNS = (
    "rtf_encode",
    "rtf_encode_ratio",
    "rtf_decode",
    "rtf_decode_ratio",
    "latency",
    "cold",
    "installed",
    *MACS,
)
FILE_COSTS = ("disk_bits_per_second", "rtf_encode", "rtf_decode")
Results = dict[str, Any]


def markdown(results: Results) -> str:
    """The results of `evaluate_coders` as Markdown: quality on `clean_*` and `hard_*`, costs, categories, differences.

    Groups without files have no table; if no category is named `clean_*` or `hard_*`, one table covers all files.
    """
    coders = results["coders"]
    metrics = in_order(results["conventions"]["metrics"])
    present = next(iter(coders.values()))["groups"]
    shown = [group for group in ("clean_*", "hard_*") if group in present] or ["*"]
    parts = ["# Results", _preamble(results)]
    for group in shown:
        parts += [f"## {_title(group)}: {_extent(present[group])}", _group_table(coders, group, metrics)]
    parts += ["## Rates and cost, over all files", _cost_table(coders)]
    if "costs" in next(iter(coders.values())):
        parts += ["## Costs, one core", _bench_table(coders | results.get("weightless", {}))]
    categories = [group for group in present if group not in GROUPS]
    if len(categories) > 1:
        for metric in metrics[:2]:
            parts += [f"## {metric.title} by category", _category_table(coders, categories, metric)]
    pairs = [pair for pair in results["paired"] if pair["group"] == shown[0]]
    if pairs:
        parts += [f"## Differences file by file, {_title(shown[0])}", _pair_table(pairs, metrics)]
    return "\n\n".join(parts) + "\n"


def write_report(results: Results, out_folder: str | Path) -> None:
    """Write results.json and results.md into the folder, which is created if necessary, each with `atomic_write`.

    Raises:
        InputError: the folder cannot be created or written to.
        ValueError: the results contain NaN, which JSON does not have; `evaluate_coders` returns None instead.
    """
    write_results_and_page(out_folder, "results", results, markdown(results))


def write_results_and_page(out_folder: str | Path, name: str, results: dict[str, Any], page: str) -> None:
    """Write results as `<name>.json` and the page that shows them as `<name>.md`.

    Args:
        out_folder: created if necessary.
        name: of both files, without suffix.
        results: what JSON can hold.
        page: Markdown.

    Raises:
        InputError: the folder cannot be created or written to.
        ValueError: the results contain NaN, which JSON does not have.
    """
    out_folder = Path(out_folder)
    texts = {f"{name}.json": json.dumps(results, indent=1, allow_nan=False) + "\n", f"{name}.md": page}
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out_folder}: {why(error)}") from error
    for file, text in texts.items():
        write_text(out_folder / file, text)


def _preamble(results: Results) -> str:
    machine = results["provenance"]["machine"]
    tools = ", ".join(f"{package} {release}" for package, release in machine["versions"].items())
    engines = sorted({coder["facts"]["engine"] for coder in results["coders"].values() if "engine" in coder["facts"]})
    ran = f"spectok ran on {' and '.join(engines)}" if engines else "the coders ran"
    return (
        "Mean ± half the width of its 95 % interval (Student's t), at 16 kHz mono; n is given where a metric is not "
        "defined for all files. rtf is compute seconds per second of audio (lower is better); "
        f"{ran} of a machine of {machine['cores']} cores ({machine['processor']}). Measured with {tools}.\n\n"
        f"{legend(RATES.values())}"
    )


def _title(group: str) -> str:
    return "All files" if group == "*" else f"`{group}`"


def _extent(group: dict[str, Any]) -> str:
    return f"n = {group['files']} files, {group['seconds'] / 60:.1f} minutes"


def _group_table(coders: dict[str, Any], group: str, metrics: Sequence[Metric]) -> str:
    rows = []
    for name, coder in coders.items():
        values = coder["groups"][group]
        cells = [metric.mean(values[metric.name], values["files"]) for metric in metrics]
        rows.append([name, *(rate.text(values[rate.name]) for rate in RATES.values()), *cells])
    return markdown_table(["codec", *(metric.heading for metric in (*RATES.values(), *metrics))], rows)


def _bench_table(coders: dict[str, Any]) -> str:
    """The costs that `run_benchmark` measures: speed, cold processes, latency, and size on disk."""
    columns = [METRICS[name] for name in COST_COLUMNS]
    rows = []
    for name, coder in coders.items():
        costs = costs_of(coder)
        rows.append([name, *(column.text(costs[column.name]) for column in columns)])
    table = markdown_table(["codec", *(column.heading for column in columns)], rows)
    return f"{table}\n\n{legend(METRICS[name] for name in MACS)}"


def costs_of(coder: dict[str, Any]) -> dict[str, float | None]:
    """The costs of a coder that `run_benchmark` measured, by the names of `COSTS` and in their units, or None."""
    costs, facts = coder["costs"], coder["facts"]
    rtf, cold, install = (costs.get(name, {}) for name in ("rtf", "cold", "install"))
    return {
        "rtf_encode": rtf.get("encode"),
        "rtf_encode_ratio": costs.get("rtf_encode_ratio"),
        "rtf_decode": rtf.get("decode"),
        "rtf_decode_ratio": costs.get("rtf_decode_ratio"),
        "latency": 1000 * costs["latency"] / SAMPLE_RATE if "latency" in costs else None,
        "cold": cold["encode"]["seconds"] if cold else None,
        "memory": max(side["megabytes"] for side in cold.values()) if cold else None,
        "installed": install.get("megabytes"),
        "packages": install.get("packages"),
        "weight_megabytes": facts.get("weight_megabytes"),
        "parameters": facts["parameters"] / 1e6 if "parameters" in facts else None,
        "macs": facts["macs"] / 1e6 if "macs" in facts else None,
        "macs_with_transforms": facts["macs_with_transforms"] / 1e6 if "macs_with_transforms" in facts else None,
    }


def _cost_table(coders: dict[str, Any]) -> str:
    """Size on disk, times of files unless `run_benchmark` has measured those on one core, and use of the codebook."""
    are_timed = any(coder.get("costs") for coder in coders.values())
    shown = [name for name in FILE_COSTS if not (are_timed and name.startswith("rtf"))]
    rows = []
    for name, coder in coders.items():
        group, codebook = coder["groups"]["*"], coder["codebook"]
        files = group["files"]
        cells = [METRICS[name].mean(group[f"file_{name}"], files) for name in shown]
        use = ["-"] * 3
        if codebook is not None:
            use = [number(codebook["size"], 0), *(mean(codebook[key], 3, files) for key in ("used", "entropy"))]
        rows.append([name, *cells, *use])
    titles = [f"{METRICS[name].title} of a file" for name in shown]
    return markdown_table(["codec", *titles, "codebook", "share used", "entropy / log2(size)"], rows)


def _category_table(coders: dict[str, Any], categories: Sequence[str], metric: Metric) -> str:
    rows = []
    for category in categories:
        groups = [coder["groups"][category] for coder in coders.values()]
        values = [metric.mean(group[metric.name], group["files"]) for group in groups]
        rows.append([category, str(groups[0]["files"]), *values])
    return markdown_table(["category", "n", *coders], rows)


def _pair_table(pairs: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> str:
    rows = []
    for pair in pairs:
        values = [metric.mean(pair[metric.name], pair["files"]) for metric in metrics]
        rows.append([f"{pair['first']} minus {pair['second']}", str(pair["files"]), *values])
    return markdown_table(["difference", "n", *(metric.heading for metric in metrics)], rows)
