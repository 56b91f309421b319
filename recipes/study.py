"""Compare choices by short runs of equal budget, one thread each.

    python recipes/study.py recipes/search --data PREPARED --out runs/search --jobs 2

A study is a folder with a `plan.toml`. This trains every probe of it that neither `--out` nor `results.json` beside the
plan holds with the same settings (`--again`: that `--out` does not hold), and writes what all of them gave to
`results.json` and `curves.png`; recipes/cards.py makes the tables. Stop it at any time and start it again, also with
another `--out`. A group of the plan is trained by recipes/train.py, or by another script that it names, which writes
what came out to `outcome.json` in the run folder.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spectok.config import CodecConfig
from spectok.errors import InputError, require
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.provenance import write_results
from spectok.evaluation.tables import markdown_table, number
from spectok.files import write_text
from spectok.model.codec import Codec
from spectok.plotting import canvas, save
from spectok.schema import from_dict

HERE = Path(__file__).parent
CODEC_SCRIPT = "train.py"
OUTCOME = "outcome.json"  # by scripts other than that for the codec: what a run gave, with `curve` and `parameters`

CURVE = ("step", "seconds", "complex", "magnitude", "mel")  # what is kept of the training log
ADDED = ("script", "columns", "curve")  # settings of groups of other scripts
SETTINGS = ("recipe", "base", "init", "minutes", "steps", "script")  # of a group, which determine what its probes give
NOT_RUN = "The study has not been run.\n"  # in place of its tables
RUN_DIGITS = 3  # of PESQ-WB and STOI where runs are compared, which differ by less than the released codecs


Rows = dict[tuple[str, str, int], dict[str, Any]]  # of `results.json`, by `Probe.key`


class Column(NamedTuple):
    """A column of the tables."""

    key: str  # in the results
    heading: str
    digits: int
    unit: float = 1.0  # what 1 in the table is in the results


COLUMNS = (
    Column("step", "steps", 0),
    Column("pesq", METRICS["pesq"].heading, RUN_DIGITS),
    Column("stoi", METRICS["stoi"].heading, RUN_DIGITS),
    Column("level_db", METRICS["level_db"].heading, METRICS["level_db"].digits),
    Column("overshoot_db", METRICS["overshoot_db"].heading, METRICS["overshoot_db"].digits),
    Column("complex", "complex", 4),
    Column("magnitude", "magnitude", 4),
    Column("mel", "mel", 4),
    Column("code_entropy", "code entropy", 3),
    Column("parameters", METRICS["parameters"].heading, METRICS["parameters"].digits, 1e6),
    Column("macs_per_second", METRICS["macs"].heading, METRICS["macs"].digits, 1e6),
    Column("latency_samples", "latency, samples", 0),
)
SEPARATION_COLUMNS = (  # in dB where nothing else is said
    Column("si_sdr", METRICS["si_sdr"].title, 2),
    Column("si_sdri", f"{METRICS['si_sdr'].title} improvement", 2),
    Column("usdr", "uSDR", 2),
    Column("csdr", "cSDR", 2),
    Column("isr", "ISR", 2),
    Column("sir", "SIR", 2),
    Column("sar", "SAR", 2),
    Column("seconds_per_second", "processor seconds per second", 3),
    Column("seconds_per_step", "processor seconds per step", 2),
)
CODEBOOK_COLUMNS = (Column("codes_used", "codes used, %", 1, 0.01),)
ALL_COLUMNS = {column.key: column for column in (*COLUMNS, *CODEBOOK_COLUMNS, *SEPARATION_COLUMNS)}


@dataclass(frozen=True)
class Group:
    """Probes that share their recipe, base, start and budget; the others are compared with the first."""

    title: str
    recipe: str  # a file in recipes/, also one in a folder there
    probes: dict[str, tuple[str, ...]]  # overrides of the recipe by the probe's name
    base: tuple[str, ...] = ()  # overrides of all probes
    init: str = ""  # a released model to start from
    minutes: float = 0.0  # of one processor
    steps: int = 0  # or steps
    seeds: tuple[int, ...] = (0,)
    commit: str = ""  # the last commit whose code has the options of these probes: their results are kept as they are
    script: str = CODEC_SCRIPT  # a file in recipes/ that trains them
    columns: tuple[str, ...] = ()  # keys of `ALL_COLUMNS` to report; empty: those of the codec
    curve: str = "mel"  # what is drawn of the training log

    def __post_init__(self) -> None:
        require((self.minutes > 0) != (self.steps > 0), f"{self.title}: give either minutes or steps")
        require(bool(self.probes) and bool(self.seeds), f"{self.title}: there must be a probe and a seed")
        unknown = [key for key in self.columns if key not in ALL_COLUMNS]
        require(not unknown, f"{self.title}: there is no column {', '.join(unknown)}")
        require((HERE / self.script).is_file(), f"{self.title}: there is no script {self.script} in recipes/")


@dataclass(frozen=True)
class Probe:
    """One run of a study."""

    group: Group
    name: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is called in `results.json`: its group, its name and its seed."""
        return self.group.title, self.name, self.seed

    def folder(self, out: Path) -> Path:
        """Where it runs."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return out / (f"{name}-seed-{self.seed}" if self.seed else name)


def load_plan(study: Path) -> list[Group]:
    """Read `plan.toml`, strictly.

    Raises:
        InputError: it is missing or wrong, or two probes have one name.
    """
    path = study / "plan.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    groups = [from_dict(Group, group, str(path)) for group in table.get("group", [])]
    folders = [probe.folder(Path()) for group in groups for probe in probes(group)]
    require(len(folders) == len(set(folders)) > 0, f"{path} must hold probes, each under a name of its own")
    return groups


def probes(group: Group) -> list[Probe]:
    """The runs of a group: all probes of the first seed before those of the second."""
    return [Probe(group, name, seed) for seed in group.seeds for name in group.probes]


def known(study: Path, groups: list[Group]) -> Rows:
    """What `results.json` has of probes that have the settings of the plan still, by their keys."""
    if not (study / "results.json").exists():
        return {}
    found = {}
    before = {group["title"]: group for group in load_groups(study)}
    for group in groups:
        facts = json.loads(json.dumps(dataclasses.asdict(group)))
        written = {"script": CODEC_SCRIPT} | before.get(group.title, {"probes": []})
        if any(facts[key] != written.get(key) for key in SETTINGS):
            continue
        rows = {(row["name"], row["seed"]): row for row in written["probes"]}
        for probe in probes(group):
            row = rows.get((probe.name, probe.seed))
            if row and row.get("overrides") == facts["probes"][probe.name]:
                found[probe.key] = row
    return found


def is_done(probe: Probe, out: Path) -> bool:
    """Whether the folder of the runs holds a finished run of a probe.

    Raises:
        InputError: it holds one with other settings.
    """
    path = probe.folder(out) / "done"
    if not path.exists():
        return False
    is_same = path.read_text(encoding="utf-8") == settings(probe)
    require(is_same, f"{path.parent} holds a run with other settings; remove it, or choose another folder")
    return True


def settings(probe: Probe) -> str:
    """What determines the result of a probe, as JSON."""
    facts = {key: getattr(probe.group, key) for key in SETTINGS}
    return json.dumps(facts | {"overrides": probe.group.probes[probe.name], "seed": probe.seed})


def train(probe: Probe, data: Path, out: Path) -> None:
    """Train one probe, unless it has been trained, or only an earlier commit can train it."""
    group, folder = probe.group, probe.folder(out)
    if group.commit or is_done(probe, out):
        return
    overrides = [*group.base, *group.probes[probe.name], f"seed={probe.seed}"]
    options = [f"--set={override}" for override in overrides]
    is_codec = group.script == CODEC_SCRIPT
    options += [f"--minutes={group.minutes}"] if group.minutes else [f"--steps={group.steps}"]
    options += ["--cpu-clock"] if group.minutes and is_codec else []
    begun = (folder / "checkpoint.safetensors").exists()
    options += ["--resume"] if begun else [f"--init={group.init}"] if group.init else []
    command = [sys.executable, str(HERE / group.script), str(HERE / group.recipe), "--data", str(data)]
    command += ["--out", str(folder), "--quiet"] + ["--device=cpu"] * is_codec
    print(f"training: {folder.name}", flush=True)
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    write_text(folder / "done", settings(probe))


def outcome(probe: Probe, out: Path) -> dict[str, Any]:
    """What a finished probe gave: facts, the last validation, and the curve of its training losses."""
    folder = probe.folder(out)
    named: dict[str, Any] = {"name": probe.name, "overrides": probe.group.probes[probe.name], "seed": probe.seed}
    if probe.group.script != CODEC_SCRIPT:
        found: dict[str, Any] = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        return named | found
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = next(entry for entry in reversed(entries) if entry["kind"] == "valid")
    curve = [{key: entry[key] for key in CURVE if key in entry} for entry in entries if entry["kind"] == "train"]
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    codec = Codec(CodecConfig.load(folder / "release" / "config.json"))
    return {
        **named,
        "commit": facts["commit"],
        "hardware": facts["hardware"],
        "init_weights": facts.get("init_weights"),  # which runs of earlier versions did not record
        "parameters": codec.num_parameters,
        "macs_per_second": sum(codec.macs_per_second().values()),
        "latency_samples": codec.latency_samples,
        **{key: value for key, value in last.items() if key != "kind"},
        "curve": curve,
    }


def write(study: Path, groups: list[Group], out: Path, kept: Rows) -> None:
    """Write what the finished probes gave to `results.json`, which keeps its groups of earlier commits.

    Args:
        study: folder of the plan.
        groups: of the plan.
        out: folder of the runs.
        kept: what is known of probes that `out` does not hold, by their keys.
    """
    path, results = study / "results.json", []
    before = {group["title"]: group for group in load_groups(study)} if path.exists() else {}
    for group in groups:
        if group.commit:
            results.append(before[group.title])
            continue
        facts = described(group)
        rows = [outcome(each, out) if is_done(each, out) else kept.get(each.key) for each in probes(group)]
        results.append(facts | {"probes": [row for row in rows if row is not None]})
    write_results(path, {"groups": results}, weights=None)
    draw(study / "curves.png", results)


def described(group: Group) -> dict[str, Any]:
    """The settings of a group without its probes; those of studies of other scripts are left out if they are unused."""
    facts = dataclasses.asdict(group)
    added = {field.name: field.default for field in dataclasses.fields(group) if field.name in ADDED}
    return {key: value for key, value in facts.items() if key != "probes" and added.get(key, ...) != value}


def load_groups(study: Path) -> list[dict[str, Any]]:
    """The groups of a study's `results.json`."""
    groups: list[dict[str, Any]] = json.loads((study / "results.json").read_text(encoding="utf-8"))["groups"]
    return groups


