"""Two ranks with half of the batch each get the result of one rank with all of it; in float64, to 1e-16 per step."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import (
    ADVERSARIAL,
    ADVERSARIAL_OVERRIDES,
    DISCRIMINATOR,
    FSQ,
    OVERRIDES,
    VQ,
    distances,
    recipe,
    state,
    trainer_of,
)
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes

from spectok.config import ExcitationConfig
from spectok.training import distributed
from spectok.training.augment import Batch
from spectok.training.recipe import TrainConfig
from spectok.weights import load_tensors, save_tensors

ROOT = Path(__file__).parent.parent
LOSS = dataclasses.replace(ADVERSARIAL, adversarial_start=0.0)
FIXED = dataclasses.replace(LOSS, balance=False)
ALL_ASKED = dataclasses.replace(DISCRIMINATOR, periods_asked=0)
KINDS = {  # the pool is full after the first of three steps, and entries that are used less than 40 times expire
    "fsq": recipe(FSQ, LOSS, batch_size=4),
    "vq": recipe(dataclasses.replace(VQ, expiry_threshold=40.0), LOSS, batch_size=4),
    "fixed weights": recipe(
        FSQ, FIXED, batch_size=4, discriminator=dataclasses.replace(DISCRIMINATOR, periods_asked=0)
    ),
}

SIGNS = dataclasses.replace(KINDS["fsq"].codec, excitation=ExcitationConfig(kind="signs", above=2000.0))
DIVIDED = KINDS | {  # a stream that is reset draws random signs, and the other rank does not
    "signs": dataclasses.replace(KINDS["fsq"], codec=SIGNS, reset_share=0.5)
}


def train(config: TrainConfig, prepared: Path, path: Path) -> None:
    """Run three steps in float64; save everything that they changed, and the norms of the gradients."""
    trainer = trainer_of(prepared, config, steps=3)
    trainer.averaged.double()
    trainer.start_from(trainer.codec.double().state_dict())  # one parameter ignores the default dtype
    batch = trainer._next_batch
    trainer._next_batch = lambda: Batch(*(part.double() for part in batch()))  # type: ignore[method-assign]
    tensors: dict[str, Tensor] = {}
    for step in range(3):
        values = trainer.train_step()
        tensors |= {f"{step}.{name}": torch.tensor(value) for name, value in values.items() if name.endswith("_norm")}
    save_tensors(path, tensors | state(trainer), {})


def be_a_rank(rank: int, port: int, prepared: Path, folder: Path) -> None:
    """One of two processes as started by `torchrun`, with the store of the process that started it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    # The trainer computes its losses in float32.
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    assert distributed.start("cpu") == "cpu"
    assert (distributed.rank(), distributed.world()) == (rank, 2)
    for name, config in DIVIDED.items():
        train(config, prepared, folder / f"{name}-{rank}")
    together = {
        "agreed": torch.tensor(distributed.agree([float(rank), -float(rank), 5.0], "cpu")),
        "gathered": distributed.gather(torch.tensor([[1, 2], [3, 4]]) + 10 * rank),
        "mean": distributed.mean(torch.tensor([1.0 + rank])),
    }
    save_tensors(folder / f"together-{rank}", together, {})
    distributed.stop()
    assert (distributed.rank(), distributed.world()) == (0, 1)
    for name, config in KINDS.items():
        if rank == 0:
            train(config, prepared, folder / f"{name}-alone")
        else:
            half = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=2))
            train(half, prepared, folder / f"{name}-half")


@pytest.fixture(scope="module")
def folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two ranks, of one rank, and of one rank with half of the batch."""
    folder = tmp_path_factory.mktemp("ranks")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # takes a free port
    ranks = start_processes(be_a_rank, (store.port, prepared, folder), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + 400
    try:
        while not ranks.join(timeout=1):
            assert time.monotonic() < deadline
    finally:
        for process in ranks.processes:
            process.kill()
    return folder


def learned(folder: Path, name: str) -> dict[str, Tensor]:
    return load_tensors(folder / name)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_what_one_does(folder: Path, kind: str) -> None:
    alone, rank = learned(folder, f"{kind}-alone"), learned(folder, f"{kind}-0")
    assert {tensor.dtype for name, tensor in alone.items() if "weight" in name} == {torch.float64}
    parts = {name.split(".")[0] for name in alone}
    assert parts >= {"codec", "average", "optimizer", "balance", "discriminators", "discriminator_optimizer"}
    assert {f"balance.{name}" for name in ("adversarial", "feature", "reconstruction")} <= alone.keys()
    # Rounding errors of 1e-16 grow to 1e-13 in three steps, and to 2e-11 where gradients cancel and AdamW divides by
    # its epsilon of 1e-8.
    assert {name: apart for name, apart in distances(rank, alone).items() if apart > 1e-9} == {}


@pytest.mark.parametrize("kind", DIVIDED)
def test_two_ranks_are_bit_for_bit_the_same(folder: Path, kind: str) -> None:
    first, second = learned(folder, f"{kind}-0"), learned(folder, f"{kind}-1")
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_batch_gives_another_result(folder: Path, kind: str) -> None:
    alone, half = learned(folder, f"{kind}-alone"), learned(folder, f"{kind}-half")
    alone, half = ({name: x for name, x in of.items() if "streams." not in name} for of in (alone, half))
    apart = distances(half, alone)
    for part in ("codec.", "discriminators.", "optimizer.", "balance."):
        assert max(distance for name, distance in apart.items() if name.startswith(part)) > 5e-3


def test_part_of_the_codebook_was_replaced(folder: Path) -> None:
    alone = learned(folder, "vq-alone")
    book = {name: alone[f"codec.quantizer.codebook.{name}"] for name in ("initted", "embed", "embed_avg")}
    assert bool(book["initted"])
    # A new entry equals its average bit for bit; one that has moved is its average divided by its count.
    assert bool((book["embed"] == book["embed_avg"]).all(-1).any())


def test_agree_takes_the_maximum_and_gather_keeps_the_order(folder: Path) -> None:
    for rank in range(2):
        together = learned(folder, f"together-{rank}")
        assert together["agreed"].tolist() == [1.0, 0.0, 5.0]
        assert together["gathered"].tolist() == [[1, 2], [3, 4], [11, 12], [13, 14]]
        assert together["mean"].tolist() == [1.5]


def test_a_single_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.start("cpu") == "cpu"
    assert (distributed.rank(), distributed.world()) == (0, 1)
    tensor = torch.tensor([1.0, 2.0])
    distributed.mean_([tensor])
    assert tensor.tolist() == distributed.mean(tensor).tolist() == distributed.gather(tensor).tolist() == [1.0, 2.0]
    assert distributed.agree([3.0], "cpu") == [3.0]
    distributed.stop()


def test_torchrun_trains(prepared: Path, tmp_path: Path) -> None:
    """Two processes train one run."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "recipes/train.py"]
    command += ["recipes/spectok-16k-4k.toml", "--data", str(prepared), "--out", str(run), "--steps=2", "--quiet"]
    done = subprocess.run(
        [*command, "--device=cpu", *OVERRIDES, *ADVERSARIAL_OVERRIDES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(entry["kind"], entry["step"]) for entry in entries] == [("train", 2), ("valid", 2)]
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert len(json.loads((run / "run.json").read_text(encoding="utf-8"))["commands"]) == 1
    tensors, facts = load_tensors(run / "checkpoint.safetensors")
    assert facts["step"] == "2"
    assert [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())] == []
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.safetensors",
        "log.jsonl",
        "release",
        "run.json",
        "samples",
        "tensorboard",
    ]
