"""Checks the committed results of the released models and their rivals, which come from one run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import missed

from recipes.learning import training
from recipes.quality import RESULTS, levels, worst_level
from spectok import pretrained
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.provenance import provenance, weights_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize(
    ("model", "rival"), [("spectok-16k-4k", "codec2-3200"), ("spectok-16k-800", "codec2-700C")], ids=["4k", "800"]
)
def test_each_model_beats_codec2_at_about_its_rate(results: dict[str, Any], model: str, rival: str) -> None:
    (pair,) = (p for p in results["paired"] if (p["first"], p["second"], p["group"]) == (model, rival, "clean_*"))
    for metric in ("pesq", "stoi"):  # by more than the interval of the paired differences
        assert pair[metric]["mean"] - pair[metric]["half_width_95"] > 0, metric
        assert pair[metric]["n"] == results["coders"][model]["groups"]["clean_*"]["files"] > 100


# What documents measurements: whatever is in these folders, so that no file is forgotten.
FOLDERS = ("pretrained/results", "benchmarks", "recipes")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.json"))
GOOD: dict[str, Any] = {
    "provenance": {
        "version": "0.1.0",
        "commit": "0123abc",
        "weights": weights_of(pretrained.models(), encoders=True),
        "machine": provenance(None)["machine"],
    },
    "rows": [{"model": name} for name in pretrained.models()],
}


def mentioned(value: Any) -> set[str]:
    """Released models that are named in results, but for those that a run began with."""
    if isinstance(value, dict):
        return {key for key in value if key in pretrained.models()}.union(
            *(mentioned(entry) for key, entry in value.items() if key != "init")
        )
    if isinstance(value, list):
        return set().union(*map(mentioned, value))
    return {value} & set(pretrained.models()) if isinstance(value, str) else set()


def faults(results: Any) -> list[str]:
    """What is wrong with where results say that they come from."""
    found = results.get("provenance") if isinstance(results, dict) else None
    if found is None:
        return ["there is no provenance"]
    if found.keys() != GOOD["provenance"].keys() or found["machine"].keys() != GOOD["provenance"]["machine"].keys():
        return ["the provenance has other fields than spectok.evaluation.provenance writes"]
    weights = found["weights"] or {}
    current = GOOD["provenance"]["weights"]
    wrong = [f"{name} has other weights now" for name, sha256 in weights.items() if current.get(name) != sha256]
    wrong += [f"the weights of {name} are not told" for name in sorted(mentioned(results) - weights.keys())]
    return wrong if weights or found["commit"] else [*wrong, "neither weights nor commit are told"]


def test_all_results_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"pretrained/results/results.json", "benchmarks/install.json", "recipes/search/results.json"} < names


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_results_are_of_the_released_weights(path: Path) -> None:
    assert faults(json.loads(path.read_text(encoding="utf-8"))) == []


def with_provenance(**changes: Any) -> dict[str, Any]:
    return GOOD | {"provenance": GOOD["provenance"] | changes}


@pytest.mark.parametrize(
    ("results", "fault"),
    [
        (GOOD, []),
        (with_provenance(weights=None) | {"rows": []}, []),
        ([{"model": "spectok-16k-4k"}], ["there is no provenance"]),
        ({"rows": []}, ["there is no provenance"]),
        (with_provenance(more=1), ["the provenance has other fields than spectok.evaluation.provenance writes"]),
        (with_provenance(machine={}), ["the provenance has other fields than spectok.evaluation.provenance writes"]),
        (
            with_provenance(weights=GOOD["provenance"]["weights"] | {"spectok-16k-4k": "0" * 64}),
            ["spectok-16k-4k has other weights now"],
        ),
        (
            with_provenance(weights=GOOD["provenance"]["weights"] | {"mine": "0" * 64}),
            ["mine has other weights now"],
        ),
        (
            with_provenance(weights=None) | {"rows": [{"init": "spectok-16k-4k", "model": "spectok-16k-800"}]},
            ["the weights of spectok-16k-800 are not told"],
        ),
        (
            with_provenance(weights=None, commit=None) | {"rows": {"spectok-16k-4k": 1}},
            ["the weights of spectok-16k-4k are not told", "neither weights nor commit are told"],
        ),
    ],
)
def test_results_of_other_weights_or_of_unknown_ones_are_found_out(results: Any, fault: list[str]) -> None:
    assert faults(results) == fault


@pytest.mark.parametrize(
    ("model", "pesq", "stoi", "used"), [("spectok-16k-4k", 2.3, 0.90, 0.95), ("spectok-16k-800", 1.50, 0.80, 0.60)]
)
def test_each_model_reaches_its_goals(
    results: dict[str, Any], model: str, pesq: float, stoi: float, used: float
) -> None:
    clean = results["coders"][model]["groups"]["clean_*"]
    assert clean["pesq"]["mean"] >= pesq
    assert clean["stoi"]["mean"] >= stoi
    codebook = training(model)["codebook"]
    assert codebook["split"] == "train"
    assert codebook["tokens"] > 10**6
    assert codebook["used"] >= used


@pytest.mark.parametrize(("model", "worst"), [("spectok-16k-4k", 2.0), ("spectok-16k-800", 3.0)])
def test_the_level_is_kept_in_every_clean_file(results: dict[str, Any], model: str, worst: float) -> None:
    assert len(levels(results, model, "clean_*")) > 100
    assert abs(worst_level(results, model, "clean_*")) <= worst


BARS = {  # means over the clean files
    "spectok-16k-4k": {"distillmos": 3.3, "dnsmos": 2.9, "pesq": 2.55, "stoi": 0.905, "speaker": 0.94, "wer": 0.18},
    "spectok-16k-800": {
        "distillmos": 2.8,
        "dnsmos": 2.75,
        "pesq": 1.55,
        "stoi": 0.825,
        "pitch_cents": 80,
        "wer": 0.42,
    },
}
MISSED = {  # the value reached instead of the goal
    ("spectok-16k-4k", "dnsmos"): "2.88",
    ("spectok-16k-4k", "stoi"): ".9048",
    ("spectok-16k-4k", "wer"): ".188",
    ("spectok-16k-800", "distillmos"): "2.53",
    ("spectok-16k-800", "dnsmos"): "2.55",
    ("spectok-16k-800", "wer"): ".436",
}


def bars() -> Iterator[Any]:
    for model, of_model in BARS.items():
        for metric, bar in of_model.items():
            reached = MISSED.get((model, metric))
            marks = [missed(f"reached: {reached}")] if reached else []
            yield pytest.param(model, metric, bar, marks=marks, id=f"{model}-{metric}")


@pytest.mark.parametrize(("model", "metric", "bar"), list(bars()))
def test_each_model_is_as_natural_as_it_should_be(results: dict[str, Any], model: str, metric: str, bar: float) -> None:
    mean = results["coders"][model]["groups"]["clean_*"][metric]["mean"]
    assert mean >= bar if METRICS[metric].better == "higher" else mean <= bar


def test_figures_in_the_repository_are_small() -> None:
    folders = [ROOT / name for name in ("docs", "pretrained", "recipes")]
    paths = [path for folder in folders for suffix in ("png", "svg") for path in folder.rglob(f"*.{suffix}")]
    assert len(paths) >= 9
    assert {str(path): path.stat().st_size for path in paths if path.stat().st_size > 100_000} == {}
