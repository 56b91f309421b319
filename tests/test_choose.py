"""recipes/choose.py: the rule that names the best weights, and its table."""

from collections.abc import Collection
from pathlib import Path

import pytest

from recipes import choose
from recipes.choose import RANKED, SHOWN, mean_ranks, table
from spectok.evaluation.coders import Audio

EQUAL = dict.fromkeys(SHOWN, 1.0)


def test_a_metric_ranks_by_which_way_is_better() -> None:
    rows = [EQUAL, EQUAL | {"pesq": 2.0}, EQUAL | {"wer": 0.5, "pesq": 2.0}]
    # PESQ-WB, where higher is better, ranks them 3, 1.5, 1.5; the error rate, where lower is, 2.5, 2.5, 1; else all 2.
    assert mean_ranks(rows) == pytest.approx([(3 + 2.5 + 8) / 6, (1.5 + 2.5 + 8) / 6, (1.5 + 1 + 8) / 6])
    assert len(RANKED) == 6


def test_the_table_has_titles_and_digits_of_the_catalogue() -> None:
    assert table(["a"], [EQUAL | {"pitch_cents": 17.3}]).splitlines() == [
        "| weights | PESQ-WB | STOI | DistillMOS | DNSMOS | mel distance | word error rate "
        "| word error rate by Moonshine | speaker similarity | pitch error, cents | voicing error | mean rank |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| a | 1.00 | 1.000 | 1.00 | 1.00 | 1.000 | 1.000 | 1.000 | 1.000 | 17 | 1.000 | 1.00 |",
    ]


def test_metrics_of_missing_packages_are_left_out_unless_they_rank(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judged(original: Audio, decoded: list[Audio], metrics: Collection[str]) -> list[dict[str, float]]:
        return [dict.fromkeys(metrics, 0.5) for _ in decoded]

    monkeypatch.setattr(choose, "judge", judged)
    arguments = ["spectok-16k-800", "spectok-16k-4k", "--data", str(prepared), "--clips", "1"]
    monkeypatch.setattr(choose, "missing", lambda: {"wer_moonshine": "moonshine_voice"})
    assert choose.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "best by mean rank: spectok-16k-4k\n" in shown
    assert "word error rate |" in shown and "Moonshine" not in shown
    monkeypatch.setattr(choose, "missing", lambda: {"dnsmos": "speechmos"})
    assert choose.main(arguments) == 2
    assert capsys.readouterr().err == ("choose: packages of the extra bench are missing: DNSMOS needs speechmos\n")
