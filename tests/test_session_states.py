"""Sessions that are kept, copied and pickled in the middle of a stream, and used by two threads."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import RandomEngine, random_engine, released
from numpy.typing import NDArray
from streams import noise

from spectok import InputError, StreamDecoder, StreamEncoder, StreamGroup, Tokenizer, pretrained

HASH = "0123456789abcdef"


def stored(session: Any) -> Any:
    """A new session that continues, from a file that `np.savez` wrote."""
    file = io.BytesIO()
    np.savez(file, **session.state_dict())
    file.seek(0)
    after = type(session)(session._engine, session._batch, session.sample_rate, session._weight_hash)
    after.load_state_dict(np.load(file))
    return after


def loaded(session: Any) -> Any:
    """A used session of the same engine, after it has loaded the state."""
    other = copy.copy(session)
    other.push(np.zeros(200, np.int64 if isinstance(session, StreamDecoder) else np.float32))
    other.load_state_dict(session.state_dict())
    return other


copies = pytest.mark.parametrize(
    "again",
    [stored, loaded, copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))],
    ids=["stored", "loaded", "copy", "deepcopy", "pickle"],
)


def check(tokenizer: Tokenizer, audio: NDArray[np.float32], again: Callable[[Any], Any]) -> None:
    """Interrupt a stream within its first frame, within a later frame, and between frames."""
    frame = tokenizer.frame_length
    for place in (frame // 3, 3 * frame + frame // 2, 6 * frame):
        encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
        first = encoder.push(audio[:place])
        other = again(encoder)
        rest = np.concatenate([encoder.push(audio[place:]), encoder.flush()])
        np.testing.assert_array_equal(np.concatenate([other.push(audio[place:]), other.flush()]), rest)
        codes = np.concatenate([first, rest])
        place = place * len(codes) // len(audio)
        decoder.push(codes[:place])
        other = again(decoder)
        heard = decoder.push(codes[place:])
        assert np.abs(heard).max() > 1e-3
        np.testing.assert_array_equal(other.push(codes[place:]), heard)


@copies
@pytest.mark.parametrize("name", ["query", "flat", "vq"])
def test_a_session_continues_bit_for_bit(name: str, again: Callable[[Any], Any]) -> None:
    check(Tokenizer(random_engine(name), HASH), noise(500), again)


@copies
@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", pretrained.models())
def test_a_session_of_a_released_model_continues_bit_for_bit(
    name: str, engine: str, again: Callable[[Any], Any], speech: NDArray[np.float32]
) -> None:
    check(released(name, engine), speech[16000:20000], again)


def test_a_batch_is_kept() -> None:
    audio, engine = np.stack([noise(300, 1), noise(300, 2)]), random_engine("query")
    encoder = StreamEncoder(engine, 2)
    encoder.push(audio[:, :77])
    other = stored(encoder)
    np.testing.assert_array_equal(other.push(audio[:, 77:]), encoder.push(audio[:, 77:]))


def test_the_content_of_a_kept_state(speech: NDArray[np.float32]) -> None:
    tokenizer = released("spectok-16k-800")
    encoder = tokenizer.stream_encoder()
    fresh = encoder.state_dict()
    assert fresh.pop("waiting").shape == (1, 0)
    identity = {"side": "encoder", "model": "spectok-16k-800", "weights": tokenizer.weight_hash, "batch": 0}
    identity["sample_rate"] = 16000
    assert fresh == identity | {"samples": 0}
    encoder.push(speech[:1000])
    state = encoder.state_dict()
    np.testing.assert_array_equal(state["waiting"], speech[None, 960:1000])
    assert state["samples"] == 1000
    parts = {name.split(".")[2] for name in state if name.startswith("engine.state.")}
    assert parts == {"stft", "tower", "context", "silence"}
    assert sum(np.asarray(value).nbytes for value in state.values()) < 20000
    state["waiting"][:] = 0.5  # the session does not share its arrays
    np.testing.assert_array_equal(encoder.state_dict()["waiting"], speech[None, 960:1000])


def test_copies_share_the_engine() -> None:
    encoder = StreamEncoder(random_engine("query"))
    assert copy.deepcopy(encoder)._engine is copy.copy(encoder)._engine is encoder._engine


def used(**arguments: Any) -> StreamEncoder:
    encoder = StreamEncoder(random_engine("query"), **arguments)
    encoder.push(noise(100))
    return encoder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "tiny-flat"}, "the kept session has the model tiny-flat, not tiny-query"),
        ({"weights": "f" * 16}, f"the kept session has the weights {'f' * 16}, not {HASH}"),
        ({"side": "decoder"}, "the kept session has the side decoder, not encoder"),
        ({"batch": 1}, "the kept session has the batch 1, not 0"),
        ({"sample_rate": 8000}, "the kept session has the sample rate 8000, not 16000"),
        (
            {"more": 1},
            "a kept session has batch, model, sample_rate, samples, side, waiting, weights and the engine's arrays",
        ),
        (
            {"engine.0": np.zeros((1, 5))},
            "the state is of another engine or codec: its arrays have other names, shapes or types",
        ),
        (
            {"engine.x": np.zeros(1)},
            "the state is of another engine or codec: its arrays have other names, shapes or types",
        ),
        *(
            (change, "the kept session has waiting input or a counter of another shape or type")
            for change in (
                {"waiting": np.zeros((1, 32), np.float32)},
                {"waiting": np.zeros((2, 3), np.float32)},
                {"waiting": np.zeros(3, np.float32)},
                {"waiting": np.zeros((1, 3))},
                {"samples": 1.5},
                {"samples": np.zeros(2, np.int64)},
            )
        ),
        ({"side": np.array(["encoder"] * 2)}, "the kept session has the side None, not encoder"),
        ({"batch": np.zeros(2, np.int64)}, "the kept session has the batch None, not 0"),
        (
            {"model": np.frombuffer(bytes([255]) * 8, "<U2").reshape(())},
            "the kept session has the model None, not tiny-query",
        ),
        ({"model": "x" * 1000}, f"the kept session has the model {'x' * 80}, not tiny-query"),
        ({"samples": -1}, "the kept session has -1 samples"),
        (
            {"waiting": np.full((1, 3), np.nan, np.float32)},
            "the audio has samples that are not finite (NaN or infinity)",
        ),
    ],
)
def test_another_state_is_refused_and_the_session_unchanged(change: dict[str, Any], sentence: str) -> None:
    encoder, expected = used(weight_hash=HASH), used()
    with pytest.raises(InputError) as caught:
        encoder.load_state_dict(encoder.state_dict() | change)
    assert str(caught.value) == sentence
    np.testing.assert_array_equal(encoder.push(noise(100)), expected.push(noise(100)))


@pytest.mark.parametrize("damage", [np.nan, -np.inf])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_state_with_numbers_that_are_not_finite_is_refused(
    side: str, damage: float, speech: NDArray[np.float32]
) -> None:
    tokenizer = released("spectok-16k-4k")
    session: Any = tokenizer.stream_encoder() if side == "encoder" else tokenizer.stream_decoder()
    chunk: Any = speech[16000:18000] if side == "encoder" else tokenizer.encode(speech[16000:18000])
    session.push(chunk)
    state, other = session.state_dict(), copy.copy(session)
    for name, array in state.items():
        if name.startswith("engine.") and array.dtype == np.float32:
            with pytest.raises(InputError, match=r"^the state has values that no stream has$"):
                session.load_state_dict(state | {name: np.full_like(array, damage)})
    np.testing.assert_array_equal(session.push(chunk), other.push(chunk))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"last_frame": np.full((1, 8), 1024)}, "the kept session has last frame out of range"),
        ({"last_frame": np.full((1, 8), -2)}, "the kept session has last frame out of range"),
        ({"lost_in_row": np.array([2**63 - 1])}, "the kept session has lost in row out of range"),
        ({"waiting": np.array([[-1]])}, "codes must be from 0 to 1023, but code 0 is -1"),
        ({"engine.state.excitation.0.1": np.array([[10**6]])}, "the state has values that no stream has"),
    ],
)
def test_numbers_that_no_decoder_has_are_refused(
    change: dict[str, Any], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last one would be an index past the end of a table; ONNX Runtime says nothing on its own."""
    decoder = released("spectok-16k-4k").stream_decoder()
    decoder.push(np.arange(80))
    with pytest.raises(InputError, match=f"^{sentence}$"):
        decoder.load_state_dict(decoder.state_dict() | change)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_of_a_session_is_refused_in_one_sentence() -> None:
    """np.load finds damage when it reads an array, which is within `load_state_dict`."""
    session = used()
    file = io.BytesIO()
    np.savez(file, **session.state_dict())
    content = bytearray(file.getvalue())
    content[content.index(b"NUMPY") + 100] ^= 1
    with pytest.raises(InputError, match=r"^cannot read the kept session: Bad CRC-32 for file 'side\.npy'$"):
        session.load_state_dict(np.load(io.BytesIO(content)))


