import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ECHOES, echo_engine, random_engine, released
from numpy.typing import NDArray
from streams import cut, noise, through

from spectok import Tokenizer, sessions
from spectok.config import CodecConfig
from spectok.engine import Engine
from spectok.errors import InputError
from spectok.resampling import resample
from spectok.sessions import StreamDecoder, StreamEncoder

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
tiny = pytest.mark.parametrize("name", ["query", "flat", "vq"])
echoes = pytest.mark.parametrize("name", ECHOES)
chunk_sizes = st.lists(st.integers(0, 150), min_size=1, max_size=8)


def offline(engine: Engine, audio: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes and audio from one step over the whole input, without sessions."""
    config = engine.config
    padded = np.pad(audio, (0, config.padded_length(len(audio)) - len(audio)))
    codes, _ = engine.encode_step(padded[None], engine.init_state(1).encoder)
    heard, _ = engine.decode_step(codes, engine.init_state(1).decoder)
    return codes[0], heard[0, config.synthesis_delay :]


@tiny
def test_every_chunking_equals_offline_in_double_precision(name: str) -> None:
    engine = random_engine(name)

    @quick
    @given(st.integers(1, 700), chunk_sizes, chunk_sizes)
    def check(length: int, audio_sizes: list[int], code_sizes: list[int]) -> None:
        audio = noise(length, seed=length)
        codes, heard = offline(engine, audio)
        streamed = through(StreamEncoder(engine), cut(audio, audio_sizes))
        assert streamed.dtype == np.int64
        np.testing.assert_array_equal(streamed, codes)
        assert len(heard) >= length
        np.testing.assert_allclose(through(StreamDecoder(engine), cut(codes, code_sizes)), heard, rtol=0, atol=1e-12)

    check()
    assert (
        len(np.unique(offline(engine, noise(700))[0])) >= 6
    )  # enough different codes for a wrong state to change some


@tiny
def test_every_chunking_equals_offline_in_single_precision(name: str) -> None:
    engine = random_engine(name, torch.float32)
    audio = noise(1000)
    codes, heard = offline(engine, audio)

    @quick
    @given(chunk_sizes)
    def check(sizes: list[int]) -> None:
        streamed = through(StreamDecoder(engine), cut(codes, sizes))
        assert streamed.dtype == np.float32
        np.testing.assert_allclose(streamed, heard, rtol=0, atol=1e-5)

    check()
    assert float(heard.std()) > 1e-3


@tiny
def test_one_sample_and_one_code_at_a_time(name: str) -> None:
    engine = random_engine(name)
    audio = noise(333)
    codes, heard = offline(engine, audio)
    encoder, decoder = StreamEncoder(engine), StreamDecoder(engine)
    np.testing.assert_array_equal(through(encoder, cut(audio, [1])), codes)
    np.testing.assert_allclose(through(decoder, cut(codes, [1])), heard, rtol=0, atol=1e-12)


def test_int16_is_scaled() -> None:
    engine = random_engine("query")
    samples = (32767 * noise(200)).astype(np.int16)
    scaled = (samples / 32768).astype(np.float32)
    expected = through(StreamEncoder(engine), [scaled])
    np.testing.assert_array_equal(through(StreamEncoder(engine), cut(samples, [7])), expected)


@tiny
def test_interleaved_sessions_do_not_affect_each_other(name: str) -> None:
    engine = random_engine(name)
    streams = [noise(500, seed=1), noise(500, seed=2)]
    alone = [offline(engine, audio) for audio in streams]
    assert (alone[0][0] != alone[1][0]).any()
    encoders, decoders = [StreamEncoder(engine) for _ in streams], [StreamDecoder(engine) for _ in streams]
    codes: list[list[NDArray[np.int64]]] = [[], []]
    heard: list[list[NDArray[np.float32]]] = [[], []]
    for chunks in zip(cut(streams[0], [45]), cut(streams[1], [45]), strict=True):
        for i, chunk in enumerate(chunks):
            codes[i].append(encoders[i].push(chunk))
            heard[i].append(decoders[i].push(codes[i][-1]))
    for i, (expected_codes, expected_audio) in enumerate(alone):
        codes[i].append(encoders[i].flush())
        heard[i].append(decoders[i].push(codes[i][-1]))
        np.testing.assert_array_equal(np.concatenate(codes[i]), expected_codes)
        np.testing.assert_allclose(np.concatenate(heard[i]), expected_audio, rtol=0, atol=1e-12)


@pytest.mark.parametrize("end", ["flush", "reset"])
def test_flush_and_reset_start_a_new_stream(end: str) -> None:
    engine = random_engine("query")
    audio = noise(300)
    codes, heard = offline(engine, audio)
    encoder, decoder = StreamEncoder(engine), StreamDecoder(engine)
    encoder.push(noise(77, seed=9))
    decoder.push(codes[:6])
    if end == "reset":
        decoder.push(codes[:1])  # half a frame, which reset drops too
    for session in (encoder, decoder):
        getattr(session, end)()
    np.testing.assert_array_equal(through(encoder, [audio]), codes)
    np.testing.assert_allclose(through(decoder, [codes]), heard, rtol=0, atol=1e-12)


def test_an_empty_stream_has_no_codes_and_no_audio() -> None:
    encoder, decoder = StreamEncoder(random_engine("query")), StreamDecoder(random_engine("query"))
    for codes in (encoder.push(np.zeros(0, np.float32)), encoder.flush()):
        assert codes.shape == (0,) and codes.dtype == np.int64
    for audio in (decoder.push(np.zeros(0, np.int64)), decoder.flush()):
        assert audio.shape == (0,) and audio.dtype == np.float32


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_at_least_one_stream(batch: int) -> None:
    with pytest.raises(InputError, match=f"^the batch has {batch} streams, but must have at least one$"):
        StreamDecoder(random_engine("query"), batch)


@tiny
def test_a_batch_equals_its_rows(name: str) -> None:
    engine = random_engine(name)
    audio = np.stack([noise(410, seed) for seed in range(3)])
    encoder, decoder = StreamEncoder(engine, batch=3), StreamDecoder(engine, batch=3)
    parts = [encoder.push(audio[:, :50]), encoder.push(audio[:, 50:50]), encoder.push(audio[:, 50:]), encoder.flush()]
    codes = np.concatenate(parts, axis=1)
    heard = np.concatenate([decoder.push(codes[:, :7]), decoder.push(codes[:, 7:]), decoder.flush()], axis=1)
    for row in range(3):
        expected_codes, expected_audio = offline(engine, audio[row])
        np.testing.assert_array_equal(codes[row], expected_codes)
        np.testing.assert_allclose(heard[row], expected_audio, rtol=0, atol=1e-12)


def test_a_long_push_runs_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = random_engine("query")
    audio = noise(3210)
    codes, heard = offline(engine, audio)
    monkeypatch.setattr(sessions, "BLOCK_SECONDS", 0.01)
    engine.longest = 0
    np.testing.assert_array_equal(through(StreamEncoder(engine), [audio]), codes)
    np.testing.assert_allclose(through(StreamDecoder(engine), [codes]), heard, rtol=0, atol=1e-12)
    assert engine.longest == 5  # frames in 10 ms at 500 frames a second


def measured_latency(engine: Engine, length: int) -> int:
    """The largest lag in samples of the output behind the input, when one sample is pushed at a time."""
    encoder, decoder = StreamEncoder(engine), StreamDecoder(engine)
    audio, heard, worst = noise(length), 0, 0
    for pushed in range(1, length + 1):
        out = decoder.push(encoder.push(audio[pushed - 1 : pushed]))
        if len(out):
            worst = max(worst, pushed - heard)
        heard += len(out)
    heard += len(decoder.push(encoder.flush()))
    assert heard >= length
    assert encoder.latency_samples == decoder.latency_samples == engine.config.latency_samples
    return worst


rates = pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])


@rates
def test_a_stream_at_another_rate_equals_offline(rate: int) -> None:
    tokenizer = Tokenizer(random_engine("query"), "0" * 16)
    audio = noise(rate // 2 + 7)
    codes = tokenizer.encode(audio, rate)
    np.testing.assert_array_equal(codes, tokenizer.encode(resample(audio, rate, 16000)))
    for size in (1 + rate // 700, rate // 50):
        encoder, decoder = tokenizer.stream_encoder(rate), tokenizer.stream_decoder(rate)
        assert (encoder.sample_rate, decoder.sample_rate) == (rate, rate)
        np.testing.assert_array_equal(through(encoder, cut(audio, [size])), codes)
        np.testing.assert_array_equal(through(encoder, cut(audio, [size])), codes)  # again: flush has reset the session
        heard = tokenizer.decode(codes, sample_rate=rate)
        np.testing.assert_allclose(through(decoder, cut(codes, [size])), heard, rtol=0, atol=1e-6)
        assert len(heard) >= len(audio)
    batch = StreamEncoder(tokenizer.engine, 2, rate)
    both = np.stack([audio, audio[::-1]])
    rows = np.concatenate([batch.push(both[:, :999]), batch.push(both[:, 999:]), batch.flush()], axis=1)
    np.testing.assert_array_equal(rows[0], codes)
    np.testing.assert_array_equal(rows[1], tokenizer.encode(audio[::-1].copy(), rate))


@rates
def test_an_empty_stream_at_another_rate_has_no_codes_and_no_audio(rate: int) -> None:
    engine = random_engine("query")
    assert len(StreamEncoder(engine, sample_rate=rate).flush()) == 0
    assert len(StreamDecoder(engine, sample_rate=rate).flush()) == 0


@rates
def test_latency_at_another_rate_is_at_most_the_reported_one(rate: int) -> None:
    engine = echo_engine("20 ms")
    encoder, decoder = StreamEncoder(engine, sample_rate=rate), StreamDecoder(engine, sample_rate=rate)
    audio, heard, worst, step = noise(rate), 0, 0, rate // 1000
    for pushed in range(step, rate + 1, step):
        out = decoder.push(encoder.push(audio[pushed - step : pushed]))
        if len(out):
            worst = max(worst, pushed - heard)
        heard += len(out)
    assert encoder.latency_samples == decoder.latency_samples
    # Each of three parts waits for its blocks; that all of them wait longest at once is rare.
    assert 0.7 * encoder.latency_samples < worst <= encoder.latency_samples


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_memory_of_a_stream_does_not_grow(rate: int) -> None:
    """Not even by one number for each chunk, 32 bytes in Python."""
    tokenizer, audio = released("spectok-16k-4k"), noise(rate // 50)
    encoder, decoder = tokenizer.stream_encoder(rate), tokenizer.stream_decoder(rate)
    tracemalloc.start()
    try:
        sizes = []
        for chunks in (100, 400):
            for _ in range(chunks):
                decoder.push(encoder.push(audio))
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert abs(sizes[1] - sizes[0]) < 4000


@tiny
def test_latency_of_a_random_codec_is_the_reported_one(name: str) -> None:
    engine = random_engine(name)
    assert measured_latency(engine, 10 * engine.config.frame_length + 3) == engine.config.latency_samples


@echoes
def test_latency_of_a_perfect_codec_is_the_reported_one(name: str) -> None:
    engine = echo_engine(name)
    assert measured_latency(engine, 6 * engine.config.frame_length + 3) == engine.config.latency_samples


def test_latency_of_the_default_configuration() -> None:
    assert CodecConfig().latency_samples == 320 + 160  # 30 ms


@echoes
@pytest.mark.parametrize("sizes", [[1], [37], [1000]], ids=str)
def test_an_impulse_keeps_its_position(name: str, sizes: list[int]) -> None:
    engine = echo_engine(name)
    length = 4 * engine.config.frame_length + 11
    for at in {0, 1, engine.config.frame_length - 1, engine.config.frame_length, length // 2, length - 1}:
        audio = np.zeros(length, np.float32)
        audio[at] = 1
        codes = through(StreamEncoder(engine), cut(audio, sizes))
        heard = through(StreamDecoder(engine), cut(codes, sizes))[:length]
        np.testing.assert_allclose(heard, audio, rtol=0, atol=1e-6)


@echoes
def test_a_perfect_codec_returns_speech_without_a_shift(name: str, speech: NDArray[np.float32]) -> None:
    engine = echo_engine(name)
    clip = speech[16000:24001]
    heard = through(StreamDecoder(engine), [through(StreamEncoder(engine), cut(clip, [997]))])
    assert 0 <= len(heard) - len(clip) < engine.config.frame_length
    np.testing.assert_allclose(
        heard[: len(clip)], clip, rtol=0, atol=2e-5
    )  # half a quantization step of 16 bits is 1.5e-5
    np.testing.assert_allclose(heard[len(clip) :], 0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "chunk", "sentence"),
    [
        (None, np.zeros((2, 5), np.float32), r"audio must have the shape \[T\], not \[2, 5\]"),
        (None, b"abc", "^audio as bytes must be whole int16 samples, not 3 bytes$"),
        (2, np.zeros((3, 5), np.float32), r"audio must have the shape \[2, T\], not \[3, 5\]"),
        (2, np.zeros(5, np.float32), r"audio must have the shape \[2, T\], not \[5\]"),
        (None, np.array([0, np.nan], np.float32), "not finite"),
        (None, np.array([0, -np.inf], np.float32), "not finite"),
        (None, np.array([0.0, 3000.0]), "peak of 3000"),
        (None, np.array(["a"]), "samples of type"),
    ],
)
def test_an_encoder_is_unchanged_after_bad_input(batch: int | None, chunk: Any, sentence: str) -> None:
    engine = random_engine("query")
    audio = np.stack([noise(100, 1), noise(100, 2)]) if batch else noise(100)
    encoder = StreamEncoder(engine, batch)
    expected = np.concatenate([encoder.push(audio), encoder.flush()], axis=-1)
    codes = [encoder.push(audio[..., :41])]
    with pytest.raises(InputError, match=sentence):
        encoder.push(chunk)
    codes += [encoder.push(audio[..., 41:]), encoder.flush()]
    np.testing.assert_array_equal(np.concatenate(codes, axis=-1), expected)


def test_one_stream_accepts_chunks_as_sound_devices_return_them() -> None:
    engine = random_engine("query")
    samples = np.round(noise(100) * 32767).astype("<i2")
    expected = StreamEncoder(engine).push(samples)
    assert len(expected) > 4
    whole = samples.astype(np.float32) / 32768
    for chunk in (whole[:, None], whole[None], samples.tobytes(), bytearray(samples.tobytes()), samples.data):
        np.testing.assert_array_equal(StreamEncoder(engine).push(chunk), expected)
    assert StreamEncoder(engine).push(b"").shape == StreamEncoder(engine).push(whole[:0, None]).shape == (0,)


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        (np.zeros((1, 3), np.int64), r"codes must have the shape \[N\], not \[1, 3\]"),
        (np.array([0, 64]), "codes must be from 0 to 63, but code 1 is 64"),
        (np.array([-1, 0]), "codes must be from 0 to 63, but code 0 is -1"),
        (np.array([2**63], np.uint64), "codes must be from 0 to 63, but code 0 is 9223372036854775808"),
        (np.array([0.0, 1.0]), "codes must be integers, not float64"),
        (np.array([True, False]), "codes must be integers, not bool"),
    ],
)
def test_a_decoder_is_unchanged_after_bad_input(chunk: Any, sentence: str) -> None:
    engine = random_engine("query")
    codes, heard = offline(engine, noise(200))
    decoder = StreamDecoder(engine)
    pieces = [decoder.push(codes[:3])]
    with pytest.raises(InputError, match=sentence):
        decoder.push(chunk)
    pieces += [decoder.push(codes[3:]), decoder.flush()]
    np.testing.assert_allclose(np.concatenate(pieces), heard, rtol=0, atol=1e-12)


def test_codes_that_end_within_a_frame_are_refused_once() -> None:
    decoder = StreamDecoder(random_engine("query"))
    decoder.push(np.array([1, 2, 3]))
    with pytest.raises(InputError, match=r"^the codes end within a frame: 1 are left over, a frame has 2$"):
        decoder.flush()
    assert decoder.flush().shape == (0,)


def test_without_loss_a_mask_changes_nothing() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(700))[0].reshape(-1, 2)
    plain, masked = StreamDecoder(engine), StreamDecoder(engine)
    for start in range(0, len(codes), 5):
        chunk = codes[start : start + 5]
        np.testing.assert_array_equal(masked.push(chunk, np.zeros(len(chunk), bool)), plain.push(chunk))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_lost_frame_is_the_one_before_it(chunk: int) -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(700))[0].reshape(-1, 2)
    lost = np.zeros(len(codes), bool)
    lost[[4, 5, 9]] = True
    repeated = codes.copy()
    repeated[[4, 5]], repeated[9] = codes[3], codes[8]
    expected = StreamDecoder(engine).push(repeated)
    decoder = StreamDecoder(engine)
    damaged = np.where(lost[:, None], 63, codes)  # what is lost is not looked at
    cuts = range(0, len(codes), chunk)
    heard = [decoder.push(damaged[start : start + chunk], lost[start : start + chunk]) for start in cuts]
    np.testing.assert_allclose(np.concatenate(heard), expected, rtol=0, atol=1e-6)
    again = StreamDecoder(engine)
    one_by_one = [
        again.push(None) if is_lost else again.push(frame) for frame, is_lost in zip(codes, lost, strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(one_by_one), expected, rtol=0, atol=1e-6)


def test_many_lost_frames_fade_to_silence_and_the_next_one_brings_the_sound_back() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(1000))[0].reshape(-1, 2)[:20]
    lost = np.zeros(20, bool)
    lost[3:15] = True  # 12 in a row: 5 at full level, 5 that fade, 2 silent
    repeated = codes.copy()
    repeated[3:15] = codes[2]
    frame, delay = 32, engine.config.synthesis_delay
    expected, heard = StreamDecoder(engine).push(repeated), StreamDecoder(engine).push(codes, lost)
    levels = np.interp(np.arange(1, 20 * frame + 1) / frame, [0, 8, 13, 15, 16, 20], [1, 1, 0, 0, 1, 1])[delay:]
    np.testing.assert_allclose(heard, expected * levels, rtol=0, atol=1e-6)
    assert not heard[13 * frame - delay : 15 * frame - delay].any()


def test_before_the_first_frame_lost_ones_are_silent() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(300))[0].reshape(-1, 2)
    decoder = StreamDecoder(engine)
    assert not np.concatenate([decoder.push(None), decoder.push(None)]).any()
    assert decoder.push(codes).any()
    decoder.reset()
    np.testing.assert_array_equal(decoder.push(codes), StreamDecoder(engine).push(codes))


def test_rows_of_a_batch_lose_frames_of_their_own() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(400))[0].reshape(1, -1, 2)
    lost = np.zeros((2, codes.shape[1]), bool)
    lost[1, [2, 7]] = True
    both = StreamDecoder(engine, 2).push(np.repeat(codes, 2, axis=0), lost)
    np.testing.assert_allclose(both[0], StreamDecoder(engine).push(codes[0]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(both[1], StreamDecoder(engine).push(codes[0], lost[1]), rtol=0, atol=1e-6)


def test_a_session_is_kept_in_the_middle_of_a_loss() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(600))[0].reshape(-1, 2)
    first, second = StreamDecoder(engine), StreamDecoder(engine)
    first.push(codes[:4])
    for _ in range(7):
        first.push(None)
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(second.push(None), first.push(None))
    np.testing.assert_array_equal(second.push(codes[4:]), first.push(codes[4:]))


def test_a_caller_may_reuse_its_array_before_a_loss() -> None:
    engine = random_engine("query")
    codes = offline(engine, noise(300))[0].reshape(-1, 2)
    first, second, buffer = StreamDecoder(engine), StreamDecoder(engine), codes[:4].copy()
    first.push(codes[:4])
    second.push(buffer)
    kept = second.state_dict()
    buffer[:] = 0
    kept["last_frame"][:] = 0
    np.testing.assert_array_equal(second.push(None), first.push(None))


@pytest.mark.parametrize(
    ("codes", "lost", "sentence"),
    [
        (np.zeros(4, np.int64), np.zeros(3, bool), "^lost must have a boolean for each frame of 2 codes$"),
        (np.zeros(4, np.int64), np.zeros(2), "^lost must have a boolean for each frame of 2 codes$"),
        (np.zeros(4, np.int64), np.zeros((2, 2), bool), "^lost must have a boolean for each frame of 2 codes$"),
        (np.full(4, 64), np.array([True, False]), "^codes must be from 0 to 63, but code 2 is 64$"),
    ],
)
def test_masks_that_do_not_fit_are_refused(codes: NDArray[np.int64], lost: NDArray[np.bool_], sentence: str) -> None:
    decoder = StreamDecoder(random_engine("query"))
    with pytest.raises(InputError, match=sentence):
        decoder.push(codes, lost)
    decoder.push(np.zeros(1, np.int64))
    with pytest.raises(InputError, match=r"^frames can be lost only where the frame before is complete$"):
        decoder.push(None)
