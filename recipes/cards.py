"""Write what quotes measurements: the model cards in `pretrained/`, and the tables in README.md, docs/ and recipes/.

    spectok bench CORPUS/test --out REPORT
    python recipes/cards.py --report REPORT

Every measured number comes from `pretrained/results/results.json` (made by `spectok bench`; `--report` copies it from
there), from each model's `training.json` (made by `recipes/release.py`), from the studies' `results.json` (by
`recipes/study.py`), from `recipes/speed.json` (by the script of that name), from `pretrained/results/drift.json` (by
`recipes/drift.py`), from `pretrained/results/tokens.json` and `tokens-train.json` (by `spectok tokens`) and from the
results of the scripts in `benchmarks/`. The figures of results contain the SHA-256 of the results that they show. The
options in docs/cli.md come from the parser of the command line. `--check` writes nothing and fails if a file is stale.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import figures
from benchmarks.tables import bars, bulk, large_corpus, load, loss_summary, parts, serve
from benchmarks.tables import page as benchmarks
from recipes import learning
from recipes.ablations.tables import page as ablations
from recipes.commands import command_tables
from recipes.drift import OUT as DRIFT
from recipes.learning import heard, training
from recipes.quality import RESULTS, draw, extent, stale_figures, table, worst_level
from recipes.reliability import page as reliability
from recipes.separation.tables import page as separation
from recipes.speech_lm.tables import page as speech_lm
from recipes.study import RUN_DIGITS, tables
from recipes.tokens import page as tokens
from spectok import pretrained
from spectok.bench.figures import CAPTIONS
from spectok.bench.macs import macs_with_transforms
from spectok.config import CodecConfig
from spectok.errors import InputError
from spectok.evaluation.catalogue import METRICS, RATES, in_order, legend
from spectok.evaluation.drift import PREAMBLES
from spectok.evaluation.report import MACS, markdown
from spectok.evaluation.tables import markdown_table, number
from spectok.files import write_text
from spectok.model.codec import Codec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RECIPES, BENCHMARKS, DOCS = Path(__file__).parent, ROOT / "benchmarks", ROOT / "docs"
LOSS, LOSS_FIGURE = BENCHMARKS / "loss.json", DOCS / "loss.svg"
BEGIN, END = "<!-- results: written by recipes/cards.py -->\n", "<!-- end of results -->"

SUMMARY_CODERS = (
    "spectok-16k-4k",
    "opus-6",
    "opus-8",
    "codec2-3200",
    "speex-4",
    "spectok-16k-800",
    "codec2-1200",
    "codec2-700C",
)
SUMMARY_METRICS = ("pesq", "stoi", "dnsmos", "distillmos", "speaker", "wer")

LICENCES = {  # of the sources that models were trained on; one that is not here has no card
    "cmu_arctic": ("CMU ARCTIC", "BSD-like"),
    "festvox_ru": ("festvox-ru", "BSD-like"),
    "librispeech": ("LibriSpeech", "CC BY 4.0"),
    "ljspeech": ("LJSpeech", "public domain"),
    "mycroft_pcd": ("Mycroft's recordings", "public domain"),
    "picovoice_s2i": ("Picovoice's speech-to-intent benchmark", "Apache-2.0"),
    "picovoice_ww": ("Picovoice's wake-word benchmark", "Apache-2.0"),
    "rhasspy_flemishguy": ("Rhasspy's voice flemishguy (Flemish)", "CC0"),
    "rhasspy_kathleen": ("Rhasspy's voice kathleen", "CC0"),
    "rhasspy_kerstin": ("Rhasspy's voice kerstin (German)", "CC0"),
    "rhasspy_nathalie": ("Rhasspy's voice nathalie (Dutch)", "CC0"),
    "speechocean762": ("speechocean762 (non-native English)", "CC BY 4.0"),
}


def hours_of(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Hours of each source that any of the runs had."""
    return {source: max(run["hours"].get(source, 0.0) for run in runs) for run in runs for source in run["hours"]}


