"""The measured part of recipes/separation/README.md, from what recipes/study.py has written to `results.json`."""

from pathlib import Path

from recipes.claims import Claim, Group, Rows, judge, nested, rows_of, runs, spread, value, verdict
from recipes.study import NOT_RUN, load_groups, tables
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.tables import markdown_table, number

STUDY = Path(__file__).parent
SCORE = "si_sdri"  # by which the claims are judged
QUERY, NOT_ADAPTIVE = "query", "query, not adaptive: the bias alone decides, 36 channels"
BAND_SPLIT, BAND_CONVOLUTION = "band split, 44 channels", "band convolution, 64 channels"
FULLY_CONNECTED, CONVOLUTION = "mapping, fully connected", "mapping, band convolution"
CONVOLUTION_AND_PENALTY = "mapping, band convolution, penalty 0.05"
SLIDES = {  # museval's changes on the slides, from the baseline to grouped convolutions with the penalty, dB
    "vocals": {"csdr": -0.100, "sir": 2.538, "isr": 0.122, "sar": 0.118},
    "accompaniment": {"csdr": 0.554, "sir": 0.452, "isr": 1.552, "sar": 0.106},
}
OURS = {"vocals": "speech", "accompaniment": "rest"}
CHOICES = {  # what is changed, by the probe that has it and the one that does not
    "mapping in place of masks": ("mapping", "masks"),
    "penalty of 0.05": ("masks, penalty 0.05", "masks"),
    "penalty of 0.2": ("masks, penalty 0.2", "masks"),
    "loss of speech alone": ("masks, loss of speech alone", "masks"),
    "band convolution in place of fully connected": (CONVOLUTION, FULLY_CONNECTED),
}
SI_SDR = METRICS["si_sdr"].title
CHANGED = {"si_sdr": SI_SDR, "csdr": "SDR", "sir": "SIR", "isr": "ISR", "sar": "SAR"}
HEADINGS = {"csdr": "SDR", "sir": "SIR", "isr": "ISR", "sar": "SAR"}
WAYS = {
    "nothing": "nothing",
    "printed": "heuristic as printed",
    "corrected": "corrected heuristic",
    "shared": "corrected, over the sum of estimates",
    "network": "corrected heuristic and network",
}
HALF, BY_BLOCK = "8 kHz", "8 kHz, scored after each block at a rising rate"
BY_BLOCK_HELPS = Claim(
    "Scoring the estimates after each block at a rising rate helps", "in words", (BY_BLOCK,), (HALF,)
)
UPPER_CLAIMS = (  # the first way to make the upper octave is better than the second
    ("The ratio as printed fills the upper octave better than nothing", "printed", "nothing"),
    ("The corrected ratio fills it better than nothing", "corrected", "nothing"),
    ("The ratio over the sum of the estimates is better than that over the mixture", "shared", "corrected"),
    ("The network improves on the corrected ratio", "network", "corrected"),
)
PICTURES = {
    "looks.png": "What the queries of the separator look at in a mixture, and those of the codec in speech",
    "curves.png": "The loss of all probes in training",
}

CLAIMS = (
    Claim(
        "Queries (SFC-CA) separate better than band split",
        f"cSDR 9.27 to 8.72, {SI_SDR} 11.38 to 10.96",
        (QUERY,),
        (BAND_SPLIT,),
    ),
    Claim(
        "SFC-Mamba separates better than band split",
        "cSDR 8.86 to 8.72",
        ("mamba, 24 channels, 300 steps",),
        ("band split, 44 channels, 300 steps",),
    ),
    Claim(
        "Queries separate better than SFC-Mamba",
        "cSDR 9.27 to 8.86",
        ("query, 300 steps",),
        ("mamba, 24 channels, 300 steps",),
    ),
    Claim("Adapting to the input helps", "in words", (QUERY,), (NOT_ADAPTIVE,)),
    Claim("A bias towards bands is needed", "clearly worse without, in words", (QUERY,), ("bias: none",)),
    Claim("A learned bias is better than a fixed one", "in words", (QUERY,), ("bias: fixed to P",)),
    Claim("Masking the attention to the band hurts", "in words", (QUERY,), ("bias: hard band mask",)),
    Claim("Masked attention is still better than band split", "in words", ("bias: hard band mask",), (BAND_SPLIT,)),
    Claim(
        "Queries lose less than band split from K = 16 to K = 8",
        "in words",
        ("query, K = 8", QUERY),
        ("band split, K = 8", BAND_SPLIT),
    ),
)


def page(study: Path = STUDY) -> str:
    """All tables, as Markdown; a sentence if the study has not been run."""
    if not (study / "results.json").exists():
        return NOT_RUN
    groups = load_groups(study)
    rows = rows_of(groups)
    parts = ["## The claims of the SFC paper", claims(groups)]
    parts += ["## The slides on singing-voice separation", slides(groups)]
    parts += ["## SFSRNet: estimates after each block, and the upper octave", octave_claims(groups)]
    parts += [octave(rows)] if any("upper" in row for row in rows) else []
    pictures = [f"![{title}]({name})" for name, title in PICTURES.items() if (study / name).exists()]
    return "\n\n".join([*parts, *pictures, "## All probes", tables(study)])


