"""The history of weights: the training runs that led to them, read from run folders and released models."""

import json
from pathlib import Path
from typing import Any

from spectok.errors import InputError

CURVE = ("step", "seconds", "pesq", "stoi", "level_db")


def history(folder: Path) -> list[dict[str, Any]]:
    """The training runs that led to weights, the earliest first.

    Args:
        folder: of a released model (with `training.json`), or `release/` in a run folder (with `run.json` and
            `log.jsonl` beside it).

    Returns:
        For each run the contents of `run.json`, and its `step`, `seconds` and `curve`, the metrics of its validations.
        For a folder without such records, an empty list.

    Raises:
        InputError: a record cannot be read.
    """
    try:
        if (folder / "training.json").exists():
            runs: list[dict[str, Any]] = json.loads((folder / "training.json").read_text(encoding="utf-8"))["runs"]
            return runs
        if not (folder.parent / "run.json").exists():
            return []
        facts = json.loads((folder.parent / "run.json").read_text(encoding="utf-8"))
        lines = (folder.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        curve = [{key: e[key] for key in CURVE if key in e} for e in entries if e["kind"] == "valid"]
        last = {key: entries[-1][key] for key in ("step", "seconds")}
        return [*facts.pop("before", []), facts | last | {"curve": curve}]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"the record of the run behind {folder} cannot be read: {error!r}") from error
