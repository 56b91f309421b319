"""Encodes the recordings of one shard and writes its file."""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spectok.audio import AudioReader
from spectok.bulk.opening import Opener
from spectok.bulk.plan import Plan
from spectok.bulk.sources import Recording
from spectok.errors import InputError
from spectok.files import atomic_write, why
from spectok.resampling import resample
from spectok.samples import blocks, check_audio
from spectok.tokenizer import Tokenizer

LONG_SECONDS = 120  # a longer recording is encoded alone, as a stream
WINDOW_SECONDS = 600  # of shorter recordings that are in memory, to be sorted by length
STREAM_SECONDS = 20  # of a long recording that are encoded at a time
ROW_GROUP = 1000  # recordings
SMALL_CODEBOOK = 4096  # up to this size a dictionary of the codes is small, and takes the fewest bytes
METADATA = b"spectok"  # key of the schema's metadata


class Encoded(NamedTuple):
    """A recording of a shard, after its audio was read."""

    codes: NDArray[Any]
    seconds: float


class Waiting(NamedTuple):
    """A recording whose audio was read and is not encoded yet."""

    audio: NDArray[np.float32]  # [T] at the tokenizer's sample rate
    seconds: float


class Counts(NamedTuple):
    """What is in a shard, or in several."""

    recordings: int  # without the rejected ones
    rejected: int
    seconds: float  # of audio
    tokens: int


