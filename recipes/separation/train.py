"""Train a separator, and score it on the test's mixtures at the end.

    python recipes/separation/train.py recipes/separation/cinematic.toml --data SOURCES --steps 800 --out RUN
    python recipes/separation/train.py recipes/separation/speech.toml --data SOURCES --minutes 20 --out RUN --resume

SOURCES is a folder made by recipes/separation/prepare.py. The recipe's keys are the fields of
`recipes.separation.config.SeparationConfig`. RUN/log.jsonl has the losses, RUN/run.json the settings, and
RUN/outcome.json the scores of the finished run, as `recipes/study.py` reads them. Run it again with `--resume` to
continue a stopped run. After SIGTERM or Ctrl-C it finishes the current step, writes a checkpoint and stops.
"""

import argparse
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.separation.config import SeparationConfig, load_recipe
from recipes.separation.evaluate import completed, evaluate, upper_bands
from recipes.separation.losses import negative_snr, overshoot
from recipes.separation.metrics import museval_metrics
from recipes.separation.mixtures import Mixtures
from recipes.separation.separator import Separator
from recipes.separation.upper import double, halve
from spectok.errors import InputError, require
from spectok.evaluation.provenance import commit
from spectok.files import write_text
from spectok.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix
from spectok.training.recipe import Budget
from spectok.weights import load_tensors, save_tensors

CHECKPOINT = "checkpoint.safetensors"
CURVE = ("step", "seconds", "loss")  # what `outcome.json` keeps of the log


class Run:
    """A run: the separator, its optimiser, and how much of the budget is used.

    Args:
        config: the recipe.
        data: mixtures of the split train.
        budget: steps or minutes of processor time.
        out: the run folder.
    """

    def __init__(self, config: SeparationConfig, data: Mixtures, budget: Budget, out: Path) -> None:
        self.config, self.data, self.budget, self.out = config, data, budget, out
        torch.manual_seed(config.seed)
        self.model = Separator(config.separator, config.outputs)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, config.learning_rate, weight_decay=config.weight_decay)
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """The part of the budget that is used, from 0 to 1."""
        return self.budget.progress(self.step, self.seconds)

    def learning_rate(self) -> float:
        """A linear warm-up, then half a cosine over the budget."""
        config = self.config
        share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * self.progress)) / 2
        return config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps) * share

    def train_step(self) -> dict[str, float]:
        """One step of the optimiser; the losses, and the norm of the gradient before clipping."""
        rng = np.random.default_rng([self.config.seed, self.step])  # so that a resumed run draws the same mixtures
        sources = torch.from_numpy(self.data.batch(rng))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        values = losses(self.model, sources, self.config)
        total = values["loss"] + self.config.loss.overshoot_weight * values["overshoot"]
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in values.items()} | {"gradient_norm": float(norm)}

    def log(self, rows: Sequence[dict[str, float]]) -> None:
        """Write the means over some steps as a line of log.jsonl."""
        values = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        entry = {"kind": "train", "step": self.step, "seconds": round(self.seconds, 1)}
        entry |= {name: float(f"{value:.5g}") for name, value in values.items()}
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Write the checkpoint, from which `restore` continues."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        save_tensors(self.out / CHECKPOINT, tensors, {"step": str(self.step), "seconds": repr(self.seconds)})

    def restore(self) -> None:
        """Continue from the checkpoint; what was logged after it is dropped from the log."""
        tensors, counts = load_tensors(self.out / CHECKPOINT)
        self.model.load_state_dict(with_prefix(tensors, "model."))
        restore_optimizer(self.optimizer, with_prefix(tensors, "optimizer."))
        self.step, self.seconds = int(counts["step"]), float(counts["seconds"])
        log = self.out / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        write_text(log, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step))


