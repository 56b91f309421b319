"""Bulk tokenisation on a local Ray with two workers."""

import os
from pathlib import Path

import numpy as np
import pytest
from bulk_runs import MODEL, contents, write_corpus
from numpy.typing import NDArray

from spectok.bulk import cluster
from spectok.bulk.run import tokenize
from spectok.cli.main import main


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # of an attempt to start Ray
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # of a default of its own
def test_two_workers_of_ray_write_the_bytes_that_one_process_writes(
    tmp_path: Path,
    speech: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that its value of before is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(cluster, "STARTS", 8)  # the machine of the tests may have much other work
    corpus = write_corpus(tmp_path / "corpus", speech)
    tokenize(corpus, tmp_path / "one", model=MODEL, jobs=0, shard_recordings=2)
    command = ["tokenize", str(corpus), "--out", str(tmp_path / "ray"), "--model", MODEL, "--shard-recordings", "2"]
    token = Path.home() / ".ray" / "auth_token"
    had_token = token.exists()
    assert main([*command, "--ray", "--jobs", "2"]) == 2  # one of the files is not audio
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    rejected = tmp_path / "ray" / "rejected.parquet"
    sentence = f"spectok: 1 of 8 recordings were rejected; the reasons are in {rejected}\n"
    assert capfd.readouterr().err == sentence
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert token.exists() == had_token
