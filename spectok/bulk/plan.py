"""Decides which recordings go into which shard, before any audio is encoded.

The plan is written to the folder of the output: `plan.parquet` has one row group for each shard, and `plan.json`, which
is written last, has the settings and a digest of both. Any process that sees this folder can therefore work on any
shard, and needs memory for the recordings of one shard only.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spectok.bulk.opening import Opener
from spectok.bulk.sources import Recording, Source, list_recordings
from spectok.errors import InputError, require
from spectok.files import atomic_write, why, write_text
from spectok.tokenizer import Tokenizer

FORMAT = 1  # of the plan and the shards; another one makes another plan
PLAN, SETTINGS = "plan.parquet", "plan.json"
COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.int32()),
        ("path", pa.binary()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("fault", pa.string()),
    ]
)


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        folder: absolute, of the output.
        sources: of the recordings.
        model: name of a released model, or the absolute path of a folder.
        engine: "onnx" or "torch"; None for the default.
        device: of the engine.
        batch: number of recordings that are encoded together.
        digest: 16 hexadecimal digits that identify the recordings, their order, their shards, the weights and the
            settings. Where the sources and the output lie does not matter.
        num_shards: number of shards.
        num_recordings: number of recordings in all shards.
    """

    folder: str
    sources: tuple[Source, ...]
    model: str
    engine: str | None
    device: str
    batch: int
    digest: str
    num_shards: int
    num_recordings: int

    def recordings(self, index: int) -> list[Recording]:
        """The recordings of a shard, in their order."""
        with pq.ParquetFile(Path(self.folder) / PLAN) as file:
            rows = file.read_row_group(index, use_threads=False).to_pylist()
        return [Recording(**row) for row in rows]

    def shard(self, index: int) -> Path:
        """The path of a shard."""
        return Path(self.folder) / f"tokens-{index:06d}.parquet"


def make_plan(
    sources: Sequence[Source],
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    model: str,
    engine: str | None = None,
    device: str = "cpu",
    batch: int,
    shard_recordings: int,
    shard_hours: float | None = None,
) -> Plan:
    """Find the recordings, assign them to shards, and write the plan into a folder, unless the same one is there.

    Args:
        sources: to be searched.
        folder: of the output; it is made if it does not exist.
        tokenizer: that will encode.
        model: how other processes load it, as for `Plan`.
        engine: likewise.
        device: likewise.
        batch: number of recordings that are encoded together.
        shard_recordings: number of recordings of a shard.
        shard_hours: end a shard earlier, when the headers of its recordings claim so many hours of audio. Every header
            is read for it.

    Raises:
        InputError: a source cannot be read, there are no recordings, two have the same id, or the folder cannot be
            written or contains another plan.
    """
    folder = Path(folder).absolute()
    settings: dict[str, Any] = {
        "format": FORMAT,
        "model": tokenizer.config.name,
        "weight_hash": tokenizer.weight_hash,
        "engine": tokenizer.engine.name,
        "batch": batch,
        "sources": [source.kind for source in sources],
    }
    digest, count, shards = hashlib.sha256(json.dumps(settings).encode()), 0, 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {why(error)}") from error
    with atomic_write(folder / PLAN) as temporary:
        with pq.ParquetWriter(temporary, COLUMNS, compression="zstd") as writer:
            found = (
                recording for number, source in enumerate(sources) for recording in list_recordings(source, number)
            )
            for shard in _shards(found, sources, shard_recordings, shard_hours):
                for row in shard:
                    digest.update(json.dumps([shards, *row[:2], row.path.hex(), *row[3:]]).encode())
                table = pa.Table.from_pylist([row._asdict() for row in shard], COLUMNS)
                writer.write_table(table, row_group_size=len(shard))
                count, shards = count + len(shard), shards + 1
        require(count > 0, "the sources hold no recordings")
        _check_ids(temporary)
        settings |= {"digest": digest.hexdigest()[:16], "shards": shards, "recordings": count}
        _check_folder(folder, settings["digest"])
    write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    return Plan(str(folder), tuple(sources), model, engine, device, batch, settings["digest"], shards, count)


def _shards(
    found: Iterable[Recording], sources: Sequence[Source], most: int, hours: float | None
) -> Iterator[list[Recording]]:
    """The recordings in groups of `most`, or fewer where they reach the hours."""
    shard: list[Recording] = []
    seconds = 0.0
    with Opener(sources) as opener:
        for recording in found:
            shard.append(recording)
            seconds += 0 if hours is None else _claimed_seconds(opener, recording)
            if len(shard) == most or (hours is not None and seconds >= 3600 * hours):
                yield shard
                shard, seconds = [], 0.0
    if shard:
        yield shard


def _claimed_seconds(opener: Opener, recording: Recording) -> float:
    """The length of a recording by its header in seconds; 0 if it does not say it, or cannot be read."""
    try:
        with opener.open(recording) as reader:
            return (reader.claimed_samples or 0) / reader.sample_rate
    except InputError:  # the shard will name it
        return 0.0


def _check_ids(path: Path) -> None:
    """Raise InputError if two recordings of a plan, which can be read, have the same id."""
    table = pq.read_table(path, columns=["id", "fault"])
    good = table.filter(pc.is_null(table["fault"]))
    counted = good.group_by("id").aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))["id"]
    if len(twice):
        raise InputError(f"{len(twice)} ids stand for several recordings; one is {twice[0].as_py()!r}")


def _check_folder(folder: Path, digest: str) -> None:
    """Raise InputError if a folder contains the plan or the shards of another run."""
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["digest"]
    except FileNotFoundError:
        before = None if any(folder.glob("tokens-*.parquet")) else digest
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    require(
        before == digest,
        f"{folder} contains the tokens of other recordings, another model or other settings; choose another folder",
    )