def losses(model: Separator, sources: Tensor, config: SeparationConfig) -> dict[str, Tensor]:
    """The losses of a batch of sources `[B, S, T]` at 16 kHz: "loss", the negative SNR in dB, and "overshoot".

    With `scales`, "loss" is the mean over the estimates after each block; each is scored at its own rate, twice that of
    the one before. With `upper`, the negative SNR of the estimates with their upper octave at 16 kHz is averaged with
    it.
    """
    separator, limit = config.separator, config.loss.limit_db
    full = sources
    if separator.sample_rate == 8000:
        sources = halve(sources)
    mixture = sources.sum(1)
    wanted = sources[:, : config.outputs]
    spectra = model.spectra(mixture, after_all_blocks=separator.scales)
    parts = []
    for number, spectrum in enumerate(reversed(spectra)):
        samples = mixture.shape[-1] >> number
        estimate = model.transform.inverse(spectrum, samples, number)
        target = model.transform.inverse(model.transform(wanted), samples, number) if number else wanted
        parts.append(negative_snr(estimate, target, limit))
    if model.upper is not None:
        mixed = full.sum(1)
        estimates = completed(model.transform.inverse(spectra[-1], mixture.shape[-1]), mixture, config)
        audio, _ = upper_bands(model, mixed, double(estimates), ("network",))["network"]
        parts.append(negative_snr(audio, full, limit))
    penalty = overshoot(spectra[-1], model.transform(mixture))
    return {"loss": torch.stack(parts).mean(), "snr": -parts[0], "overshoot": penalty}


def fit(run: Run, arrived: Sequence[int], clock: Callable[[], float]) -> int:
    """Train until the budget is used or a signal has arrived; returns the number of the signal, or 0."""
    rows: list[dict[str, float]] = []
    start = clock() - run.seconds
    while run.progress < 1:
        rows.append(run.train_step())
        run.seconds = clock() - start
        stopped = bool(arrived)
        if run.step % run.config.log_steps == 0 or run.progress >= 1:
            run.log(rows)
            rows = []
        if run.step % run.config.checkpoint_steps == 0 or run.progress >= 1 or stopped:
            run.save()
        if stopped:
            return max(arrived)
    return 0


def record(args: argparse.Namespace, config: SeparationConfig, run: Run) -> None:
    """Write `run.json`. A resumed run must have the same recipe."""
    path = args.out / "run.json"
    recipe = json.loads(json.dumps(dataclasses.asdict(config)))
    if args.resume:
        known = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        differing = [key for key, value in recipe.items() if known.get(key) != value]
        require(not differing, f"{args.out} was started with another recipe: {', '.join(differing)} differ")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    hours = {kind.split: round(float(kind.samples.sum()) / kind.sample_rate / 3600, 3) for kind in run.data.corpora}
    facts = {
        "recipe": recipe,
        "steps": args.steps,
        "minutes": args.minutes,
        "hours": hours,
        "parameters": run.model.num_parameters,
        "macs_per_second": run.model.macs_per_second(),
        "hardware": "1 CPU thread",
        "torch": torch.__version__,
        "commit": commit(),
    }
    write_text(path, json.dumps(facts, indent=1) + "\n")


def write_outcome(run: Run, scores: dict[str, Any]) -> None:
    """Write `outcome.json`: the facts, the scores, and the curve of the loss."""
    facts = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
    kept = {key: facts[key] for key in ("commit", "hardware", "parameters", "macs_per_second")}
    lines = (run.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    curve = [{key: entry[key] for key in CURVE} for entry in map(json.loads, lines)]
    rounded = _rounded(scores)
    spent = {"step": run.step, "seconds": round(run.seconds, 1), "seconds_per_step": round(run.seconds / run.step, 3)}
    write_text(run.out / "outcome.json", json.dumps(kept | spent | rounded | {"curve": curve}, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def train(args: argparse.Namespace) -> int:
    """Train by the arguments; returns the number of the signal that stopped the run, or 0."""
    config = load_recipe(args.recipe, args.set)
    museval_metrics()  # better missing before the training than after it
    data = Mixtures(args.data, "train", config.mix)
    test = Mixtures(args.data, "test", config.mix)
    run = Run(config, data, Budget(args.steps, args.minutes), args.out)
    begun = (args.out / CHECKPOINT).exists()
    require(args.resume or not begun, f"{args.out} already holds a run; add --resume to continue it")
    require(not args.resume or begun, f"{args.out} holds no run to continue")
    record(args, config, run)
    if args.resume:
        run.restore()
    arrived: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, frame: arrived.append(number)) for number in numbers]
    try:
        stopped = fit(run, arrived, time.process_time)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if not stopped:
        write_outcome(run, evaluate(run.model, test, config))
        if not args.quiet:
            print((args.out / "outcome.json").read_text(encoding="utf-8"))
    return stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a TOML file in recipes/separation/")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/separation/prepare.py")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument("--minutes", type=float, help="budget in processor time, including that before --resume")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        stopped = train(args)
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if stopped:
        print(f"train: stopped by signal {stopped}; --resume continues from the checkpoint", file=sys.stderr)
    return 128 + stopped if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