def tokenize_shard(plan: Plan, index: int) -> Counts:
    """Encode the recordings of a shard, in their order, and write its file. The file appears whole or not at all.

    The same shard of the same plan gives the same bytes in any process. Recordings that cannot be read are left out;
    they are listed in the metadata of the file.

    Args:
        plan: whose files `plan.parquet` and sources this process can read.
        index: of the shard.

    Raises:
        InputError: the model cannot be loaded, or the file cannot be written.
    """
    tokenizer = load_tokenizer(plan.model, plan.engine, plan.device)
    recordings = plan.recordings(index)
    kind = pa.uint16() if tokenizer.codebook_size <= 1 << 16 else pa.uint32()
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("codes", pa.list_(kind)),
            ("seconds", pa.float64()),
            ("speaker", pa.string()),
            ("text", pa.string()),
            ("weight_hash", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    batches, rejected = [], []
    counts = Counts(0, 0, 0.0, 0)
    with Opener(plan.sources) as opener:
        start = 0
        for window in _windows(tokenizer, opener, plan, recordings):
            pairs = list(zip(recordings[start : start + len(window)], window, strict=True))
            good = [(recording, found) for recording, found in pairs if isinstance(found, Encoded)]
            for recording, found in pairs:
                if isinstance(found, str):
                    rejected.append([recording.id, plan.sources[recording.source].place(recording), found])
            columns = [
                pa.array([recording.id for recording, _ in good], pa.string()),
                pa.array([found.codes for _, found in good], pa.list_(kind)),
                pa.array([found.seconds for _, found in good], pa.float64()),
                pa.array([recording.speaker for recording, _ in good], pa.string()),
                pa.array([recording.text for recording, _ in good], pa.string()),
                pa.DictionaryArray.from_arrays(pa.array([0] * len(good), pa.int32()), [tokenizer.weight_hash]),
            ]
            batches.append(pa.record_batch(columns, schema))
            counts = Counts(
                counts.recordings + len(good),
                counts.rejected + len(pairs) - len(good),
                counts.seconds + sum(found.seconds for _, found in good),
                counts.tokens + sum(len(found.codes) for _, found in good),
            )
            start += len(window)
    facts = {
        "plan": plan.digest,
        "shard": index,
        "model": tokenizer.config.name,
        "weight_hash": tokenizer.weight_hash,
        "sample_rate": tokenizer.sample_rate,
        "tokens_per_frame": tokenizer.tokens_per_frame,
        "codebook_size": tokenizer.codebook_size,
        **counts._asdict(),
        "rejects": rejected,
    }
    table = pa.Table.from_batches(batches, schema.with_metadata({METADATA: json.dumps(facts).encode()}))
    _write(plan, index, table, tokenizer.codebook_size)
    return counts


def _write(plan: Plan, index: int, table: pa.Table, codebook_size: int) -> None:
    """Write the file of a shard. Codes of a large codebook are split into the streams of their bytes."""
    columns, leaf = ["id", "speaker", "text", "weight_hash"], "codes.list.element"
    small = codebook_size <= SMALL_CODEBOOK
    try:
        with atomic_write(plan.shard(index)) as temporary:
            pq.write_table(
                table,
                temporary,
                row_group_size=ROW_GROUP,
                compression="zstd",
                use_dictionary=columns + ([leaf] if small else []),
                column_encoding=None if small else {leaf: "BYTE_STREAM_SPLIT"},
            )
    except (OSError, pa.ArrowException) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot write {plan.shard(index)}: {reason}") from error


def read_facts(plan: Plan, index: int) -> dict[str, Any] | None:
    """What the metadata of a finished shard says; None if there is no such file.

    Raises:
        InputError: the file is damaged, or is a shard of another plan.
    """
    path = plan.shard(index)
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts: dict[str, Any] = json.loads(metadata[METADATA])
        is_ours = (facts["plan"], facts["shard"]) == (plan.digest, index)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; after it is removed, the same command makes it again") from error
    if not is_ours:
        raise InputError(f"{path} is of another run; choose another folder")
    return facts


@functools.cache
def load_tokenizer(model: str, engine: str | None, device: str) -> Tokenizer:
    """The tokenizer of this process, on one thread."""
    return Tokenizer.from_pretrained(model, device, engine, threads=1)


def _windows(
    tokenizer: Tokenizer, opener: Opener, plan: Plan, recordings: Sequence[Recording]
) -> Iterator[list[Encoded | str]]:
    """The results of the recordings in their order, in pieces; a text is the reason for which one was rejected."""
    window: list[Encoded | Waiting | str] = []
    samples = 0
    for recording in recordings:
        try:
            with opener.open(recording) as reader:
                found = _read(tokenizer, reader)
        except InputError as error:
            window.append(str(error))
            continue
        window.append(found)
        if isinstance(found, Waiting):
            samples += len(found.audio)
        if samples >= WINDOW_SECONDS * tokenizer.sample_rate:
            yield _encoded(tokenizer, window, plan.batch)
            window, samples = [], 0
    yield _encoded(tokenizer, window, plan.batch)


def _read(tokenizer: Tokenizer, reader: AudioReader) -> Encoded | Waiting:
    """Read a recording, and encode it if it is long."""
    pieces: list[NDArray[np.float32]] = []
    audio = iter(reader)
    for piece in audio:
        pieces.append(piece)
        if reader.num_samples > LONG_SECONDS * reader.sample_rate:
            session = tokenizer.stream_encoder(reader.sample_rate)
            size = STREAM_SECONDS * reader.sample_rate
            codes = [_narrow(session.push(block), tokenizer) for block in blocks(itertools.chain(pieces, audio), size)]
            codes.append(_narrow(session.flush(), tokenizer))
            return Encoded(np.concatenate(codes), reader.num_samples / reader.sample_rate)
    samples = resample(np.concatenate(pieces), reader.sample_rate, tokenizer.sample_rate)
    return Waiting(check_audio(samples, reader.name), reader.num_samples / reader.sample_rate)


def _encoded(tokenizer: Tokenizer, window: Sequence[Encoded | Waiting | str], batch: int) -> list[Encoded | str]:
    """Encode what waits, in batches of similar length; the results have the order of the window."""
    results: dict[int, Encoded | str] = {}
    waiting: list[tuple[int, Waiting]] = []
    for place, found in enumerate(window):
        if isinstance(found, Waiting):
            waiting.append((place, found))
        else:
            results[place] = found
    waiting.sort(key=lambda item: len(item[1].audio))
    for start in range(0, len(waiting), batch):
        rows = waiting[start : start + batch]
        longest = max(len(rows[-1][1].audio), tokenizer.frame_length)
        padded = np.zeros((len(rows), longest), np.float32)
        for row, (_, found) in zip(padded, rows, strict=True):
            row[: len(found.audio)] = found.audio
        for codes, (place, found) in zip(tokenizer.encode(padded), rows, strict=True):
            own = tokenizer.config.num_frames(len(found.audio)) * tokenizer.tokens_per_frame
            results[place] = Encoded(_narrow(codes[:own], tokenizer), found.seconds)
    return [results[place] for place in range(len(window))]


def _narrow(codes: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[Any]:
    """A copy of codes in the type that the shards have."""
    return codes.astype(np.uint16 if tokenizer.codebook_size <= 1 << 16 else np.uint32)
