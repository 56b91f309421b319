"""What the released models must reach: read off the committed results, codec and rivals in one run."""

import json

import pytest

from recipes.cards import RESULTS
from spectok import pretrained


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("model", "rival"), [("spectok-16k-4k", "codec2-3200"), ("spectok-16k-800", "codec2-700C")], ids=["4k", "800"]
)
def test_each_model_beats_codec2_at_about_its_rate(results, model, rival):
    (pair,) = (p for p in results["paired"] if (p["first"], p["second"], p["group"]) == (model, rival, "clean_*"))
    for metric in ("pesq", "stoi"):  # by more than the interval of the paired differences
        assert pair[metric]["mean"] - pair[metric]["half_width_95"] > 0, metric
        assert pair[metric]["n"] == results["coders"][model]["groups"]["clean_*"]["files"] > 100


def test_the_results_are_of_the_released_weights(results):
    for name in pretrained.names():
        assert results["coders"][name]["facts"]["weight_hash"] == pretrained.find(name).weight_hash
