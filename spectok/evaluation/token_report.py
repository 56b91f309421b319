"""Shows the results of `measure_tokens` as tables in Markdown."""

import math
from typing import Any

from spectok.evaluation.tables import markdown_table, mean, number

Results = dict[str, Any]
PROBES = {  # name -> title, unit, digits
    "speaker": ("speaker of a file, right answers", "%", 1),
    "phone": ("phone of a frame, right answers", "%", 1),
    "voicing": ("voiced or not, right answers", "%", 1),
    "pitch": ("pitch of voiced frames, mean absolute error", "cents", 0),
}


def markdown(results: Results) -> str:
    """The results of `measure_tokens` as a page."""
    parts = ["# Token quality", extent(results), *sections(results)]
    return "\n\n".join(parts) + "\n"


def extent(results: Results) -> str:
    """What was measured, in a sentence."""
    speakers = f" of {results['speakers']} speakers" if results["speakers"] else ""
    return f"{results['files']} files{speakers}, {results['seconds'] / 60:.1f} minutes."


def sections(results: Results) -> list[str]:
    """The headings, explanations and tables below the title."""
    parts = [
        "## Entropies",
        "Bits that a model of one, two or three tokens needs for a token, and for a second. The models are counted on "
        "one half of the files and measured on the other half, in both directions; no speaker is in both. They are "
        "interpolated with absolute discounting (Ney, Essen and Kneser, 1994), and know the place of a token in its "
        "frame. On few files the figures are upper limits. The entropy of the codebook is that of the relative "
        "frequencies of all tokens over log2 of its size; with few tokens for an entry it is too low.",
        entropy_table(results),
        "## Byte pair encoding",
        "Tokens per second of one half of the files after merges of frequent neighbours, learned on the other half.",
        bpe_table(results),
        "## The same speech, encoded again",
        f"The share of tokens that stay the same, and of frames all of whose tokens do: means over "
        f"{results['repeated']} files with 95 % intervals. Noise is pink, at a level below that of the file. After n "
        "round trips the decoded audio is encoded and decoded n times and then encoded once more. 'Frames of silence' "
        "counts the different frames of codes in a minute of digital silence.",
        same_table(results),
    ]
    if any("probes" in model for model in results["models"].values()):
        parts += [
            "## Linear probes",
            "What a linear model reads from the vectors of a frame's codes (in brackets: how many numbers), and what "
            "it reads from 40 log-mel magnitudes of the same moment. Chance is the most frequent class, or the median "
            "pitch. Frames are probed alone, without their neighbours, by models that were learned on other speakers.",
            probe_table(results),
        ]
    return parts


def entropy_table(results: Results) -> str:
    """Use of the codebook and entropies, a row for each model."""
    rows = []
    for name, model in results["models"].items():
        facts, codebook = model["facts"], model["codebook"]
        bits = math.log2(facts["codebook_size"])
        cells = [f"{row['bits_per_token']:.2f}; {number(row['bits_per_second'], 0)}" for row in model["entropies"]]
        use = [f"{100 * codebook['used']:.1f} %", number(codebook["entropy"], 3)]
        fixed = [number(codebook["tokens"], 0), f"{bits:.2f}; {number(facts['bitrate'], 0)}"]
        rows.append([name, *fixed, *cells, *use])
    orders = ["one token", "two tokens", "three tokens"]
    titles = ["model", "tokens", "stored bits; per second", *(f"{order}: bits; per second" for order in orders)]
    return markdown_table([*titles, "codebook used", "entropy of the codebook, at most 1"], rows)


def bpe_table(results: Results) -> str:
    """Tokens per second after merges, a row for each model."""
    models = results["models"]
    wanted = [row["merges"] for row in next(iter(models.values()))["bpe"]]
    rows = []
    for name, model in models.items():
        cells = []
        for row in model["bpe"]:
            fewer = "" if row["learned"] == row["merges"] else f" ({number(row['learned'], 0)} found)"
            cells.append(f"{number(row['tokens_per_second'], 1)}{fewer}")
        rows.append([name, *cells])
    return markdown_table(["model", *(f"{number(merges, 0)} merges" for merges in wanted)], rows)


def same_table(results: Results) -> str:
    """Shares of equal tokens and frames, a row for each condition."""
    models = results["models"]
    titles, rows = ["encoded again"], []
    for name, model in models.items():
        titles.append(f"{name}: tokens, %")
        if model["facts"]["tokens_per_frame"] > 1:
            titles.append("frames, %")
    for condition in next(iter(models.values()))["same"]:
        cells = [_title(condition)]
        for model in models.values():
            units = ("tokens", "frames") if model["facts"]["tokens_per_frame"] > 1 else ("tokens",)
            cells += [mean(_percent(model["same"][condition][unit]), 1) for unit in units]
        rows.append(cells)
    silence = ["frames of silence"]
    for model in models.values():
        silence += [str(model["silence"])] + [""] * (model["facts"]["tokens_per_frame"] > 1)
    return markdown_table(titles, [*rows, silence])


def probe_table(results: Results) -> str:
    """What the probes reach, a row for each probe."""
    models = {name: model for name, model in results["models"].items() if "probes" in model}
    titles = ["probe", *(f"{name} ({model['probes']['dimensions']})" for name, model in models.items())]
    rows = []
    for probe, (title, unit, digits) in PROBES.items():
        found = [model["probes"].get(probe) for model in models.values()]
        known = next((each for each in found if each), None)
        if known is None:
            continue
        scale = 100 if unit == "%" else 1
        cells = [number(scale * each["codes"], digits) if each else "-" for each in found]
        reference = [number(scale * known[kind], digits) for kind in ("mels", "chance")]
        rows.append([f"{title}, {unit}", *cells, *reference, number(known["n"], 0)])
    return markdown_table([*titles, "log-mel", "chance", "n"], rows)


def _title(condition: str) -> str:
    """A name of `CONDITIONS` in words."""
    if condition == "cut at a frame":
        return "first second cut off, at the start of a frame"
    if condition == "cut in a frame":
        return "first second and a quarter of a frame cut off"
    if condition.endswith(" Hz"):
        return f"resampled to {number(int(condition.removesuffix(' Hz')), 0)} Hz and back"
    return "1 round trip" if condition == "1 round trips" else condition


def _percent(summary: dict[str, Any]) -> dict[str, Any]:
    """A `Summary` of shares in percent."""
    scaled = {key: None if summary[key] is None else 100 * summary[key] for key in ("mean", "half_width_95")}
    return summary | scaled
