"""Measure the steps per second of training for several variants, one after another.

    python recipes/speed.py --data PREPARED [--device cuda]

Writes recipes/speed.json, from which recipes/cards.py makes the table in RESULTS.md. Run it on an idle computer, and
compare the ratios to the first variant.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch

from spectok.evaluation.provenance import write_results
from spectok.training.corpus import Corpus
from spectok.training.discriminators import DiscriminatorConfig
from spectok.training.losses import LossConfig
from spectok.training.recipe import Budget, Compute, TrainConfig
from spectok.training.trainer import Trainer

HERE = Path(__file__).parent
ADVERSARIAL = LossConfig(adversarial_weight=0.5, feature_weight=0.5)
SMALL = DiscriminatorConfig()
DRAWN = DiscriminatorConfig(periods_asked=2, windows_asked=1)
PAPERS = DiscriminatorConfig(period_channels=(32, 128, 512, 1024, 1024), band_channels=32)


def variants(device: str) -> dict[str, tuple[TrainConfig, Compute]]:
    """The variants by name; the first is the baseline."""
    plain, eager = TrainConfig(), Compute(device)
    adversarial = dataclasses.replace(plain, loss=ADVERSARIAL)
    return {
        "float32, no discriminators": (plain, eager),
        "bf16 autocast": (plain, dataclasses.replace(eager, bf16=True)),
        "torch.compile": (plain, dataclasses.replace(eager, compile=True)),
        "two worker processes": (plain, dataclasses.replace(eager, workers=2)),
        "small discriminators, all used": (dataclasses.replace(adversarial, discriminator=SMALL), eager),
        "small discriminators, 2 periods and 1 window used": (
            dataclasses.replace(adversarial, discriminator=DRAWN),
            eager,
        ),
        "the papers' discriminators, all used": (dataclasses.replace(adversarial, discriminator=PAPERS), eager),
    }


def measure(config: TrainConfig, compute: Compute, corpus: Corpus, seconds: float) -> dict[str, float]:
    """Seconds of the first step; after three, steps per second and the share of time spent waiting for batches."""
    trainer = Trainer(config, corpus, Budget(steps=10**9), compute)
    began = time.perf_counter()
    trainer.train_step()
    first = time.perf_counter() - began
    for _ in range(2):
        trainer.train_step()
    waited, began, steps = trainer.waited, time.perf_counter(), 0
    while steps < 1 or time.perf_counter() - began < seconds:
        trainer.train_step()  # returns losses as numbers, so the device has finished
        steps += 1
    passed = time.perf_counter() - began
    share = (trainer.waited - waited) / passed
    trainer.close()
    return {"first_seconds": first, "steps_per_second": steps / passed, "waiting": share}


def main() -> int:
    """Parse the arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="per variant (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = Corpus(args.data, "train")
    rows = []
    for name, (config, compute) in variants(args.device).items():
        rows.append({"name": name, **measure(config, compute, corpus, args.seconds)})
        print(f"{name}: {rows[-1]['steps_per_second']:.2f} steps a second", flush=True)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    results = {"batch_size": TrainConfig().data.batch_size, "variants": rows}
    write_results(HERE / "speed.json", results, weights=None, threads=args.threads, gpu=gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
