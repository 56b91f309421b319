"""`fit`: train a `Trainer` until its budget is spent or a signal stops it; log, validate and save on the way."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from spectok.errors import require
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.training import distributed
from spectok.training.corpus import Corpus
from spectok.training.log import RunLog
from spectok.training.losses import Losses
from spectok.training.trainer import Trainer
from spectok.training.validation import validate

LOG_STEPS = 100


def fit(
    trainer: Trainer,
    valid: Corpus,
    folder: Path,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Train until the budget is spent; log, validate and checkpoint on the way and at the end.

    On SIGTERM or SIGINT the current step is finished and the run is saved. In a distributed run, rank 0 writes, and all
    ranks use the clock of the slowest one.

    Args:
        trainer: a new or resumed one, or one started from released weights.
        valid: the validation split.
        folder: the run folder; gets log.jsonl, tensorboard/, checkpoint.safetensors, release/ and samples/.
        quiet: whether to hide the progress bar.
        clock: counts the seconds of the budget; `time.process_time` counts CPU time, which does not depend on other
            processes.

    Returns:
        The number of the signal that stopped the run, or 0.
    """
    is_first = distributed.rank() == 0
    config = trainer.config
    rate = config.codec.sample_rate
    # Checked here and not in `validate`, because the first validation comes after minutes of training.
    require(rate == SAMPLE_RATE, f"validation is at {SAMPLE_RATE} Hz, so a codec of {rate} Hz cannot be trained")
    next_save = trainer.seconds + 60 * config.checkpoint_minutes
    next_validation = trainer.seconds + 60 * config.validate_minutes
    averages = _Averages()
    log = RunLog(folder, config.codec, trainer.step) if is_first else None
    losses = Losses(config.loss, config.codec.sample_rate, config.codec.excitation.phase_below)
    bar = tqdm(total=100.0, disable=quiet or not is_first, unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}")
    with _signals() as received, bar:
        stopped = 0
        while trainer.progress < 1 and not stopped:
            began = clock()
            values = trainer.train_step()
            facts = [trainer.seconds + clock() - began, float(received[0] if received else 0)]
            trainer.seconds, stop = distributed.agree(facts, trainer.compute.device)
            stopped = int(stop)
            averages.add(values)
            ends = trainer.progress >= 1 or stopped > 0
            if log and (trainer.step % LOG_STEPS == 0 or ends):
                log.scalars("train", trainer.step, trainer.seconds, {**averages.values, "waiting": _waiting(trainer)})
            bar.set_postfix_str(
                f"step {trainer.step}, loss {averages.values.get('total', math.nan):.3f}", refresh=False
            )
            bar.update(100 * trainer.progress - bar.n)
            if log and (trainer.seconds >= next_validation or trainer.progress >= 1):
                log.validation(trainer.step, trainer.seconds, validate(trainer.averaged_codec(), valid, losses))
                next_validation += 60 * config.validate_minutes
            if trainer.seconds >= next_save or ends:  # last, so that a run that ends has its last validation
                trainer.save(folder)
                next_save += 60 * config.checkpoint_minutes
    trainer.close()
    if log:
        log.close()
    return stopped


class _Averages:
    """Running means of the values of the steps, without values that are not finite."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self.values[name] = 0.98 * self.values.get(name, value) + 0.02 * value
        self.values["learning_rate"] = values["learning_rate"]


def _waiting(trainer: Trainer) -> float:
    """The share of this process's training time that was spent waiting for batches."""
    return trainer.waited / max(trainer.seconds - trainer.seconds_before, 1e-9)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT, instead of ending the process."""
    received: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, collect) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
