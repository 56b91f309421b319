"""The learning curves of the released models."""

import json

import numpy as np
import pytest

from recipes import learning
from spectok import pretrained


def test_hours_add_up_over_the_runs() -> None:
    found = json.loads(learning.curves())
    assert list(found) == list(pretrained.models())
    for name, runs in found.items():
        recorded = learning.training(name)["runs"]
        assert len(runs) == len(recorded)
        ends = [points[-1] for points in runs if points]
        assert ends == sorted(ends, key=lambda at: at[0])
        assert ends[-1][0] == pytest.approx(sum(learning.heard(run) for run in recorded))  # it was validated at the end
        assert ends[-1][1:] == [recorded[-1]["curve"][-1][metric] for metric in learning.DRAWN]


def test_each_run_with_validations_is_a_line_with_its_number() -> None:
    curves = {"spectok-16k-4k": [[[1.0, 2.0, 0.8], [2.0, 2.5, 0.9]], []], "spectok-16k-800": [[[1.0, 1.5, 0.7]]]}
    axes = learning.learning_curves(curves).axes
    assert [axis.get_ylabel() for axis in axes] == ["PESQ-WB, validation", "STOI, validation"]
    for axis, values in zip(axes, ([2.0, 2.5], [0.8, 0.9]), strict=True):
        assert [np.asarray(line.get_ydata()).tolist() for line in axis.lines][:2] == [values, []]
        assert [text.get_text() for text in axis.texts] == ["1", "1"]