def claims(groups: list[Group]) -> str:
    """Each claim of the SFC paper with its figures, ours, and a verdict."""
    rows = rows_of(groups)
    width, written = spread(groups, [SCORE]), []
    for claim in CLAIMS:
        found = judge(claim, rows, SCORE, width)
        cells = [number(each, 2) for each in (found.first, found.second, found.difference)]
        written.append([claim.says, claim.paper, *cells, found.verdict])
    parameters = [value(rows, (name,), "parameters") for name in (QUERY, BAND_SPLIT)]
    if None not in parameters:
        cells = [f"{each / 1e6:.2f} M" for each in parameters if each is not None]
        holds = "yes" if (parameters[0] or 0) < (parameters[1] or 0) else "no"
        written.append(["Queries need far fewer parameters", "5.8 M to 34.7 M", *cells, "", holds])
    titles = ["claim", f"in the paper (MUSDB18, or DnR for {SI_SDR})", "first", "second", "difference", "holds here"]
    told = "-" if width is None else f"{width:.2f} dB"
    return (
        f"Improvement of {SI_SDR} in dB, mean over the sources, of the probe that the claim names first, and of the "
        "other. "
        f"Differences up to the largest range over the seeds of one probe, {told}, are undecided.\n\n"
        + markdown_table(titles, written, align="llrrrl")
    )


def slides(groups: list[Group]) -> str:
    """The signs of museval's changes on the slides beside ours, and ours from each of the two changes alone."""
    rows = rows_of(groups)
    written = []
    for part, changes in SLIDES.items():
        for key, change in changes.items():
            found = [
                _source_mean(rows, name, OURS[part], key)
                for name in (FULLY_CONNECTED, CONVOLUTION, CONVOLUTION_AND_PENALTY)
            ]
            steps = [None if found[0] is None or each is None else each - found[0] for each in found[1:]]
            width = spread(groups, ["sources", "speech", key])
            sign = verdict(None if steps[1] is None else steps[1] * (1 if change > 0 else -1), width)
            written.append(
                [f"{part} / {OURS[part]}", HEADINGS[key], f"{change:+.3f}", *(_signed(step) for step in steps), sign]
            )
    titles = ["source there / here", "museval", "slides", "convolution alone", "convolution and penalty", "same sign"]
    chosen = []
    for title, (name, base) in CHOICES.items():
        changes_of = {key: _change(rows, name, base, key) for key in CHANGED}
        better = verdict(changes_of["si_sdr"], spread(groups, ["sources", "speech", "si_sdr"]))
        chosen.append([title, *(_signed(change) for change in changes_of.values()), better])
    choices = markdown_table(["choice", *CHANGED.values(), f"better by {SI_SDR}"], chosen, align="lrrrrrl")
    return (
        "Change of museval's medians in dB against the fully connected transform with mapping. The slides changed both "
        "at once. Changes up to the range over the seeds of the first group are undecided.\n\n"
        + markdown_table(titles, written, align="llrrrl")
        + f"\n\nChange of the speech's scores in dB by each choice alone:\n\n{choices}"
    )


def _change(rows: Rows, name: str, base: str, key: str) -> float | None:
    """How much the speech's score of a probe is above that of another."""
    first, second = (_source_mean(rows, each, "speech", key) for each in (name, base))
    return None if first is None or second is None else first - second


def _source_mean(rows: Rows, name: str, source: str, key: str) -> float | None:
    found = [inner for row in runs(rows, name) if (inner := nested(row, ["sources", source, key])) is not None]
    return sum(found) / len(found) if found else None


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def octave_claims(groups: list[Group]) -> str:
    """The claims of SFSRNet with our figures and a verdict."""
    rows = rows_of(groups)
    found = judge(BY_BLOCK_HELPS, rows, SCORE, spread(groups, [SCORE]))
    cells = [number(each, 2) for each in found[:3]]
    written = [[BY_BLOCK_HELPS.says, f"{SI_SDR} gain", *cells, found.verdict]]
    for says, way, other in UPPER_CLAIMS:
        pairs = [
            (row["upper"][way]["magnitude_snr"], row["upper"][other]["magnitude_snr"])
            for row in rows
            if {way, other} <= set(row.get("upper", {}))
        ]
        signs, means = (
            {a > b for a, b in pairs},
            [number(sum(each) / len(pairs), 2) for each in zip(*pairs, strict=True)],
        )
        holds = "not measured" if not pairs else "undecided" if len(signs) > 1 else "yes" if signs == {True} else "no"
        gain = number(sum(a - b for a, b in pairs) / len(pairs), 2) if pairs else "-"
        written.append([says, "SNR", *(means or ["-", "-"]), gain, holds])
    titles = ["claim", "in dB", "first", "second", "difference", "holds here"]
    return (
        f"The first line compares the improvement of {SI_SDR} at 8 kHz, and differences within the spread of seeds are "
        "undecided, as above. The others compare the SNR of magnitudes from 4 to 8 kHz, mean over the separators of "
        "this group that have both; a verdict other than undecided holds for each of them.\n\n"
        + markdown_table(titles, written, align="llrrrl")
    )


def octave(rows: Rows) -> str:
    """What the upper octave gains from each way to make it."""
    written = [
        [row["name"], title, number(row["upper"][way]["magnitude_snr"], 2), number(row["upper"][way]["si_sdr"], 2)]
        for row in rows
        for way, title in WAYS.items()
        if way in row.get("upper", {})
    ]
    titles = ["probe", "upper octave", "SNR of magnitudes from 4 to 8 kHz, dB", f"{SI_SDR} at 16 kHz, dB"]
    return markdown_table(titles, written, align="llrr")
