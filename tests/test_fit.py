"""The training loop: when it ends, what it logs and saves, and how it handles signals."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ADVERSARIAL, ADVERSARIAL_OVERRIDES, OVERRIDES, VQ, bad_batch, differing, recipe, state, trainer_of
from torch import Tensor

from recipes import train as train_recipe
from spectok.training import loop
from spectok.training.augment import Batch
from spectok.training.corpus import Corpus
from spectok.training.recipe import Budget
from spectok.training.trainer import Trainer
from spectok.weights import load_tensors

ROOT = Path(__file__).parent.parent


def fitted(prepared: Path, folder: Path, trainer: Trainer, **options: Any) -> int:
    return loop.fit(trainer, Corpus(prepared, "valid"), folder, quiet=True, **options)


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    return load_tensors(folder / "checkpoint.safetensors")


def on_step(trainer: Trainer, step: int, action: Callable[[], object]) -> None:
    """Do something in the middle of a step."""
    whole = trainer.train_step

    def train_step() -> dict[str, float]:
        values = whole()
        if trainer.step == step:
            action()
        return values

    trainer.train_step = train_step  # type: ignore[method-assign]


def test_minutes_count_the_time_of_steps(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that advances by one second each time it is read, so that every step takes one."""
    config = dataclasses.replace(recipe(), checkpoint_minutes=2 / 60, validate_minutes=3 / 60)
    monkeypatch.setattr(loop, "LOG_STEPS", 5)

    def run(trainer: Trainer, minutes: float) -> tuple[list[int], list[tuple[str, int, float]]]:
        saved, save = [], trainer.save

        def counted(folder: Path) -> None:
            saved.append(trainer.step)
            save(folder)

        trainer.budget, trainer.save = Budget(minutes=minutes), counted  # type: ignore[method-assign]
        assert fitted(prepared, tmp_path, trainer, clock=map(float, itertools.count()).__next__) == 0
        assert trainer.progress == 1.0
        return saved, [(entry["kind"], entry["step"], entry["seconds"]) for entry in entries(tmp_path)]

    first = trainer_of(prepared, config)
    saved, logged = run(first, minutes=0.1)
    assert (first.step, first.seconds, saved) == (6, 6.0, [2, 4, 6])
    assert logged == [("valid", 3, 3.0), ("train", 5, 5.0), ("train", 6, 6.0), ("valid", 6, 6.0)]
    assert checkpoint(tmp_path)[1] == {"step": "6", "seconds": "6.0"}

    again = trainer_of(prepared, config)
    again.resume(tmp_path)
    saved, more = run(again, minutes=0.15)
    assert (again.step, again.seconds, saved) == (9, 9.0, [8, 9])  # the time before the resumption counts
    assert more == [*logged, ("train", 9, 9.0), ("valid", 9, 9.0)]


def test_running_means_are_logged(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, reported = trainer_of(prepared, recipe(loss=ADVERSARIAL)), []
    step = trainer.train_step

    def train_step() -> dict[str, float]:
        reported.append(step())
        return reported[-1]

    monkeypatch.setattr(trainer, "train_step", train_step)
    assert fitted(prepared, tmp_path, trainer) == 0
    expected: dict[str, float] = {}
    for values in reported:
        for name, value in values.items():
            expected[name] = 0.98 * expected.get(name, value) + 0.02 * value
    expected["learning_rate"] = reported[-1]["learning_rate"]
    logged = {name: value for name, value in entries(tmp_path)[0].items() if name in expected}
    assert logged == pytest.approx(expected, rel=1e-4)  # five digits are written
    assert 0 <= entries(tmp_path)[0]["waiting"] <= 1


@pytest.mark.parametrize("step", [0, 2])
def test_a_bad_batch_does_not_end_the_run(prepared: Path, tmp_path: Path, step: int) -> None:
    trainer = trainer_of(prepared, recipe(loss=dataclasses.replace(ADVERSARIAL, adversarial_start=0.0)), steps=4)
    good = trainer._next_batch

    def batch() -> Batch:
        return bad_batch(trainer) if trainer.step == step else good()

    trainer._next_batch = batch  # type: ignore[method-assign]
    assert fitted(prepared, tmp_path, trainer) == 0
    (train, _) = entries(tmp_path)
    assert [name for name, value in train.items() if value is None] == []
    assert 0 < train["skipped"] < 1
    tensors, _ = checkpoint(tmp_path)
    assert [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_step_is_finished_and_saved(prepared: Path, tmp_path: Path, number: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    trainer = trainer_of(prepared, recipe(VQ, ADVERSARIAL))
    on_step(trainer, 4, lambda: signal.raise_signal(number))
    assert fitted(prepared, tmp_path, trainer) == number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert trainer.step == 4
    assert [(entry["kind"], entry["step"]) for entry in entries(tmp_path)] == [("train", 4)]
    assert checkpoint(tmp_path)[1] == {"step": "4", "seconds": repr(trainer.seconds)}

    straight, resumed = trainer_of(prepared, trainer.config), trainer_of(prepared, trainer.config)
    resumed.resume(tmp_path)
    assert fitted(prepared, tmp_path, resumed) == fitted(prepared, tmp_path / "straight", straight) == 0
    assert resumed.step == straight.step == 6
    assert differing(state(resumed), state(straight)) == []
    assert differing(checkpoint(tmp_path)[0], checkpoint(tmp_path / "straight")[0]) == []


def test_a_run_stopped_by_sigterm_can_be_resumed(prepared: Path, tmp_path: Path) -> None:
    """The signal goes to all processes, as from a scheduler, also to those that prepare batches."""
    run, straight = tmp_path / "run", tmp_path / "straight"
    command = [
        "recipes/spectok-16k-4k.toml",
        "--data",
        str(prepared),
        "--quiet",
        "--device=cpu",
        *OVERRIDES,
        *ADVERSARIAL_OVERRIDES,
    ]
    # The budget affects only the end, not the learning rate or the pitch; a checkpoint is written at every step.
    command += ["--set=optim.final_share=1.0", "--set=checkpoint_minutes=1e-6", "--set=tracked_pitch=[0.0,0.0]"]
    process = subprocess.Popen(
        [sys.executable, "recipes/train.py", *command, f"--out={run}", "--steps=1000000", "--workers=1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (run / "checkpoint.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, said) == (143, "train: stopped by signal 15; --resume continues from the checkpoint\n")
    step = int(checkpoint(run)[1]["step"])
    assert entries(run)[-1]["step"] == step > 0

    assert train_recipe.main([*command, f"--out={run}", f"--steps={step + 2}", "--resume"]) == 0
    assert train_recipe.main([*command, f"--out={straight}", f"--steps={step + 2}"]) == 0
    (first, facts), (second, _) = checkpoint(run), checkpoint(straight)
    assert facts["step"] == str(step + 2)
    assert differing(first, second) == []
    assert math.isfinite(entries(run)[-1]["code_entropy"])