def draw(path: Path, results: list[dict[str, Any]]) -> None:
    """A loss of all probes in training, smoothed as the log is, a panel for each group; by default the mel loss."""
    groups = [group for group in results if group["probes"]]
    figure = canvas((12, 3.2 * len(groups)))
    for axis, group in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups, strict=True):
        names = list(dict.fromkeys(row["name"] for row in group["probes"]))
        key = group.get("curve", "mel")
        for row in group["probes"]:
            points = [(at["step"], at[key]) for at in row["curve"]]
            label = row["name"] if row["seed"] == group["seeds"][0] else None
            axis.plot(*zip(*points, strict=True), color=f"C{names.index(row['name'])}", label=label, linewidth=1)
        axis.set_title(group["title"], fontsize="small")
        style = {"ylabel": "mel loss", "yscale": "log"} if key == "mel" else {"ylabel": key}
        axis.set(xlabel="steps", **style)
        axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path, dpi=80, colours=32)


def tables(study: Path) -> str:
    """The groups of a study, as Markdown: the mean of a probe's runs, one for each seed, ± half of their range."""
    parts = []
    for group in load_groups(study):
        if not group["probes"]:
            continue
        budget = f"{group['minutes']:g} minutes of one processor" if group["minutes"] else f"{group['steps']:,} steps"
        chosen = [ALL_COLUMNS[key] for key in group.get("columns", ())] or COLUMNS
        columns = [column for column in chosen if any(column.key in row for row in group["probes"])]
        rows = []
        for name in dict.fromkeys(row["name"] for row in group["probes"]):
            runs = [row for row in group["probes"] if row["name"] == name]
            cells = [_cell([row.get(column.key) for row in runs], column) for column in columns]
            commits = ", ".join(dict.fromkeys(row["commit"] for row in runs))
            rows.append([name, str(len(runs)), *cells, commits])
        titles = ["probe", "runs", *(column.heading for column in columns), "commit"]
        table = markdown_table(titles, rows, align="l" + "r" * (len(titles) - 2) + "l")
        parts.append(f"### {group['title']}\n\n`{group['recipe']}`, {budget} each.\n\n{table}\n")
    return "\n".join(parts)


def _cell(values: list[float | None], column: Column) -> str:
    """The mean, and where there are several values half of their range; empty where one is missing."""
    kept = [value / column.unit for value in values if value is not None]
    if len(kept) < len(values):
        return ""
    spread = (max(kept) - min(kept)) / 2
    return number(sum(kept) / len(kept), column.digits) + (f" ± {number(spread, column.digits)}" if spread else "")


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, train what is missing, write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder with a plan.toml")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the probes' runs")
    parser.add_argument("--jobs", type=int, default=1, help="probes at a time (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="also train what results.json holds")
    args = parser.parse_args(arguments)
    try:
        groups = load_plan(args.study)
    except InputError as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 2
    kept = {} if args.again else known(args.study, groups)
    runs = [probe for group in groups for probe in probes(group) if probe.key not in kept]
    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            for _ in pool.map(lambda probe: train(probe, args.data, args.out), runs):
                write(args.study, groups, args.out, kept)
    except InputError as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