def sources(hours: dict[str, float]) -> str:
    """What a model was trained on, as a Markdown list."""
    return "".join(
        f"- {LICENCES[source][0]}: {value:.2f} hours, {LICENCES[source][1]}\n"
        for source, value in sorted(hours.items())
    )


def facts_table() -> str:
    """What the released models are and cost, as Markdown."""
    rows = []
    for name in pretrained.models():
        config = pretrained.find(name).config
        codec = Codec(config)
        macs, use = (codec.macs_per_second(), macs_with_transforms(codec)), training(name)["codebook"]
        rows.append(
            [
                name,
                METRICS["parameters"].text(codec.num_parameters / 1e6),
                *(
                    " + ".join(METRICS[kind].text(count[side] / 1e6) for side in ("encoder", "decoder"))
                    for kind, count in zip(MACS, macs, strict=True)
                ),
                METRICS["latency"].text(1000 * config.latency_samples / config.sample_rate),
                codes(config),
                f"{100 * use['used']:.0f} %, {use['entropy']:.3f}",
            ]
        )
    titles = ["model", METRICS["parameters"].heading]
    titles += [f"{METRICS[kind].heading}, encoder + decoder" for kind in MACS]
    titles += [METRICS["latency"].heading, "codes", "codebook used in training, entropy"]
    return f"{markdown_table(titles, rows)}\n\n{legend(METRICS[kind] for kind in MACS)}\n"


def codes(config: CodecConfig) -> str:
    """The rate of the codes in words."""
    quantizer = config.quantizer
    return f"{config.frame_rate:g} Hz x {quantizer.tokens_per_frame} of {quantizer.codebook_size:,}"


def runs_table(runs: list[dict[str, Any]]) -> str:
    """The runs behind a model, as Markdown."""
    rows = []
    for index, run in enumerate(runs, 1):
        last = run["curve"][-1] if run["curve"] else {}
        rows.append(
            [
                str(index),
                run.get("commit") or "unknown",
                f"{run['hardware']}, torch {run['torch']}",
                f"{run['seconds']:.0f}",
                f"{run['step']:,}",
                f"{heard(run):.1f}",
                f"run {index - 1}" if run["init"] and index > 1 else run["init"] or "random weights",
                *(number(last.get(name), RUN_DIGITS) for name in ("pesq", "stoi")),
            ]
        )
    titles = ["run", "commit", "hardware", "seconds", "steps", "hours heard", "from"]
    titles += [f"{METRICS[name].heading}, valid" for name in ("pesq", "stoi")]
    commands = "".join(f"    {command}\n" for run in runs for command in run["commands"])
    return markdown_table(titles, rows, align="lllrrrlrr") + "\n\n" + commands


