import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, cast

import numpy as np
import pytest
from models import random_engine
from numpy.typing import NDArray

from spectok import pretrained
from spectok.audio import read_audio
from spectok.bench.rivals import RIVALS, lc3_frames, ogg_packets, rival
from spectok.container import Header, write_spt
from spectok.errors import InputError
from spectok.evaluation import realtime
from spectok.evaluation.coders import SpectokCoder
from spectok.evaluation.metrics import score
from spectok.resampling import resample
from spectok.tokenizer import Tokenizer

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"


class HalfRateTokenizer:
    """An 8 kHz, 8-bit tokenizer of one token per sample."""

    sample_rate, frame_rate, token_rate, tokens_per_frame, codebook_size, bitrate = 8000, 8000, 8000, 1, 256, 64000
    weight_hash = "0123456789abcdef"
    engine = SimpleNamespace(name="a table")

    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.clip(np.floor((audio + 1) * 128), 0, 255).astype(np.int64)

    def decode(self, codes: NDArray[np.int64], length: int | None = None) -> NDArray[np.float32]:
        return ((codes[:length] + 0.5) / 128 - 1).astype(np.float32)

    def save(self, destination: BinaryIO, codes: NDArray[np.int64], length: int, sample_rate: int) -> None:
        write_spt(destination, Header("half", self.weight_hash, sample_rate, 256, 1, 8000, length), codes)


def test_spectok_is_measured_through_its_container_and_at_its_own_rate() -> None:
    audio = read_audio(SPEECH, 16000)[0][:24001]
    coder = SpectokCoder(cast(Tokenizer, HalfRateTokenizer()), "half")
    coded = coder.code(audio)
    assert coded.num_bytes == 27 + len("half") + 6 + 13 + 12001  # header, two packets, a byte a code
    np.testing.assert_array_equal(coded.codes, HalfRateTokenizer().encode(resample(audio, 16000, 8000)))
    assert coded.audio.shape == (24001,)
    assert coded.encode_seconds > 0 and coded.decode_seconds > 0
    assert score(audio, coded.audio)["stoi"] > 0.96
    assert coder.name == "half"
    assert coder.facts() == {
        "sample_rate": 8000,
        "frame_rate": 8000,
        "token_rate": 8000,
        "tokens_per_frame": 1,
        "codebook_size": 256,
        "bitrate": 64000,
        "engine": "a table",
    }


def test_a_model_is_a_coder_that_tells_its_weights() -> None:
    coder = SpectokCoder.from_pretrained("spectok-16k-800", "cpu", "onnx", 2, {"macs": 1.0})
    facts = coder.facts()
    assert coder.name == "spectok-16k-800"
    assert facts["weights"] == pretrained.find("spectok-16k-800").sha256
    assert (facts["engine"], facts["macs"]) == ("onnx on 2 threads", 1.0)


def test_the_flush_of_a_stream_counts_in_the_rtf_and_not_as_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 10, 11, 20, 21, 30, 37])  # three chunks of 1 s each, and 7 s for the flush
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    report = realtime.measure_stream(Tokenizer(random_engine("query"), "0" * 16), np.zeros(16000, np.float32), 6000)
    assert next(clock, None) is None
    np.testing.assert_array_equal(report.chunk_seconds, [1, 1, 1])
    assert (report.flush_seconds, report.audio_seconds, report.rtf) == (7, 1, 10)
    assert report.percentile_ms(99) == 1000


def test_an_unknown_rival_raises_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no rival opus-7; there are codec2-3200, codec2-2400, .*, lc3-16"):
        rival("opus-7")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("codec2-3200", "codec2-3200 needs the program c2enc, which comes with Debian's package codec2"),
        ("opus-6", "opus-6 needs the program opusenc, which comes with Debian's package opus-tools"),
        ("speex-4", "speex-4 needs the program speexenc, which comes with Debian's package speex"),
        ("lc3-16", "lc3-16 needs the program elc3, which comes with Debian's package liblc3-tools"),
    ],
)
def test_a_missing_rival_names_its_package(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=f"^{sentence}$"):
        rival(name)


def test_a_program_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, script in (("elc3", "echo no such rate >&2; exit 3"), ("dlc3", "exit 0")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(InputError, match=r"^elc3 failed: no such rate$"):
        rival("lc3-16").code(np.zeros(800, np.float32))


def test_the_packets_of_an_ogg_file_are_counted_across_its_pages() -> None:
    def page(*segments: int) -> bytes:
        return bytes(26) + bytes([len(segments), *segments]) + bytes(sum(segments))

    # Two headers, one of 300 bytes; then packets of 255, 7 and, over two pages, 255 + 255 + 3 bytes.
    content = page(19) + page(255, 45) + page(255, 0, 7, 255) + page(255, 3)
    assert ogg_packets(content) == [255, 7, 513]


def test_the_frames_of_an_lc3_file_are_counted_without_their_lengths() -> None:
    header = b"\x1c\xcc" + (18).to_bytes(2, "little") + bytes(14)
    assert lc3_frames(header + b"\x14\0" + bytes(20) + b"\x28\0" + bytes(40)) == [20, 40]


@pytest.mark.parametrize(
    ("name", "payload_bits", "container_bytes", "floor"),
    [
        ("codec2-3200", 201 * 64, 0, 0.87),
        ("codec2-2400", 201 * 48, 0, 0.85),
        ("codec2-1200", 101 * 48, 0, 0.82),
        ("codec2-700C", 101 * 28, 101 / 2, 0.68),  # four bits to fill a byte
        ("opus-6", None, None, 0.88),
        ("opus-8", None, None, 0.94),
        ("opus-12", None, None, 0.96),
        ("speex-4", 200 * 80, None, 0.81),
        ("speex-6", 200 * 120, None, 0.83),
        ("speex-8", 200 * 160, None, 0.88),
        ("speex-10", 200 * 200, None, 0.90),
        ("speex-13", 200 * 256, None, 0.94),
        ("lc3-16", 399 * 160, 18 + 20 + 2 * 400, 0.94),  # header, one frame for the delay, lengths of all frames
    ],
)
def test_a_rival_is_aligned_with_its_original(
    name: str, payload_bits: int | None, container_bytes: float | None, floor: float
) -> None:
    """Its bits fit its bitrate too: 63,840 samples are 199.5 frames of 20 ms."""
    if sentence := RIVALS[name].missing:
        pytest.skip(sentence)
    audio = read_audio(SPEECH, 16000)[0]
    assert len(audio) == 63840
    coded = rival(name).code(audio)
    assert coded.audio.shape == audio.shape and coded.audio.dtype == np.float32
    assert coded.payload_bits == (payload_bits or coded.payload_bits)
    assert coded.payload_bits / 3.99 == pytest.approx(RIVALS[name].bitrate, rel=0.08)
    container = coded.num_bytes - coded.payload_bits / 8
    if container_bytes is not None:
        assert container == container_bytes
    else:  # Ogg: 28 bytes of each of at least three pages, two headers of the codec, and the length of each packet
        assert 200 + 80 + 3 * 28 < container < 200 + 1000
    assert coded.codes is None
    assert floor < score(audio, coded.audio)["stoi"] < floor + 0.03
    facts = rival(name).facts()
    assert facts["bitrate"] == RIVALS[name].bitrate
    assert re.fullmatch(rf"{RIVALS[name].package} \S*\d\S*|.* of unknown version", facts["package"])
