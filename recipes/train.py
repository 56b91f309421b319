"""Train a codec.

    python recipes/train.py recipes/spectok-16k-4k.toml --data PREPARED --minutes 100 --out runs/4k
    python recipes/train.py recipes/flat.toml --data PREPARED --steps 200 --set data.batch_size=2 --out runs/try
    python recipes/train.py recipes/spectok-16k-4k.toml --with recipes/stages/recognizer.toml --init spectok-16k-4k ...
    torchrun --nproc-per-node 4 recipes/train.py recipes/spectok-16k-4k.toml --data PREPARED --minutes 100 --out runs/4

The recipe holds the settings that determine the result (its keys are the fields of
`spectok.training.recipe.TrainConfig`); the command line holds the budget, the device and the folders. Run it again with
`--resume` to continue a stopped run. After SIGTERM or Ctrl-C it finishes the current step, writes a checkpoint and
stops. Under `torchrun` each process computes its part of the batch.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spectok import pretrained
from spectok.config import CodecConfig
from spectok.errors import InputError, require
from spectok.evaluation.provenance import commit
from spectok.files import write_text
from spectok.schema import from_dict, read_recipe
from spectok.training import distributed
from spectok.training.checkpoint import initial_weights, with_prefix
from spectok.training.corpus import Corpus
from spectok.training.history import history
from spectok.training.loop import fit
from spectok.training.recipe import Budget, Compute, TrainConfig
from spectok.training.robust import EncoderTrainer
from spectok.training.trainer import Trainer
from spectok.weights import load_tensors, read_weights


def load_recipe(path: str | Path, overrides: list[str], further: Sequence[str | Path] = ()) -> TrainConfig:
    """Read a recipe, and apply the values of further files and `key.path=value` overrides, strictly."""
    return from_dict(TrainConfig, read_recipe(path, overrides, further), " with ".join(map(str, (path, *further))))


def with_codec_of_teacher(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """A recipe for an encoder gets the codec of the model in `--init`, with a leveller and the recipe's denoiser."""
    if not config.is_robust:
        return config
    if args.resume:
        path = args.out / "run.json"
        require(path.is_file(), f"{args.out} holds no run to continue")
        known = json.loads(path.read_text(encoding="utf-8"))["recipe"]["codec"]
        return dataclasses.replace(config, codec=CodecConfig.from_json(known, str(path)))
    require(bool(args.init), "this recipe trains an encoder for the decoder of a model, so it needs --init")
    hidden = config.codec.denoiser_hidden
    codec = dataclasses.replace(pretrained.find(args.init).config, leveller=True, denoiser_hidden=hidden)
    return dataclasses.replace(config, codec=codec)


def record(args: argparse.Namespace, config: TrainConfig, train: Corpus) -> None:
    """Write `run.json`: recipe, commands, data, hardware. A resumed run must have the same recipe."""
    path = args.out / "run.json"
    recipe = json.loads(json.dumps(dataclasses.asdict(config)))
    command = f"python recipes/train.py recipes/{args.recipe.name}"
    command += "".join(f" --with recipes/stages/{path.name}" for path in args.further)
    command += " --data PREPARED --out RUN"
    command += "".join(f" --{name} {value}" for name in ("minutes", "steps") if (value := getattr(args, name)))
    init = args.init if args.init in pretrained.models() else "EARLIER/release" if args.init else None
    command += f" --init {init}" if init else ""
    command += " --encoder EARLIER/release" if args.encoder else ""
    command += (
        "".join(f" --set {override}" for override in args.set)
        + " --bf16" * args.bf16
        + " --compile" * args.compile
        + " --cpu-clock" * args.cpu_clock
        + " --resume" * args.resume
    )
    if args.resume:
        facts = json.loads(path.read_text(encoding="utf-8"))
        differing = _differing(facts["recipe"], recipe, str(path))
        require(not differing, f"{args.out} was started with another recipe: {', '.join(differing)} differ")
    else:
        hours = {source or "unnamed": round(value, 3) for source, value in train.hours_by_source().items()}
        start = pretrained.find(args.init) if init else None
        before = history(start.folder) if start else []
        facts = {"commands": [], "before": before, "init": init, "hours": hours, "recipe": recipe}
        facts["init_weights"] = start.sha256 if start else None
        if args.encoder:
            facts["encoder"] = history(pretrained.find(args.encoder).folder)[-1:]
    facts["commands"].append(command)
    is_cuda = args.device.startswith("cuda")
    facts["hardware"] = (
        torch.cuda.get_device_name() if is_cuda else f"{args.threads} CPU thread{'s'[: args.threads - 1]}"
    )
    facts["torch"] = torch.__version__
    facts["commit"] = commit()
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts, indent=2) + "\n")