def card(name: str, results: dict[str, Any]) -> str:
    """A model card."""
    config = pretrained.find(name).config
    facts = training(name)
    runs, train_use, use = facts["runs"], facts["codebook"], results["coders"][name]["codebook"]
    macs = sum(Codec(config).macs_per_second().values())
    payload, disk = RATES.values()
    several = "one code" if config.quantizer.tokens_per_frame == 1 else f"{config.quantizer.tokens_per_frame} codes"
    adversarial = any(run["recipe"]["loss"].get("adversarial_weight", 0) for run in runs)
    return f"""# {name}

A streaming neural codec for speech at {config.sample_rate / 1000:g} kHz. It encodes {config.frame_rate:g} frames per
second, each as {several} from one codebook of {config.quantizer.codebook_size:,} entries: {config.bitrate:g} bits/s.
Its algorithmic delay is {1000 * config.latency_samples / config.sample_rate:g} ms. It has
{Codec(config).num_parameters:,} parameters and takes {macs / 1e6:.0f} million multiply-accumulates per second of
speech.

    tokenizer = spectok.Tokenizer.from_pretrained("{name}")

The [quick start](../../docs/quickstart.md) goes on from there.

## Licence

CC BY 4.0. The weights were trained on recordings that others made and gave away; thanks to all of them:

{sources(hours_of(runs))}
## Training

{sum(hours_of(runs).values()):.2f} hours of the sources above, mixed to mono and resampled to
{config.sample_rate} Hz, {"with" if adversarial else "without"} an adversarial stage. Released are the averaged
weights of the last run, and a gain of {facts.get("gain_db", 0.0):+.2f} dB in the decoder, measured on training files,
that keeps the level:

{runs_table(runs)}{recognizer(runs)}
## Results

Test split, other speakers and recordings than in training. Mean and 95 % interval; {payload.heading} are those of the
codes or frames alone, {disk.heading} those of the file with its container and headers. Clean speech
({extent(results, "clean_*")}):

{table(results, "clean_*")}
Hard cases: two talkers, noise, reverberation, music, singing, clipped, very quiet ({extent(results, "hard_*")}):

{table(results, "hard_*")}
{drift_table(name)}
The level of the output is at worst {worst_level(results, name, "clean_*"):+.1f} dB from that of the input over the
clean files, and {worst_level(results, name, "hard_*"):+.1f} dB over the hard ones.

{100 * train_use["used"]:.1f} % of the codebook is used over the whole training split ({train_use["tokens"]:,} tokens,
normalised entropy {train_use["entropy"]:.3f}), {100 * use["used"]["mean"]:.1f} % over the test split
({use["tokens"]:,} tokens, {use["entropy"]["mean"]:.3f}).

{robust_encoder(name)}
{extension(name)}## Limits

Speech only: music and two talkers at once come out poorly. 16 kHz: nothing above 8 kHz survives. Trained on few hours
of mostly read English: acted, emotional speech is the weakest of the clean categories.
"""


def recognizer(runs: list[dict[str, Any]]) -> str:
    """What a model card says if a speech recogniser was used in training; empty if not."""
    if not any(run["recipe"]["loss"].get("recognizer_weight", 0) for run in runs):
        return ""
    return f"""
A loss compared, and discriminators judged, what the encoder of the speech recogniser Whisper base (MIT licence)
computes of original and decoded speech. A {METRICS["wer"].title} may favour the model for that reason; by Moonshine it
does not.
"""


def robust_encoder(name: str) -> str:
    """The section of a model card about the robust encoder; empty if the model has none."""
    model = pretrained.find(name)
    if "robust" not in pretrained.encoders(model):
        return ""
    path = model.folder / "robust" / "training.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return f"""## Robust encoder

