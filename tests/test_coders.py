import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_engine

from spectok.audio import read_audio, resample
from spectok.container import Header
from spectok.errors import InputError
from spectok.evaluation import realtime
from spectok.evaluation.coders import SpectokCoder
from spectok.evaluation.metrics import score
from spectok.evaluation.rivals import CODEC2_MODES, Codec2, rival
from spectok.tokenizer import Tokenizer

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"
needs_codec2 = pytest.mark.skipif(
    shutil.which("c2enc") is None or shutil.which("c2dec") is None, reason="the programs c2enc and c2dec are missing"
)


class HalfRateTokenizer:
    """An 8 kHz, 8-bit tokenizer of one token per sample."""

    sample_rate, frame_rate, token_rate, tokens_per_frame, codebook_size, bitrate = 8000, 8000, 8000, 1, 256, 64000
    weight_hash = "0123456789abcdef"
    engine = SimpleNamespace(name="a table")

    def encode(self, audio):
        return np.clip(np.floor((audio + 1) * 128), 0, 255).astype(np.int64)

    def decode(self, codes, length=None):
        return ((codes[:length] + 0.5) / 128 - 1).astype(np.float32)

    def header(self, sample_rate, num_samples):
        return Header("half", self.weight_hash, sample_rate, 256, 1, 8000, num_samples)


def test_spectok_is_measured_through_its_container_and_at_its_own_rate():
    audio = read_audio(SPEECH, 16000)[0][:24001]
    coder = SpectokCoder(HalfRateTokenizer(), "half")
    coded = coder.code(audio)
    assert coded.num_bytes == 37 + len("half") + 2 * 6 + 12001  # header, two packets, a byte a code
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
        "weight_hash": "0123456789abcdef",
        "engine": "a table",
    }


def test_the_end_of_a_stream_counts_in_the_rtf_but_is_no_chunk(monkeypatch):
    clock = iter([0, 1, 10, 11, 20, 21, 30, 37])  # three chunks of a second each, and seven for the end
    monkeypatch.setattr(realtime.time, "perf_counter", lambda: next(clock))
    report = realtime.stream(Tokenizer(random_engine("query"), "0" * 16), np.zeros(16000, np.float32), 6000)
    assert next(clock, None) is None
    np.testing.assert_array_equal(report.chunk_seconds, [1, 1, 1])
    assert (report.flush_seconds, report.audio_seconds, report.rtf) == (7, 1, 10)
    assert report.percentile_ms(99) == 1000


def test_an_unknown_rival_is_met_with_one_sentence():
    with pytest.raises(InputError, match="no rival opus-6; there are codec2-3200, codec2-2400"):
        rival("opus-6")
    with pytest.raises(InputError, match="Codec2 has no mode 9600; there are 3200, 2400, 1200, 700C"):
        rival("codec2-9600")


def test_a_missing_codec2_names_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="c2enc, which comes with Debian's package codec2"):
        rival("codec2-3200")


@needs_codec2
@pytest.mark.parametrize(
    ("mode", "num_bytes", "bitrate", "floor"),
    [("3200", 1608, 3200, 0.84), ("2400", 1206, 2400, 0.82), ("1200", 606, 1200, 0.79), ("700C", 354, 700, 0.68)],
)
def test_codec2_is_in_step_with_its_original(mode, num_bytes, bitrate, floor):
    audio = read_audio(SPEECH, 16000)[0]
    assert len(audio) == 63840
    coded = rival(f"codec2-{mode}").code(audio)
    assert coded.audio.shape == audio.shape and coded.audio.dtype == np.float32
    assert coded.num_bytes == num_bytes
    assert coded.codes is None
    assert score(audio, coded.audio)["stoi"] > floor
    assert Codec2(mode).facts()["bitrate"] == bitrate
    assert Codec2(mode).facts()["delay_samples"] == CODEC2_MODES[mode].delay
