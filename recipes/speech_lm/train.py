"""Train a language model on what `spectok tokenize` has written to TOKENS/train, and choose it on TOKENS/valid.

    python recipes/speech_lm/train.py TOKENS --out RUN --minutes 60 --bf16
    torchrun --nproc-per-node 8 recipes/speech_lm/train.py TOKENS --out RUN --minutes 20 --bf16 --device cuda

RUN/model is the model with the fewest bits per code on the validation split so far, in the format of Transformers.
RUN/log.jsonl has the losses, RUN/run.json the settings. Run it again with `--resume` to continue a stopped run. After
SIGTERM or Ctrl-C it finishes the current step, writes a checkpoint and stops. Under `torchrun` each process reads its
own batches, and their gradients are averaged.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.speech_lm.data import Recording, collate, epoch_of_batches, read_tokens
from recipes.speech_lm.model import Ids, code_bits, network, split
from spectok.errors import InputError, require
from spectok.evaluation.provenance import commit, provenance
from spectok.files import write_text
from spectok.tokenizer import Tokenizer
from spectok.training import distributed
from spectok.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix
from spectok.weights import load_tensors, save_tensors

WARMUP = 0.03  # of the budget
LEAST_RATE = 0.05  # of the learning rate, at the end of the budget
MAX_NORM = 1.0  # of the gradient
LOG_STEPS = 20
SETTINGS = ("width", "layers", "heads", "context", "positions", "learning_rate", "weight_decay", "seed")
CHECKPOINT = "checkpoint.safetensors"


class Run:
    """A run: the model, the optimiser, and the place in the data.

    Args:
        args: the command line.
        device: of this process.
    """

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        self.args, self.device, self.out = args, device, args.out
        self.train, facts = read_tokens(args.tokens / "train")
        valid, others = read_tokens(args.tokens / "valid")
        same = facts["model"] == others["model"]
        require(same, f"the training tokens are of {facts['model']}, but those for validation are of {others['model']}")
        self.valid: list[Recording] = [recording for recording in valid if len(recording.codes)]
        tokenizer = Tokenizer.from_pretrained(facts["model"])
        self.frame_rate = tokenizer.frame_rate
        sizes = [getattr(args, name) for name in ("width", "layers", "heads", "context", "seed")]
        self.model = network(tokenizer, *sizes)
        torch.nn.Module.to(self.model, device)  # the method of Transformers has no type
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), args.learning_rate, betas=(0.9, 0.95), weight_decay=args.weight_decay
        )
        self.step, self.epoch, self.place, self.ids = 0, 0, 0, 0
        self.seconds, self.best = 0.0, math.inf
        self.batches: list[list[Ids]] = []

    @property
    def progress(self) -> float:
        """The part of the budget that is used."""
        steps = self.step / self.args.steps if self.args.steps else 0.0
        return max(steps, self.seconds / (60 * self.args.minutes) if self.args.minutes else 0.0)

    def next_batch(self) -> list[Ids]:
        """The next batch of this process. All processes have the same list of them, and take turns."""
        world = distributed.world()
        if not self.batches or self.place + world > len(self.batches):
            if self.batches:
                self.epoch, self.place = self.epoch + 1, 0
            self.batches = self._epoch()
            self.batches += self.batches[: -len(self.batches) % world]
        self.place += world
        return self.batches[self.place - world + distributed.rank()]

    def _epoch(self) -> list[list[Ids]]:
        generator = np.random.default_rng([self.args.seed, self.epoch])
        return epoch_of_batches(self.train, self.args.context, self.args.positions, generator)

    def train_step(self) -> tuple[float, float]:
        """One step of the optimiser: the mean loss of an id in nats, and the norm of the gradient."""
        used = min(1.0, self.progress)
        rate = min(1.0, (used + 1e-3) / WARMUP) * (LEAST_RATE + (1 - LEAST_RATE) * (1 + math.cos(math.pi * used)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.args.learning_rate
        batch = self.next_batch()
        inputs, labels = collate(batch, self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.args.bf16):
            loss: Tensor = self.model(input_ids=inputs, labels=labels).loss
        loss.backward()
        parameters = list(self.model.parameters())
        distributed.mean_(parameter.grad for parameter in parameters if parameter.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ids += sum(map(len, batch)) * distributed.world()
        return float(loss.detach()), float(norm)

    def validate(self) -> dict[str, Any]:
        """Bits per code on the validation split; the best model so far is written."""
        self.model.eval()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.args.bf16):
            bits = code_bits(self.model, [split(recording.codes) for recording in self.valid])
        self.model.train()
        per_code = float(bits.sum() / sum(len(recording.codes) for recording in self.valid))
        if per_code < self.best:
            self.best = per_code
            self.model.save_pretrained(self.out / "model")
        return {"bits_per_code": per_code, "bits_per_second": per_code * self.frame_rate, "perplexity": 2**per_code}

    def log(self, kind: str, **values: Any) -> None:
        """Add an entry to the log, and print it."""
        entry = {
            "kind": kind,
            "step": self.step,
            "epoch": self.epoch,
            "ids": self.ids,
            "seconds": self.seconds,
            **values,
        }
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")
        if not self.args.quiet:
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{kind}: step {self.step}, {self.seconds / 60:.1f} minutes, epoch {self.epoch}: {told}", flush=True)

    def save(self) -> None:
        """Write the checkpoint, from which `restore` continues."""
        tensors = {f"model.{name}": tensor.detach() for name, tensor in self.model.named_parameters()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        counts = {name: getattr(self, name) for name in ("step", "epoch", "place", "ids", "seconds", "best")}
        save_tensors(self.out / CHECKPOINT, tensors, {name: repr(value) for name, value in counts.items()})

    def restore(self) -> None:
        """Continue from the checkpoint."""
        tensors, counts = load_tensors(self.out / CHECKPOINT)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        restore_optimizer(self.optimizer, with_prefix(tensors, "optimizer."))
        for name, text in counts.items():
            setattr(self, name, float(text) if name in ("seconds", "best") else int(text))
        self.batches = self._epoch()
        self.batches += self.batches[: -len(self.batches) % distributed.world()]


@contextmanager
def signals() -> Iterator[list[int]]:
    """The numbers of SIGTERM and SIGINT that arrive within the `with` statement, and do not end the process there."""
    arrived: list[int] = []
    before = [
        (number, signal.signal(number, lambda number, frame: arrived.append(number)))
        for number in (signal.SIGTERM, signal.SIGINT)
    ]
    yield arrived
    for number, handler in before:
        signal.signal(number, handler)


def record(run: Run) -> None:
    """Write `run.json`. A resumed run must have the same settings."""
    args, path = run.args, run.out / "run.json"
    settings = {name: getattr(args, name) for name in SETTINGS}
    if args.resume:
        known = json.loads(path.read_text(encoding="utf-8"))["settings"]
        differing = [name for name in SETTINGS if known[name] != settings[name]]
        require(not differing, f"{run.out} was started with other settings: {', '.join(differing)} differ")
        return
    codes = sum(len(recording.codes) for recording in run.train)
    facts = {
        "settings": settings,
        "minutes": args.minutes,
        "steps": args.steps,
        "bf16": args.bf16,
        "threads": args.threads,
        "processes": distributed.world(),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "recordings": len(run.train),
        "with_text": sum(bool(recording.text) for recording in run.train),
        "hours": codes / run.frame_rate / 3600,
        "codes": codes,
        "device": run.device,
        "machine": provenance(None, args.threads)["machine"],
        "commit": commit(),
    }
    write_text(path, json.dumps(facts, indent=1) + "\n")


def fit(run: Run, arrived: Sequence[int]) -> int:
    """Train until the budget is used or a signal has arrived; returns the number of the signal, or 0."""
    leads, losses, stopped = distributed.rank() == 0, [], 0
    last_valid, start = run.seconds, time.monotonic() - run.seconds
    while run.progress < 1 and not stopped:
        losses.append(run.train_step())
        used = [time.monotonic() - start, float(max(arrived, default=0))]
        run.seconds, number = distributed.agree(used, run.device)
        stopped = int(number)
        if leads and run.step % LOG_STEPS == 0:
            loss, norm = np.mean(losses, axis=0)
            run.log("train", loss=float(loss), gradient_norm=float(norm))
            losses.clear()
        if run.seconds - last_valid >= 60 * run.args.valid_minutes or run.progress >= 1 or stopped:
            last_valid = run.seconds
            if leads:
                run.log("valid", **run.validate())
                run.save()
    return stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="folder with the folders train and valid")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument("--minutes", type=float, help="budget, including the time before --resume")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--width", type=int, default=256, help="of the hidden states (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="of the attention (default: %(default)s)")
    parser.add_argument("--context", type=int, default=2048, help="positions, 100 a second (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=2048, help="of a batch (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="the highest (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--valid-minutes", type=float, default=5.0, help="between validations (default: %(default)g)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        require(bool(args.minutes or args.steps), "give a budget: --minutes or --steps")
        require(min(args.minutes or 1, args.steps or 1) > 0, "the budget must be positive")
        begun = (args.out / CHECKPOINT).exists()
        require(args.resume or not begun, f"{args.out} already holds a run; add --resume to continue it")
        require(not args.resume or begun, f"{args.out} holds no run to continue")
        run = Run(args, distributed.start(args.device))
        args.out.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            record(run)
        if args.resume:
            run.restore()
        with signals() as arrived:
            stopped = fit(run, arrived)
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
