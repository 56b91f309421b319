"""The measured part of docs/tokens.md: the tokens of the released models, and what others publish about theirs."""

import json
from typing import Any, NamedTuple

from recipes.quality import RESULTS
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.tables import markdown_table, number
from spectok.evaluation.token_report import bpe_table, entropy_table, extent, sections

TOKENS = RESULTS.with_name("tokens.json")  # speech of the test split, with probes
MORE = RESULTS.with_name("tokens-train.json")  # more speech, of the training split

DASB, SUPERB, STABLE = "DASB", "Codec-SUPERB", "StableToken"
NOISE = "noise 20 dB"


class Published(NamedTuple):
    """What others measured; None is what they did not measure."""

    tokenizer: str
    kilobits: str  # per second
    source: str
    changed: float | None = None  # % of tokens that noise changes
    speaker: float | None = None  # % of speakers that are identified
    word_errors: float | None = None  # % of words that are recognised wrongly from the tokens
    pesq: float | None = None
    stoi: float | None = None


PUBLISHED = (
    Published("StableToken", "-", STABLE, changed=10.17),
    Published("what StableToken is compared with", "-", STABLE, changed=26.17),
    Published("Discrete HuBERT", "up to 1.5", DASB, speaker=0.90, word_errors=8.99),
    Published("SpeechTokenizer", "up to 1.5", DASB, speaker=47.40, word_errors=19.77),
    Published("EnCodec", "up to 1.5", DASB, speaker=58.30, word_errors=52.37),
    Published("DAC", "up to 1.5", DASB, speaker=45.10, word_errors=63.96),
    Published("Discrete HuBERT", "2.9 to 6", DASB, speaker=67.40, word_errors=7.91),
    Published("SpeechTokenizer", "2.9 to 6", DASB, speaker=91.40, word_errors=18.32),
    Published("EnCodec", "2.9 to 6", DASB, speaker=91.90, word_errors=46.80),
    Published("DAC", "2.9 to 6", DASB, speaker=83.80, word_errors=59.54),
    Published("no tokens: continuous features", "-", DASB, speaker=99.70, word_errors=3.37),
    Published("EnCodec", "6", SUPERB, pesq=2.6346, stoi=0.9099),
    Published("SpeechTokenizer", "4", SUPERB, pesq=2.1317, stoi=0.8576),
)


def page(quality: dict[str, Any]) -> str:
    """The tables of docs/tokens.md; `quality` are the results of `spectok bench`."""
    tokens, more = (json.loads(path.read_text(encoding="utf-8")) for path in (TOKENS, MORE))
    parts = [extent(tokens), *sections(tokens), "## With more speech", extent(more)]
    parts += [entropy_table(more), bpe_table(more), "## Beside other tokenizers", comparison(tokens, quality)]
    return "\n\n".join(parts) + "\n"


def comparison(tokens: dict[str, Any], quality: dict[str, Any]) -> str:
    """The released models beside what others publish."""
    pesq, stoi = METRICS["pesq"], METRICS["stoi"]
    rows = []
    for name, model in tokens["models"].items():
        clean = quality["coders"][name]["groups"]["clean_*"]
        changed = 100 * (1 - model["same"][NOISE]["tokens"]["mean"])
        speaker = 100 * model["probes"]["speaker"]["codes"]
        heard = [metric.text(clean[metric.name]["mean"]) for metric in (pesq, stoi)]
        rate = f"{model['facts']['bitrate'] / 1000:g}"
        rows.append([name, rate, "spectok", number(changed, 1), number(speaker, 1), "-", *heard])
    for other in PUBLISHED:
        shares = [number(value, 1) for value in (other.changed, other.speaker, other.word_errors)]
        heard = [pesq.text(other.pesq), stoi.text(other.stoi)]
        rows.append([other.tokenizer, other.kilobits, other.source, *shares, *heard])
    titles = ["tokenizer", "kbit/s", "measured by", "tokens changed by noise, %", "speakers identified, %"]
    titles += ["word errors from tokens, %", pesq.title, stoi.title]
    return markdown_table(titles, rows, align="lllrrrrr")
