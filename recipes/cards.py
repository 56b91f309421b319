"""Write what quotes the evaluation: the model cards in `pretrained/` and the table in README.md.

    spectok eval CORPUS/test --rival codec2-3200 --rival codec2-700C --out pretrained/results
    python recipes/cards.py pretrained/results/results.json

Every measured figure comes from `results.json` (made by `spectok eval`) and from each model's `training.json` (made by
`recipes/release.py`). `--check` writes nothing and fails if a file is stale.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from spectok import pretrained
from spectok.config import CodecConfig
from spectok.errors import InputError
from spectok.files import atomic_write
from spectok.model.codec import Codec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "pretrained" / "results" / "results.json"
BEGIN, END = "<!-- results: written by recipes/cards.py -->\n", "<!-- end of results -->"

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


def sources(hours: dict[str, float]) -> str:
    """What a model was trained on, as a Markdown list."""
    return "".join(
        f"- {LICENCES[source][0]}: {value:.2f} hours, {LICENCES[source][1]}\n"
        for source, value in sorted(hours.items())
    )


def table(results: dict[str, Any], group: str) -> str:
    """The coders over one group of files, as Markdown."""
    lines = [
        "| codec | bits/s on disk | PESQ-WB | STOI | ESTOI | SI-SDR, dB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, coder in results["coders"].items():
        values = coder["groups"][group]
        cells = [f"{values['bits_per_second']:.0f}"]
        for metric, digits in (("pesq", 2), ("stoi", 3), ("estoi", 3), ("si_sdr", 1)):
            summary = values[metric]
            cells.append(f"{summary['mean']:.{digits}f} ± {summary['half_width_95']:.{digits}f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def facts_table(results: dict[str, Any]) -> str:
    """What the released models are and cost, as Markdown."""
    lines = [
        "| model | parameters | MMAC/s enc + dec | latency | codes | codebook used, entropy |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in pretrained.names():
        config = pretrained.find(name).config
        codec = Codec(config)
        macs, use = codec.macs_per_second(), results["coders"][name]["codebook"]
        lines.append(
            f"| {name} | {codec.num_parameters / 1e6:.2f} M "
            f"| {macs['encoder'] / 1e6:.0f} + {macs['decoder'] / 1e6:.0f} "
            f"| {1000 * config.latency_samples / config.sample_rate:g} ms | {codes(config)} "
            f"| {100 * use['used']['mean']:.0f} %, {use['entropy']['mean']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def codes(config: CodecConfig) -> str:
    """The rate of the codes in words."""
    quantizer = config.quantizer
    return f"{config.frame_rate:g} Hz x {quantizer.tokens_per_frame} of {quantizer.codebook_size:,}"


def extent(results: dict[str, Any], group: str) -> str:
    """How much speech the figures are over."""
    values = next(iter(results["coders"].values()))["groups"][group]
    return f"{values['files']} files, {values['seconds'] / 60:.1f} minutes"


def card(name: str, results: dict[str, Any]) -> str:
    """A model card."""
    model = pretrained.find(name)
    config = model.config
    training = json.loads((model.weights.parent / "training.json").read_text(encoding="utf-8"))
    run, last, data = training["run"], training["train"], training["run"]["recipe"]["data"]
    heard = last["step"] * data["batch_size"] * data["crop_seconds"] / 3600
    use = results["coders"][name]["codebook"]
    macs = sum(Codec(config).macs_per_second().values())
    commands = "".join(f"    {command}\n" for command in run["commands"])
    start = f"the weights of {run['init']}" if run["init"] else "random weights"
    return f"""# {name}

A streaming speech codec at {config.bitrate:g} bits/s: {config.sample_rate} Hz, {codes(config)} entries,
{config.latency_samples} samples of algorithmic latency, {Codec(config).num_parameters:,} parameters, {macs / 1e6:.0f}
MMAC/s.

## Licence

CC BY 4.0. The weights were trained on recordings that others made and gave away; thanks to all of them:

{sources(run["hours"])}
## Training

{sum(run["hours"].values()):.2f} hours of the sources above, mixed to mono and resampled to {config.sample_rate} Hz.
{last["step"]:,} steps of {data["batch_size"]} crops of {data["crop_seconds"]:g} s ({heard:.1f} hours heard) in
{last["seconds"]:.0f} s on {run["hardware"]}, from {start}, torch {run["torch"]}. The averaged weights, without
discriminators.

{commands}
## Results

Test split, other speakers and recordings than in training. Mean and 95 % interval, bits from bytes on disk with the
header. Clean speech ({extent(results, "clean_*")}):

{table(results, "clean_*")}
Hard cases: two talkers, noise, reverberation, music, singing, clipped, very quiet ({extent(results, "hard_*")}):

{table(results, "hard_*")}
{100 * use["used"]["mean"]:.1f} % of the codebook is used over the whole test split ({use["tokens"]:,} tokens); the
normalised entropy of the codes is {use["entropy"]["mean"]:.3f}.

## Limits

Speech only: music and two talkers at once come out poorly. 16 kHz: nothing above 8 kHz survives. Trained on few hours
of mostly read English: acted, emotional speech is the weakest of the clean categories. Not trained with an adversarial
stage yet, so that voices sound rougher than the figures alone would say.
"""


def documents(results: dict[str, Any]) -> dict[Path, str]:
    """Every file that quotes the results, with its right contents."""
    texts = {pretrained.CHECKOUT / name / "README.md": card(name, results) for name in pretrained.names()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    if not rest or END not in rest:
        raise InputError("README.md has lost the marks between which its results belong")
    after = rest.split(END, 1)[1]
    body = (
        f"Clean speech, {extent(results, 'clean_*')}, all codecs in one run (mean ± 95 % interval):\n\n"
        f"{table(results, 'clean_*')}\nHard cases, {extent(results, 'hard_*')}:\n\n{table(results, 'hard_*')}\n"
        f"What the models cost:\n\n{facts_table(results)}\n"
    )
    texts[ROOT / "README.md"] = before + BEGIN + "\n" + body + END + after
    return texts


def main() -> int:
    """Parse the arguments and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="(default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="fail if a file is not what the results say")
    args = parser.parse_args()
    stale = []
    for path, text in documents(json.loads(args.results.read_text(encoding="utf-8"))).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT))
        if not args.check:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    print("\n".join(f"{'stale' if args.check else 'written'}: {path}" for path in stale) or "all up to date")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
