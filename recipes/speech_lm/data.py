"""Reads the shards of `spectok tokenize`, and makes batches of sequences of similar length."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.speech_lm.model import END, IGNORED, PAD, PARTS, Ids, opening, split
from spectok import pretrained
from spectok.errors import InputError, require

TEXT_SHARE = 0.5  # of the recordings with a text that are read with it


class Recording(NamedTuple):
    """One row of the shards."""

    name: str
    codes: NDArray[np.int64]  # [N]
    speaker: str  # "" if it is not known
    text: str  # "" if it is not known


def read_tokens(folder: Path) -> tuple[list[Recording], dict[str, Any]]:
    """The recordings in a folder that `spectok tokenize` has written, and what it wrote about the codec.

    Raises:
        InputError: there are no shards, they cannot be read, or their codes are of other weights than those that the
            model with their name has now.
    """
    paths = sorted(folder.glob("tokens-*.parquet"))
    require(bool(paths), f"{folder} holds no tokens-*.parquet; spectok tokenize writes them")
    try:
        facts: dict[str, Any] = json.loads(pq.read_schema(paths[0]).metadata[b"spectok"])
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
        recordings = [
            Recording(row["id"], np.array(row["codes"], np.int64), row["speaker"] or "", row["text"] or "")
            for row in rows
        ]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read the tokens in {folder}: {error}") from error
    require(any(len(recording.codes) for recording in recordings), f"the recordings in {folder} have no codes")
    model = pretrained.find(facts["model"])
    is_same = facts["weight_hash"] == model.weight_hash
    require(is_same, f"the tokens in {folder} are of other weights than {facts['model']} has now; tokenize again")
    return recordings, facts


def sequence(recording: Recording, context: int, generator: np.random.Generator) -> Ids:
    """The ids of a recording, `[S]`, S at most `context`.

    The text is among them for `TEXT_SHARE` of the recordings that have one, if all of the recording fits beside it. Of
    a recording that is too long, a random part is taken; `end` is there if its end is.
    """
    ids, start = split(recording.codes), 0
    before = opening(recording.text)
    if not recording.text or len(before) + len(ids) >= context or generator.random() >= TEXT_SHARE:
        before = opening()
    room = (context - len(before)) // PARTS * PARTS
    if len(ids) > room:
        start = PARTS * int(generator.integers((len(ids) - room) // PARTS + 1))
    ends = start + room >= len(ids)
    return np.concatenate([before, ids[start : start + room], [END] if ends else []]).astype(np.int64)[:context]


def epoch_of_batches(
    recordings: Sequence[Recording], context: int, positions: int, generator: np.random.Generator
) -> list[list[Ids]]:
    """Every recording once, in random batches of sequences of similar length.

    Args:
        recordings: to read.
        context: the most ids of a sequence.
        positions: the most ids of a batch, filled up to its longest sequence; a single sequence may have more.
        generator: of the parts and of the order.
    """
    chosen = [sequence(recording, context, generator) for recording in recordings if len(recording.codes)]
    order = generator.permutation(len(chosen))
    batches: list[list[Ids]] = []
    for ids in sorted((chosen[place] for place in order), key=len):
        if not batches or (len(batches[-1]) + 1) * len(ids) > positions:
            batches.append([])
        batches[-1].append(ids)
    return [batches[place] for place in generator.permutation(len(batches))]


def collate(batch: Sequence[Ids], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """The inputs and labels `[B, S]` of a batch; the text and what fills the rows are not to be predicted."""
    inputs = torch.full((len(batch), max(map(len, batch))), PAD)
    for row, ids in zip(inputs, batch, strict=True):
        row[: len(ids)] = torch.from_numpy(ids)
    labels = inputs.masked_fill(inputs > END, IGNORED)
    return inputs.to(device), labels.to(device)
