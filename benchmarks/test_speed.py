"""Measures times on one core. `extra_info` of a benchmark has the amount of audio, or of work, in its seconds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from spectok.engine import model_size
from spectok.pretrained import find
from spectok.sessions import StreamDecoder, StreamEncoder
from spectok.tokenizer import Tokenizer

CHUNK = 320  # 20 ms
CHUNKS = 2000
STREAMS = 50


def facts(benchmark: BenchmarkFixture, tokenizer: Tokenizer, **more: Any) -> None:
    """Record the model and the engine for the report."""
    benchmark.extra_info.update(model=tokenizer.config.name, engine=tokenizer.engine.name.split()[0], **more)


def chunks_of(speech: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield chunks of 20 ms, without end."""
    while True:
        yield from speech[: len(speech) // CHUNK * CHUNK].reshape(-1, CHUNK)


@pytest.mark.parametrize("side", ["encoding and decoding", "encoding", "decoding"])
def test_chunk(benchmark: BenchmarkFixture, tokenizer: Tokenizer, speech: NDArray[np.float32], side: str) -> None:
    """One chunk of 20 ms through the sessions of one stream."""
    facts(benchmark, tokenizer, what=f"{side} a chunk of 20 ms", audio_seconds=CHUNK / 16000)
    source, codes = chunks_of(speech), iter(())
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    if side == "decoding":
        codes = iter(tokenizer.encode(speech).reshape(-1, tokenizer.tokens_per_frame))
    steps = {
        "encoding and decoding": lambda: decoder.push(encoder.push(next(source))),
        "encoding": lambda: encoder.push(next(source)),
        "decoding": lambda: decoder.push(next(codes)),
    }
    rounds = CHUNKS if side != "decoding" else len(speech) // CHUNK - 100
    benchmark.pedantic(steps[side], rounds=rounds, warmup_rounds=50)


@pytest.mark.parametrize("side", ["encoding", "decoding"])
def test_block(benchmark: BenchmarkFixture, tokenizer: Tokenizer, speech: NDArray[np.float32], side: str) -> None:
    """30 s in one push."""
    facts(benchmark, tokenizer, what=f"{side} 30 s at once", audio_seconds=len(speech) / 16000)
    codes = tokenizer.encode(speech)
    step = {"encoding": lambda: tokenizer.encode(speech), "decoding": lambda: tokenizer.decode(codes)}[side]
    benchmark.pedantic(step, rounds=10, warmup_rounds=1)


def test_streams_in_turn(benchmark: BenchmarkFixture, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    """One chunk of each of fifty separate streams, which evict each other's data from the caches."""
    facts(benchmark, tokenizer, what=f"{STREAMS} streams in turn", audio_seconds=STREAMS * CHUNK / 16000)
    source = chunks_of(speech)
    sessions = [(tokenizer.stream_encoder(), tokenizer.stream_decoder()) for _ in range(STREAMS)]

    def turn() -> None:
        chunk = next(source)
        for encoder, decoder in sessions:
            decoder.push(encoder.push(chunk))

    benchmark.pedantic(turn, rounds=40, warmup_rounds=2)


def test_streams_in_step(benchmark: BenchmarkFixture, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    """One chunk of each of sixteen streams that run as a batch."""
    facts(benchmark, tokenizer, what="16 streams in step", audio_seconds=16 * CHUNK / 16000)
    source = chunks_of(speech)
    encoder, decoder = StreamEncoder(tokenizer.engine, batch=16), StreamDecoder(tokenizer.engine, batch=16)
    benchmark.pedantic(lambda: decoder.push(encoder.push(np.tile(next(source), (16, 1)))), rounds=200, warmup_rounds=5)


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_of_a_stream(benchmark: BenchmarkFixture, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    """Memory of 500 streams, each after three chunks; the seconds are those of creating a stream and pushing."""
    sessions = []

    def another() -> None:
        encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
        for chunk in speech[16000 : 16000 + 3 * CHUNK].reshape(-1, CHUNK):
            decoder.push(encoder.push(chunk))
        sessions.append((encoder, decoder))

    for _ in range(200):  # what earlier benchmarks have freed is used up
        another()
    before = resident()
    benchmark.pedantic(another, rounds=500)
    facts(benchmark, tokenizer, what="one more stream, three chunks", audio_seconds=3 * CHUNK / 16000)
    benchmark.extra_info["bytes"] = (resident() - before) / 500


def test_matrix_product(benchmark: BenchmarkFixture) -> None:
    """The core's peak speed: the product of large float32 matrices."""
    size = 768
    a, b = (np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32) for seed in (0, 1))
    benchmark.extra_info.update(what="matrix product", macs=size**3)
    benchmark.pedantic(lambda: a @ b, rounds=30, warmup_rounds=3)


def test_weights_read_once(benchmark: BenchmarkFixture, model: str) -> None:
    """A product of a float32 matrix as large as the model's weights and a vector, as a chunk reads each weight once."""
    parameters, _ = model_size(find(model))
    matrix, vector = np.ones((parameters // 512, 512), np.float32), np.ones(512, np.float32)
    benchmark.extra_info.update(what="weights read once", model=model, bytes_read=4 * parameters)
    benchmark.pedantic(lambda: matrix @ vector, rounds=500, warmup_rounds=20)


def test_arithmetic(benchmark: BenchmarkFixture, model: str) -> None:
    """Multiply-accumulates per second of audio; the measured seconds have no meaning."""
    _, macs = model_size(find(model))
    benchmark.extra_info.update(what="arithmetic", model=model, macs=sum(macs.values()))
    benchmark.pedantic(lambda: None, rounds=1)