def test_a_hash_is_compared_only_if_both_sessions_know_one() -> None:
    named, nameless = used(weight_hash=HASH), used()
    named.load_state_dict(nameless.state_dict())
    nameless.load_state_dict(named.state_dict())


def test_the_state_of_another_engine_is_refused(speech: NDArray[np.float32]) -> None:
    onnx, other = (released("spectok-16k-800", engine).stream_encoder() for engine in ("onnx", "torch"))
    for session in (onnx, other):
        session.push(speech[:1000])
    for session, state in ((onnx, other.state_dict()), (other, onnx.state_dict())):
        with pytest.raises(InputError, match=r"^the state is of another engine or codec: "):
            session.load_state_dict(state)


@copies
@pytest.mark.parametrize("rate", [8000, 12000, 48000])
def test_a_session_that_resamples_continues_bit_for_bit(rate: int, again: Callable[[Any], Any]) -> None:
    """Before the resampler has returned anything, and within one of its blocks."""
    tokenizer, audio = Tokenizer(random_engine("query"), HASH), noise(rate // 2)
    codes = tokenizer.encode(audio, rate)
    for place in (rate // 99, rate // 4 + 1):
        encoder, decoder = tokenizer.stream_encoder(rate), tokenizer.stream_decoder(rate)
        encoder.push(audio[:place])
        other = again(encoder)
        for start in range(place, len(audio), rate // 50):
            chunk = audio[start : start + rate // 50]
            np.testing.assert_array_equal(other.push(chunk), encoder.push(chunk))
        np.testing.assert_array_equal(other.flush(), encoder.flush())
        place = place * len(codes) // len(audio)
        decoder.push(codes[:place])
        other = again(decoder)
        heard = [np.concatenate([session.push(codes[place:]), session.flush()]) for session in (decoder, other)]
        assert np.abs(heard[0]).max() > 1e-3
        np.testing.assert_array_equal(heard[1], heard[0])


def test_a_batch_that_resamples_is_kept() -> None:
    audio = np.stack([noise(4000, 1), noise(4000, 2)])
    encoder = StreamEncoder(random_engine("query"), 2, 8000)
    encoder.push(audio[:, :1777])
    other = stored(encoder)
    expected = encoder.push(audio[:, 1777:])
    assert expected.size > 0
    np.testing.assert_array_equal(other.push(audio[:, 1777:]), expected)


def test_the_kept_state_of_a_session_that_resamples() -> None:
    encoder = StreamEncoder(random_engine("query"), sample_rate=8000)
    audio = noise(4000)
    encoder.push(audio)
    state = encoder.state_dict()
    recent, counts = state["resampler_recent"], state["resampler_counts"]
    assert recent.dtype == np.float32 and counts.dtype == np.int64
    assert recent.shape[0] == 1 and 2700 < recent.shape[1] < 2900  # samples, three times the lag of about 0.117 s
    np.testing.assert_array_equal(recent[0], audio[-recent.shape[1] :])
    assert counts.tolist() == [4000, state["samples"]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"resampler_recent": np.zeros((1, 9), np.float32)}, "the kept session has resampler recent of another shape"),
        ({"resampler_counts": np.zeros(2)}, "the kept session has resampler counts of another shape or type"),
        (
            {"resampler_counts": np.array([100, 100])},
            "of 100 samples that are resampled from 8000 to 16000 Hz, 100 cannot have been returned",
        ),
        ({"sample_rate": 48000}, "the kept session has the sample rate 48000, not 8000"),
    ],
)
def test_another_state_of_a_resampler_is_refused_and_the_session_unchanged(
    change: dict[str, Any], sentence: str
) -> None:
    encoder, expected = used(sample_rate=8000), used(sample_rate=8000)
    with pytest.raises(InputError) as caught:
        encoder.load_state_dict(encoder.state_dict() | change)
    assert str(caught.value).startswith(sentence)
    np.testing.assert_array_equal(encoder.push(noise(3000)), expected.push(noise(3000)))


def test_the_state_of_another_sample_rate_is_refused() -> None:
    for session, other in ((used(sample_rate=8000), used()), (used(), used(sample_rate=8000))):
        rates = f"{other.sample_rate}, not {session.sample_rate}"
        with pytest.raises(InputError, match=f"^the kept session has the sample rate {rates}$"):
            session.load_state_dict(other.state_dict())


class SlowEngine(RandomEngine):
    """Waits in each step of the encoder until another thread has had its turn."""

    def __init__(self) -> None:
        super().__init__(random_engine("query").config, torch.float32)
        self.entered, self.goes_on = threading.Event(), threading.Event()

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        self.entered.set()
        assert self.goes_on.wait(10)
        return super().encode_step(audio, state)


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.push(noise(10)),
        lambda session: session.flush(),
        lambda session: session.reset(),
        lambda session: session.state_dict(),
        lambda session: copy.copy(session),
    ],
    ids=["push", "flush", "reset", "state_dict", "copy"],
)
def test_two_threads_in_one_session_are_refused_and_the_stream_is_whole(use: Callable[[StreamEncoder], Any]) -> None:
    engine = SlowEngine()
    encoder, codes = StreamEncoder(engine), list[NDArray[np.int64]]()
    thread = threading.Thread(target=lambda: codes.append(encoder.push(noise(200))))
    thread.start()
    assert engine.entered.wait(10)
    try:
        with pytest.raises(InputError, match=r"^two threads used a session at the same time; "):
            use(encoder)
    finally:
        engine.goes_on.set()
        thread.join()
    codes.append(encoder.flush())
    again = StreamEncoder(engine)
    np.testing.assert_array_equal(np.concatenate(codes), np.concatenate([again.push(noise(200)), again.flush()]))


