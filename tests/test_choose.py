"""recipes/choose.py: the rule that names the best weights, and its table."""

import pytest

from recipes.choose import RANKED, SHOWN, mean_ranks, table

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
