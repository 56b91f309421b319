"""Runs all metrics on all codecs, on the same files, and caches the results.

    OUT/work/CODEC/facts.json        facts about the codec; if they change, it is measured again
                   FILE.json         bits, bytes, seconds and scores of a file
                   FILE.flac         the decoded audio, from which the metrics are computed
                   FILE.npy          the codes, if the codec has a codebook
                   costs.json        time, memory and latency, if the codec can be run

FILE is the file's name and a checksum of its samples. A run that was stopped can be continued, and two runs on the same
files give the same quality.
"""

import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectok.audio import read_audio, write_audio
from spectok.bench.costs import cold, installed, latency, timings
from spectok.evaluation.catalogue import SCORED
from spectok.evaluation.coders import Audio, Coded, Coder, Runnable
from spectok.evaluation.evaluate import Histogram, Row, assemble, code_item, histogram, workers
from spectok.evaluation.items import Item, checksum, read_item
from spectok.evaluation.metrics import SAMPLE_RATE, score
from spectok.files import atomic_write, write_text

COSTS_SECONDS = 20.0  # length of the audio that timings are measured on: the first files, joined
COLD_SECONDS = 5.0
Progress = Callable[[str, int, int], None]  # called with a step ("coded"), the number done, and the total


class Store:
    """The cached results of one codec."""

    def __init__(self, out: Path, name: str, facts: dict[str, Any]) -> None:
        self.folder = out / "work" / name
        if self._read("facts") != json.loads(json.dumps(facts)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.write("facts", facts)

    def _read(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def read(self, name: str) -> dict[str, Any]:
        """The results with that name; an empty dictionary if there are none."""
        return self._read(name) or {}

    def write(self, name: str, facts: dict[str, Any]) -> None:
        """Write results under that name, with `atomic_write`."""
        write_text(self.folder / f"{name}.json", json.dumps(facts, indent=1) + "\n")

    def audio_path(self, key: str) -> Path:
        """The path of a file's decoded audio."""
        return self.folder / f"{key}.flac"

    def keep(self, key: str, coded: Coded, row: Row) -> None:
        """Write the output for a file; the row is written last, because it marks the output as complete."""
        write_audio(self.audio_path(key), coded.audio, SAMPLE_RATE)
        if coded.codes is not None:
            with atomic_write(self.folder / f"{key}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, coded.codes)
        self.write(key, row)

    def histogram(self, key: str, name: str, size: int) -> Histogram:
        """Count how often a file's codes use each entry of the codebook."""
        return histogram(name, np.load(self.folder / f"{key}.npy"), size)


def run_benchmark(
    items: Sequence[Item],
    coders: Sequence[Coder],
    out: Path,
    judged: Sequence[str],
    jobs: int = 1,
    progress: Progress = lambda what, done, total: None,
    weightless: Sequence[Runnable] = (),
    judge_files: int | None = None,
) -> dict[str, Any]:
    """Measure everything that is not cached, and summarise the results as `evaluate_coders` does.

    Args:
        items: the files.
        coders: the codecs, with different names. The costs of those that are `Runnable` are measured; ratios of timings
            are relative to the first one.
        out: the folder of the cache.
        judged: names from `JUDGED` to compute with the models of judges.py, whose packages must be installed; or none.
        jobs: number of scoring processes; codecs run one at a time.
        progress: called after every step.
        weightless: coders with random weights, of which only size and speed are measured.
        judge_files: number of files, evenly spaced among all, that the judges score; by default all.

    Returns:
        What `assemble` returns, and for each coder `costs`: the rtf on one core with its ratio to the first coder's,
        seconds and megabytes of cold processes, the latency in samples, and the number of installed packages and their
        megabytes; empty for a coder that is not `Runnable`. `weightless` has the facts and costs of those coders,
        without latency.
    """
    facts = {coder.name: coder.facts() for coder in (*coders, *weightless)}
    stores = {name: Store(out, name, known) for name, known in facts.items()}
    keys = _code(items, coders, stores, progress)
    metrics = [*judged, *SCORED]
    count = min(len(items), judge_files or len(items))
    chosen = {round(index) for index in np.linspace(0, len(items) - 1, count)}
    wanted = [metrics if number in chosen else list(SCORED) for number in range(len(items))]
    _score(items, keys, wanted, stores, jobs, progress)
    _cost(items, [coder for coder in coders if isinstance(coder, Runnable)], weightless, stores, progress)
    sized = {
        coder.name: {"facts": facts[coder.name], "costs": stores.pop(coder.name).read("costs")} for coder in weightless
    }
    unjudged = [{} if number in chosen else dict.fromkeys(judged, math.nan) for number in range(len(items))]
    rows = {
        name: [store.read(key) | blank for key, blank in zip(keys, unjudged, strict=True)]
        for name, store in stores.items()
    }
    histograms = {
        name: [store.histogram(key, name, facts[name]["codebook_size"]) for key in keys]
        if "codebook_size" in facts[name]
        else []
        for name, store in stores.items()
    }
    results = assemble(rows, {name: facts[name] for name in stores}, histograms, metrics)
    for name, store in stores.items():
        results["coders"][name]["costs"] = store.read("costs")
    return results | {"weightless": sized}


def clips_of(
    items: Sequence[Item], coders: Sequence[Coder], out: Path, count: int, seconds: float = 6.0
) -> dict[str, dict[str, Audio]]:
    """The first seconds of `count` files, from each category in turn, as decoded by every codec; for the pages."""
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.category, []).append(item)
    turns = (item for turn in itertools.zip_longest(*kinds.values()) for item in turn if item is not None)
    clips = {}
    for item in itertools.islice(turns, count):
        key, length = _key(item, read_item(item)), int(seconds * SAMPLE_RATE)
        clips[item.path.stem] = {
            coder.name: read_audio(out / "work" / coder.name / f"{key}.flac")[0][:length] for coder in coders
        }
    return clips


def _key(item: Item, original: Audio) -> str:
    return f"{item.path.stem}-{checksum(original)}"


def _code(items: Sequence[Item], coders: Sequence[Coder], stores: dict[str, Store], progress: Progress) -> list[str]:
    """Code every file with every codec; returns the files' keys."""
    keys = []
    for number, item in enumerate(items):
        original = read_item(item)
        keys.append(_key(item, original))
        for coder in coders:
            store = stores[coder.name]
            if not store.read(keys[-1]):
                store.keep(keys[-1], *code_item(item, original, coder))
        progress("coded", number + 1, len(items))
    return keys


def _score(
    items: Sequence[Item],
    keys: Sequence[str],
    wanted: Sequence[list[str]],
    stores: dict[str, Store],
    jobs: int,
    progress: Progress,
) -> None:
    """Compute the wanted metrics of every decoded file that are not cached."""
    waiting = []
    for item, key, metrics in zip(items, keys, wanted, strict=True):
        coded = [name for name, store in stores.items() if store.read(key)]
        lacking = {name: set(metrics) - set(stores[name].read(key)) for name in coded}
        names = [name for name in coded if lacking[name]]
        if names:
            needed = set().union(*lacking.values())
            waiting.append((item, key, names, [stores[name].audio_path(key) for name in names], needed))
    with workers(jobs) as parallel_map:
        for number, (key, scores) in enumerate(parallel_map(_score_file, waiting)):
            for name, values in scores.items():
                stores[name].write(key, stores[name].read(key) | values)
            progress("scored", number + 1, len(waiting))


def _score_file(task: tuple[Item, str, list[str], list[Path], set[str]]) -> tuple[str, dict[str, dict[str, float]]]:
    item, key, names, paths, metrics = task
    original = read_item(item)
    decoded = [read_audio(path)[0] for path in paths]
    scores = [score(original, audio) if metrics & set(SCORED) else {} for audio in decoded]
    if judged := metrics - set(SCORED):
        from spectok.evaluation.judges import judge

        scores = [given | more for given, more in zip(scores, judge(original, decoded, judged), strict=True)]
    return key, dict(zip(names, scores, strict=True))


def _cost(
    items: Sequence[Item],
    coders: Sequence[Runnable],
    weightless: Sequence[Runnable],
    stores: dict[str, Store],
    progress: Progress,
) -> None:
    """Measure time, memory and latency of every codec. All are measured in turn, so again if any result is missing."""
    if all(stores[coder.name].read("costs") for coder in (*coders, *weightless)):
        return
    joined: list[Audio] = []
    for item in items:
        joined.append(read_item(item))
        if sum(map(len, joined)) >= COSTS_SECONDS * SAMPLE_RATE:
            break
    audio = np.concatenate(joined)[: int(COSTS_SECONDS * SAMPLE_RATE)]
    short = audio[: int(COLD_SECONDS * SAMPLE_RATE)]
    reference = coders[0]
    for turns, rtf in (
        (coders, timings(coders, audio)),
        (weightless, timings([reference, *weightless], short, rounds=3) if weightless else {}),
    ):
        for number, coder in enumerate(turns):
            seconds = rtf[coder.name]
            costs: dict[str, Any] = {"rtf": seconds, "cold": cold(coder, short)}
            costs["install"] = installed(stores[coder.name].read("facts"))
            costs |= {f"rtf_{side}_ratio": value / rtf[reference.name][side] for side, value in seconds.items()}
            if turns is coders:
                costs["latency"] = latency(coder)
            stores[coder.name].write("costs", costs)
            progress("timed", number + 1, len(turns))