def _differing(begun: dict[str, Any], recipe: dict[str, Any], where: str) -> list[str]:
    """The keys in which a recipe differs from the one that a run was started with.

    The run may come from an earlier version of spectok; settings that this version does not have are not compared.
    """
    codec = json.loads(json.dumps(dataclasses.asdict(CodecConfig.from_json(begun["codec"], where))))

    def kept(before: Any, now: Any) -> Any:
        return {key: before[key] for key in now if key in before} if isinstance(now, dict) else before

    return [key for key, now in recipe.items() if kept((begun | {"codec": codec})[key], now) != now]


def run(args: argparse.Namespace) -> int:
    """Build the trainer from the arguments and fit; returns the number of the signal that stopped it, or 0."""
    config = with_codec_of_teacher(load_recipe(args.recipe, args.set, args.further), args)
    train, valid = Corpus(args.data, "train"), Corpus(args.data, "valid")
    compute = Compute(distributed.start(args.device), args.bf16, args.compile, args.workers)
    kind = EncoderTrainer if config.is_robust else Trainer
    trainer = kind(config, train, Budget(args.steps, args.minutes), compute)
    begun = (args.out / "checkpoint.safetensors").exists()
    require(args.resume or not begun, f"{args.out} already holds a run; add --resume to continue it")
    require(not args.resume or begun, f"{args.out} holds no run to continue")
    require(not args.resume or not args.init, "--init starts a run and --resume continues one; give only one of them")
    require(
        config.trained == "all" or bool(args.init) or args.resume,
        "this recipe trains a part of a model, so it needs that model in --init",
    )
    require(
        not args.encoder or (config.is_robust and bool(args.init)),
        "--encoder goes with --init and a recipe that trains a robust encoder",
    )
    if distributed.rank() == 0:
        record(args, config, train)
    if args.resume:
        trainer.resume(args.out)
    elif args.init:
        model = pretrained.find(args.init)
        # If the model is the release/ of a run, its discriminators are in the checkpoint beside it.
        earlier = model.weights.parent.parent / "checkpoint.safetensors"
        discriminators = with_prefix(load_tensors(earlier)[0], "discriminators.") if earlier.exists() else None
        trainer.start_from(initial_weights(model, trainer.codec), discriminators)
        if isinstance(trainer, EncoderTrainer) and args.encoder:
            trainer.start_encoder_from(read_weights(pretrained.find(args.encoder)))
    macs = sum(trainer.codec.macs_per_second().values())
    print(f"{config.codec.name}: {trainer.codec.num_parameters:,} parameters, {macs / 1e6:.0f} MMAC/s", flush=True)
    return fit(trainer, valid, args.out, args.quiet, time.process_time if args.cpu_clock else time.monotonic)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a TOML file in recipes/")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--minutes", type=float, help="budget in minutes of training, including the time before --resume"
    )
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument(
        "--with",
        type=Path,
        action="append",
        default=[],
        dest="further",
        metavar="FILE",
        help="a TOML file in recipes/stages/, whose values replace those of the recipe; may be repeated",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run folder")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from a released model, or from the folder of one; RUN/release brings the discriminators of RUN",
    )
    parser.add_argument(
        "--encoder",
        metavar="MODEL",
        help="release of an earlier run from which a robust encoder starts; of another codec, its denoiser only",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default: %(default)s, which is the most efficient)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the codec with torch.compile: takes minutes at the start, then steps are faster",
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches (default: none)")
    parser.add_argument(
        "--cpu-clock", action="store_true", help="count --minutes in CPU time, which other processes do not affect"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        stopped = run(args)
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.stop()
    if stopped:
        print(f"train: stopped by signal {stopped}; --resume continues from the checkpoint", file=sys.stderr)
    return 128 + stopped if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
