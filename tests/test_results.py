"""Checks the committed results of the released models and their rivals, which come from one run."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from recipes.cards import training
from recipes.quality import RESULTS
from spectok import pretrained
from spectok.evaluation.catalogue import METRICS


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


def test_the_results_are_of_the_released_weights(results: dict[str, Any]) -> None:
    for name in pretrained.models():
        assert results["coders"][name]["facts"]["weight_hash"] == pretrained.find(name).weight_hash


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
    files = [row for row in results["coders"][model]["files"] if row["category"].startswith("clean_")]
    levels = [abs(row["level_db"]) for row in files]
    assert len(levels) > 100
    assert max(levels) <= worst


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
            marks = [pytest.mark.xfail(strict=True, reason=f"reached: {reached}")] if reached else []
            yield pytest.param(model, metric, bar, marks=marks, id=f"{model}-{metric}")


@pytest.mark.parametrize(("model", "metric", "bar"), list(bars()))
def test_each_model_is_as_natural_as_it_should_be(results: dict[str, Any], model: str, metric: str, bar: float) -> None:
    mean = results["coders"][model]["groups"]["clean_*"][metric]["mean"]
    assert mean >= bar if METRICS[metric].better == "higher" else mean <= bar
