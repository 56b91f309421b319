"""The measured part of recipes/ablations/README.md, from what recipes/study.py has written to `results.json`."""

from dataclasses import dataclass
from pathlib import Path

from recipes.claims import Claim, Group, Rows, judge, rows_of, runs, spread
from recipes.study import ALL_COLUMNS, NOT_RUN, RUN_DIGITS, load_groups, tables
from spectok.evaluation.tables import markdown_table, number

STUDY = Path(__file__).parent
BOTTLENECKS = STUDY.parent / "bottlenecks"
WORDS = ("agrees", "disagrees")
MINI, QUERIES = "mini", "8 queries over 16 positions"
POOL, NO_POOL, PLAIN = "expiry and pool", "expiry, no pool", "neither expiry nor pool"


@dataclass(frozen=True)
class Score:
    """A column of the results by which claims are judged; more is better."""

    key: str
    title: str
    digits: int
    claims: tuple[Claim, ...]


PESQ = Score(
    "pesq",
    ALL_COLUMNS["pesq"].heading,
    RUN_DIGITS,
    (
        Claim("The power law helps", "3.47 to 3.39", (MINI,), ("no power law",)),
        Claim("FLNorm is better than BatchNorm", "3.47 to 3.39", (MINI,), ("BatchNorm in place of FrameNorm",)),
        Claim("FLNorm is better than no norm", "-", (MINI,), ("no norm",)),
        Claim("Snake is better than ReLU", "3.47 to 3.15", (MINI,), ("ReLU in place of Snake",)),
        Claim(
            "RNN2D at every scale is better than at the largest only",
            "3.47 to 3.31",
            (MINI,),
            ("RNN2d at the finest scale only",),
        ),
        Claim("Expiry improves a single codebook", "1.65 to 1.63", (NO_POOL,), (PLAIN,)),
        Claim("The data pool improves it further", "1.72 to 1.65", (POOL,), (NO_POOL,)),
        Claim("Queries are better than strides down to one position", "-", (QUERIES,), (MINI,)),
    ),
)
USED = Score(
    "codes_used",
    "share of the codebook used, %",
    1,
    (
        Claim("With expiry more of the codebook is used", "93.4 to 62.0", (NO_POOL,), (PLAIN,)),
        Claim("With the data pool even more", "94.8 to 93.4", (POOL,), (NO_POOL,)),
    ),
)
ELSEWHERE = Claim("Queries are better than strides down to one position", "-", ("query",), ("flat, GRUs of 280",))


def page(study: Path = STUDY) -> str:
    """All tables, as Markdown; a sentence if the study has not been run."""
    if not (study / "results.json").exists():
        return NOT_RUN
    groups = load_groups(study)
    parts = ["## The claims", claims(groups)]
    parts += ["![The mel loss of all probes in training](curves.png)"] if (study / "curves.png").exists() else []
    return "\n\n".join([*parts, "## All probes", tables(study)])


def claims(groups: list[Group]) -> str:
    """Each claim with the paper's figures, ours, the spread of seeds and a verdict."""
    by_pesq, by_use = ([_judged(claim, score, groups) for claim in score.claims] for score in (PESQ, USED))
    note = f" (study of [bottlenecks](../{BOTTLENECKS.name}/README.md))"
    written = [*by_pesq, _judged(ELSEWHERE, PESQ, load_groups(BOTTLENECKS), note), *by_use]
    titles = ["claim", "score", "in the paper", "first", "second", "difference", "spread of seeds", "verdict"]
    return (
        "The first number is that of what the claim calls better. The verdict is `undecided` if the difference is not "
        "larger than the spread of seeds, which is the largest range of the score over the seeds of one probe, in the "
        "groups that the claim is about; else it is `agrees` or `disagrees`, by the sign of the difference. Probes of "
        "which a seed is missing are `not measured`.\n\n" + markdown_table(titles, written, align="lllrrrrl")
    )


def _judged(claim: Claim, score: Score, groups: list[Group], note: str = "") -> list[str]:
    """A row of the table of claims; `note` is added to what the claim says."""
    about = [group for group in groups if claim.probes & {row["name"] for row in group["probes"]}]
    width = spread(about, [score.key])
    found = judge(claim, _complete(about), score.key, width, WORDS)
    unit = ALL_COLUMNS[score.key].unit
    values = (found.first, found.second, found.difference, width)
    cells = [number(None if each is None else each / unit, score.digits) for each in values]
    return [claim.says + note, score.title, claim.paper, *cells, found.verdict]


def _complete(groups: list[Group]) -> Rows:
    """The rows of probes of which no seed is missing."""
    rows = rows_of(groups)
    seeds = {row["name"]: len(group["seeds"]) for group in groups for row in group["probes"]}
    return [row for row in rows if len(runs(rows, row["name"])) == seeds[row["name"]]]