`encoder="robust"` and `--denoise` encode noisy speech, or speech of any loudness, as the codes of the speech alone,
with a leveller and a denoiser before the model's own encoder. What this reaches and what it does not is
[measured](../../benchmarks/README.md#noise-and-loudness). The denoiser, the same for both models, was trained on the
sources above and on the noise of ESC-10 (K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015;
CC BY). A last run of one step puts it before the encoder of this model, where it was trained with the other one:

{runs_table(runs)}"""


def extension(name: str) -> str:
    """The section of a model card about the extension to 48 kHz; empty if the model has none."""
    if not pretrained.find(name).has_extension:
        return ""
    return """## Extension to 48 kHz

`decode --extend` and `decode(..., extend=True)` add frequencies from 8 to 20 kHz, with a network of 51,360 parameters
that is the same for both models. It was trained on one CPU core for 4 minutes on the energies of bands, then for 10
minutes on spectra of the audio, with the three sources that have the bandwidth: rhasspy_kathleen, rhasspy_kerstin and
rhasspy_nathalie, 1.1 hours, original and decoded by both models, at three speeds. How near it comes to recordings at
48 kHz is [measured](../../benchmarks/README.md#extension-to-48-khz); the goal is not reached, and it is off by default.

"""


def drift_table(name: str) -> str:
    """How PESQ-WB changes over minutes of a stream, from `recipes/drift.py`, as Markdown."""
    found = json.loads(DRIFT.read_text(encoding="utf-8"))["models"][name]
    pesq, states = METRICS["pesq"], ("fresh", *PREAMBLES)
    written = markdown_table(["start", *PREAMBLES], [[pesq.text(found[state]) for state in states]], align="rrrr")
    return (
        f"Over a stream, {pesq.title} of the first 5 s of {found['clips']} clean files of the test split, at the start "
        f"of a\nstream and after what the stream held before (`recipes/drift.py`):\n\n{written}\n"
    )


def speed_table() -> str:
    """Steps per second, from `recipes/speed.py`, as Markdown."""
    path = RECIPES / "speed.json"
    if not path.exists():
        return "`recipes/speed.py` has not been run.\n"
    facts = json.loads(path.read_text(encoding="utf-8"))
    first = facts["variants"][0]["steps_per_second"]
    rows = [
        [
            row["name"],
            f"{row['steps_per_second']:.2f}",
            f"{row['steps_per_second'] / first:.2f}",
            f"{row['first_seconds']:.1f}",
            f"{100 * row['waiting']:.2f} %",
        ]
        for row in facts["variants"]
    ]
    titles = ["variant", "steps per second", "ratio", "first step, s", "share of the time spent waiting for data"]
    machine = facts["provenance"]["machine"]
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    where = f"{hardware}, torch {machine['versions']['torch']}, batches of {facts['batch_size']} crops."
    return f"{where}\n\n{markdown_table(titles, rows)}\n"


def results_page() -> str:
    """The measured part of RESULTS.md."""
    models = "\n".join(f"### {name}\n\n{runs_table(training(name)['runs'])}" for name in pretrained.models())
    search = tables(RECIPES / "search")
    models += f"\n![The validations of each run against the hours of speech heard]({learning.FIGURE.name})\n"
    return (
        f"## The runs of the released models\n\n{models}\n## The tables of the search\n\n{search}\n"
        f"## Steps per second\n\n{speed_table()}"
    )


def summary_table(results: dict[str, Any]) -> str:
    """The released models beside the codecs that are closest to them, for README.md, as Markdown."""
    metrics, rows = in_order(SUMMARY_METRICS), []
    for name in SUMMARY_CODERS:
        values = results["coders"][name]["groups"]["clean_*"]
        cells = [metric.text(values[metric.name]["mean"]) for metric in metrics]
        rows.append([name, *(rate.text(values[rate.name]) for rate in RATES.values()), *cells])
    written = markdown_table(["codec", *(metric.heading for metric in (*RATES.values(), *metrics))], rows)
    return f"Clean speech, {extent(results, 'clean_*')}:\n\n{written}\n\n{legend(RATES.values())}\n"


def benchmark_page(results: dict[str, Any]) -> str:
    """The tables and figures of docs/benchmark.md."""
    figures = "../pretrained/results"
    return (
        f"{legend(RATES.values())}\n\n## Clean speech\n\n{extent(results, 'clean_*')}:\n\n{table(results, 'clean_*')}\n"
        f"![{CAPTIONS['rate_quality']}]({figures}/rate_quality.png)\n\n"
        "## Hard cases\n\nTwo talkers, noise, reverberation, music, singing, clipped and very quiet recordings; "
        f"{extent(results, 'hard_*')}:\n\n{table(results, 'hard_*')}\n"
        f"## Cost\n\n![{CAPTIONS['quality_cost']}]({figures}/quality_cost.png)\n\n{facts_table()}\n"
        "Speed, and the limit that a release must stay within ([how it is measured](../benchmarks/README.md)):\n\n"
        f"{bars()}"
    )


def loss_page() -> str:
    """The figure and the table of docs/network.md."""
    found = load(LOSS.name)
    files = f"means over {found['clips']} files, {METRICS['distillmos'].title} over {found['judged']}"
    return (
        f"![Quality against the share of lost packets]({LOSS_FIGURE.name})\n\n"
        f"When a tenth of the packets is lost ({files}):\n\n{loss_summary(found, 0.1)}"
    )


def bulk_page() -> str:
    """The tables of docs/bulk.md."""
    found = load("bulk.json")
    return f"{bulk(found)}\n## A hundred thousand hours\n\n{large_corpus(found)}"


def between_marks(path: Path, body: str) -> str:
    """A document with another text between its marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    if not rest or END not in rest:
        raise InputError(f"{path.name} has lost the marks between which its results belong")
    return before + BEGIN + "\n" + body + "\n" + END + rest.split(END, 1)[1]


def documents(results: dict[str, Any]) -> dict[Path, str]:
    """Every file that quotes the results, with its right contents."""
    texts = {pretrained.CHECKOUT / name / "README.md": card(name, results) for name in pretrained.models()}
    texts[RESULTS.with_name("results.md")] = markdown(results)
    texts[ROOT / "README.md"] = between_marks(ROOT / "README.md", summary_table(results))
    texts[DOCS / "benchmark.md"] = between_marks(DOCS / "benchmark.md", benchmark_page(results))
    texts[DOCS / "network.md"] = between_marks(DOCS / "network.md", loss_page())
    texts[DOCS / "bulk.md"] = between_marks(DOCS / "bulk.md", bulk_page())
    texts[DOCS / "tokenizer.md"] = between_marks(DOCS / "tokenizer.md", parts(load("context.json")))
    texts[DOCS / "reliability.md"] = between_marks(DOCS / "reliability.md", reliability())
    texts[DOCS / "tokens.md"] = between_marks(DOCS / "tokens.md", tokens(results))
    texts[DOCS / "speech_lm.md"] = between_marks(DOCS / "speech_lm.md", speech_lm())
    texts[DOCS / "serve.md"] = between_marks(DOCS / "serve.md", serve(load("serve.json")))
    texts[DOCS / "cli.md"] = between_marks(DOCS / "cli.md", command_tables())
    for study in (RECIPES / "bottlenecks", RECIPES / "streaming"):
        texts[study / "README.md"] = between_marks(study / "README.md", "## Results\n\n" + tables(study))
    for study, body in ((RECIPES / "separation", separation()), (RECIPES / "ablations", ablations())):
        texts[study / "README.md"] = between_marks(study / "README.md", body)
    texts[BENCHMARKS / "README.md"] = between_marks(BENCHMARKS / "README.md", benchmarks())
    texts[RECIPES / "RESULTS.md"] = between_marks(RECIPES / "RESULTS.md", results_page())
    return texts


def drawings() -> dict[Path, tuple[bytes, Callable[[dict[str, Any]], "Figure"]]]:
    """Every SVG figure of the documents, with the results that it shows and the function that draws them."""
    return {
        LOSS_FIGURE: (LOSS.read_bytes(), figures.loss_curves),
        learning.FIGURE: (learning.curves(), learning.learning_curves),
    }


def main() -> int:
    """Parse the arguments and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="folder of spectok bench, whose results become the released ones")
    parser.add_argument("--check", action="store_true", help="fail if a file is not what the results say")
    args = parser.parse_args()
    if args.report:
        shutil.copy(args.report / RESULTS.name, RESULTS)
    content = RESULTS.read_bytes()
    stale = [RESULTS.with_name(f"{name}.png") for name in stale_figures(content)]
    if not args.check:
        draw(content, [path.stem for path in stale])
    for path, (shown, drawing) in drawings().items():
        if figures.is_stale(path, shown):
            stale.append(path)
            if not args.check:
                figures.draw(path, shown, drawing)
    for path, text in documents(json.loads(content)).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not args.check:
            write_text(path, text)
    told = "stale" if args.check else "written"
    print("\n".join(f"{told}: {path.relative_to(ROOT)}" for path in stale) or "all up to date")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