class SlowDecoder(SlowEngine):
    """Waits in each step of the decoder in place of the encoder."""

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        return RandomEngine.encode_step(self, audio, state)

    def decode_step(self, codes: Any, state: Any, lost: Any = None) -> Any:
        self.entered.set()
        assert self.goes_on.wait(10)
        return super().decode_step(codes, state, lost)


def refused_meanwhile(engine: SlowDecoder, push: Callable[[], Any], use: Callable[[], Any]) -> None:
    """A second thread that does `use` while another is in `push`."""
    thread = threading.Thread(target=push)
    thread.start()
    assert engine.entered.wait(10)
    try:
        with pytest.raises(InputError, match=r"^two threads used a session at the same time; "):
            use()
    finally:
        engine.goes_on.set()
        thread.join()


@pytest.mark.parametrize(
    "use",
    [
        lambda decoder: decoder.push(np.arange(10)),
        lambda decoder: decoder.push(None),
        lambda decoder: decoder.flush(),
        lambda decoder: decoder.reset(),
        lambda decoder: decoder.state_dict(),
    ],
    ids=["push", "lost", "flush", "reset", "state_dict"],
)
def test_two_threads_in_one_decoder_are_refused(use: Callable[[StreamDecoder], Any]) -> None:
    engine = SlowDecoder()
    decoder = StreamDecoder(engine)
    refused_meanwhile(engine, lambda: decoder.push(np.arange(20)), lambda: use(decoder))


@pytest.mark.parametrize(
    "use",
    [
        lambda group, key: group.push({key: np.arange(20)}),
        lambda group, key: group.join(),
        lambda group, key: group.leave(key),
        lambda group, key: group.discard(key),
        lambda group, key: group.lose(key, 1),
    ],
    ids=["push", "join", "leave", "discard", "lose"],
)
def test_two_threads_in_one_group_are_refused(use: Callable[[StreamGroup, int], Any]) -> None:
    engine = SlowDecoder()
    group = StreamGroup(StreamDecoder, engine)
    key = group.join()
    refused_meanwhile(engine, lambda: group.push({key: np.arange(20)}), lambda: use(group, key))


def test_a_session_can_be_used_after_an_error() -> None:
    encoder = StreamEncoder(random_engine("query"))
    for _ in range(2):
        with pytest.raises(InputError, match="not finite"):
            encoder.push(np.array([np.nan], np.float32))
    assert len(encoder.push(noise(100))) == 6
