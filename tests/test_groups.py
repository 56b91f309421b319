"""Groups of streams: each stream's output is that of a session of its own."""

from typing import Any

import numpy as np
import pytest
from models import random_engine, released
from numpy.typing import NDArray
from streams import noise, through

from spectok import InputError, StreamDecoder, StreamEncoder, StreamGroup, Tokenizer, pretrained


def run_group(group: StreamGroup, streams: list[NDArray[Any]], seed: int) -> list[NDArray[Any]]:
    """Push all streams in chunks of random sizes, of which some are empty; each joins and leaves at its own time."""
    random = np.random.default_rng(seed)
    longest = max(map(len, streams)) // 5
    outputs: list[list[NDArray[Any]]] = [[] for _ in streams]
    places, keys = [0] * len(streams), dict[int, int]()
    waiting = list(range(len(streams)))
    while waiting or keys:
        if waiting:
            keys[waiting.pop()] = group.join()
        sizes = {number: int(random.integers(0, longest)) for number in keys if random.random() < 0.8}
        found = group.push({keys[n]: streams[n][places[n] : places[n] + size] for n, size in sizes.items()})
        assert found.keys() == {keys[n] for n in sizes}
        for number, size in sizes.items():
            outputs[number].append(found[keys[number]])
            places[number] += size
            if places[number] >= len(streams[number]):
                outputs[number].append(group.leave(keys.pop(number)))
        assert len(group) == len(keys)
    return [np.concatenate(parts) for parts in outputs]


@pytest.mark.parametrize("rate", [16000, 24000])
@pytest.mark.parametrize("name", ["query", "flat", "vq"])
def test_streams_of_a_group_equal_single_sessions(name: str, rate: int) -> None:
    tokenizer = Tokenizer(random_engine(name), "0" * 16)
    audio = [noise(length, seed) for seed, length in enumerate((900, 333, 1, 700, 1200))]
    expected = [through(tokenizer.stream_encoder(rate), [clip]) for clip in audio]
    for found, codes in zip(run_group(tokenizer.encoder_group(rate), audio, 0), expected, strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, codes)
    heard = [through(tokenizer.stream_decoder(rate), [codes]) for codes in expected]
    for found, clip in zip(run_group(tokenizer.decoder_group(rate), expected, 1), heard, strict=True):
        np.testing.assert_allclose(found, clip, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", pretrained.models())
def test_streams_of_a_group_of_a_released_model(name: str, engine: str, speech: NDArray[np.float32]) -> None:
    """In float32, rounding may change a code in fifty thousand; here it changes none."""
    tokenizer = released(name, engine)
    audio = [speech[start : start + 12000] for start in (0, 16000, 24000, 40000)]
    expected = [tokenizer.encode(clip) for clip in audio]
    for found, codes in zip(run_group(tokenizer.encoder_group(), audio, 2), expected, strict=True):
        np.testing.assert_array_equal(found, codes)
    for found, codes in zip(run_group(tokenizer.decoder_group(), expected, 3), expected, strict=True):
        np.testing.assert_allclose(found, tokenizer.decode(codes), rtol=0, atol=1e-4)


def test_streams_of_equal_length_take_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, shapes = random_engine("query"), list[tuple[int, ...]]()
    step = engine.encode_step

    def counted(audio: NDArray[np.float32], state: Any) -> Any:
        shapes.append(audio.shape)
        return step(audio, state)

    monkeypatch.setattr(engine, "encode_step", counted)
    group = StreamGroup(StreamEncoder, engine)
    keys = [group.join() for _ in range(3)]
    group.push(dict.fromkeys(keys, noise(40)))
    assert shapes == [(3, 32)]
    group.push({keys[0]: noise(24), keys[1]: noise(24 + 64), keys[2]: noise(3)})
    assert shapes[1:] == [(2, 32), (1, 64)]


@pytest.mark.parametrize("rate", [16000, 24000])
def test_lost_frames_in_a_group_are_concealed_as_in_a_session(rate: int) -> None:
    """One stream of two loses frames: before its first, after some, and for so long that it fades."""
    engine = random_engine("query")
    group = StreamGroup(StreamDecoder, engine, rate)
    keys = [group.join(), group.join()]
    sessions = [StreamDecoder(engine, None, rate) for _ in keys]
    codes = np.random.default_rng(0).integers(0, 64, (2, 40))
    for step, lost in enumerate((2, 0, 1, 0, 9, 0, 0, 3, 0, 0)):
        if lost:
            expected = sessions[0].push(np.zeros(2 * lost, np.int64), np.ones(lost, bool))
            np.testing.assert_allclose(group.lose(keys[0], lost), expected, rtol=0, atol=1e-9)
        chunk = codes[:, 4 * step : 4 * step + 4]
        found = group.push(dict(zip(keys, chunk, strict=True)))
        for key, session, row in zip(keys, sessions, chunk, strict=True):
            np.testing.assert_allclose(found[key], session.push(row), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"^frames can only be lost before they are decoded$"):
        encoders = StreamGroup(StreamEncoder, engine)
        encoders.lose(encoders.join(), 1)


def test_streams_of_a_group_can_have_rates_of_their_own() -> None:
    tokenizer = Tokenizer(random_engine("query"), "0" * 16)
    group, rates, audio = tokenizer.encoder_group(), (16000, 24000, 48000), noise(3000)
    keys = [group.join(rate) for rate in rates]
    codes = group.push(dict.fromkeys(keys, audio))
    for key, rate in zip(keys, rates, strict=True):
        found = np.concatenate([codes[key], group.leave(key)])
        np.testing.assert_array_equal(found, tokenizer.encode(audio, rate))
    with pytest.raises(InputError, match="sample rate of 999 Hz"):
        group.join(999)


def test_a_discarded_stream_is_gone() -> None:
    group = StreamGroup(StreamEncoder, random_engine("query"))
    key = group.join()
    group.push({key: noise(40)})
    group.discard(key)
    assert len(group) == 0
    with pytest.raises(InputError, match=rf"^no stream of the group has the key {key}$"):
        group.discard(key)


def test_a_group_is_unchanged_after_bad_input() -> None:
    engine = random_engine("query")
    group = StreamGroup(StreamEncoder, engine)
    first, second = group.join(), group.join()
    audio = noise(200)
    with pytest.raises(InputError, match="not finite"):
        group.push({first: audio, second: np.array([np.nan])})
    with pytest.raises(InputError, match=r"^no stream of the group has the key 7$"):
        group.push({first: audio, 7: audio})
    codes = np.concatenate([group.push({first: audio})[first], group.leave(first)])
    np.testing.assert_array_equal(codes, through(StreamEncoder(engine), [audio]))
    with pytest.raises(InputError, match=rf"^no stream of the group has the key {first}$"):
        group.leave(first)
    assert group.join() not in (first, second)


def test_codes_that_end_within_a_frame_are_refused_and_the_stream_has_left() -> None:
    group = StreamGroup(StreamDecoder, random_engine("query"))
    key = group.join()
    assert group.push({}) == {}
    group.push({key: np.array([1, 2, 3])})
    with pytest.raises(InputError, match=r"^the codes end within a frame: 1 are left over, a frame has 2$"):
        group.leave(key)
    assert len(group) == 0
