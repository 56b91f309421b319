"""Batches of recordings of different lengths, the layout with codebooks first, and parts with context."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from models import random_engine, released
from numpy.typing import NDArray

from spectok import InputError, Tokenizer, pretrained
from spectok.batching import by_length
from spectok.codes import Codes, Layout
from spectok.resampling import resample

HASH = "0" * 16
FRAME = 32  # samples per frame of the tiny codecs
LENGTHS = (333, 1, 900, 16, 640, 333)
tiny = pytest.mark.parametrize("name", ["query", "flat", "vq"])


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


def noise(*shape: int) -> NDArray[np.float32]:
    return (0.2 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(random_engine("query"), HASH)


@tiny
@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("layout", ["flat", "frames", "codebooks_first"])
def test_a_batch_equals_its_recordings(name: str, batch_size: int, layout: Layout) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    audio, axis = [noise(length) for length in LENGTHS], -1 if layout == "codebooks_first" else 0
    found = tokenizer.encode_batch(audio, layout=layout, batch_size=batch_size, pad=7)
    listed = tokenizer.encode_batch(audio, padding=False, layout=layout, batch_size=batch_size)
    assert found.lengths.tolist() == listed.lengths.tolist() == list(LENGTHS)
    assert found.lengths.dtype == np.int64 and found.mask.dtype == bool and type(found.codes) is Codes
    np.testing.assert_array_equal(found.mask, listed.mask)
    for clip, row, mask, alone in zip(audio, found.codes, found.mask, listed.codes, strict=True):
        expected = tokenizer.encode(clip, layout=layout)
        np.testing.assert_array_equal(alone, expected)
        np.testing.assert_array_equal(np.compress(mask, row, axis), expected)
        assert (np.compress(~mask, row, axis) == 7).all()
        assert type(alone) is Codes and alone.model == HASH
    heard = tokenizer.decode(found.codes, found.lengths, layout=layout, mask=found.mask)
    assert heard.shape == (len(audio), max(LENGTHS))
    held = tokenizer.decode(found.codes, layout=layout, mask=found.mask)
    for number, length in enumerate(LENGTHS):
        alone_heard = tokenizer.decode(listed.codes[number], layout=layout)
        np.testing.assert_allclose(held[number, : len(alone_heard)], alone_heard, rtol=0, atol=1e-12)
        assert not held[number, len(alone_heard) :].any()
        np.testing.assert_array_equal(heard[number, :length], held[number, :length])
        assert not heard[number, length:].any()


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", pretrained.models())
def test_a_batch_of_a_released_model(name: str, engine: str, speech: NDArray[np.float32]) -> None:
    """In float32, rounding may change a code in fifty thousand; here it changes none."""
    tokenizer = released(name, engine)
    audio = [speech[:7000], speech[16000:28000], speech[9000:10000]]
    for clip, codes in zip(audio, tokenizer.encode_batch(audio, padding=False).codes, strict=True):
        np.testing.assert_array_equal(codes, tokenizer.encode(clip))


def test_arrays_and_paths_of_several_rates_make_a_batch(tokenizer: Tokenizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(500, 2), 44100, subtype="FLOAT")
    audio: list[Any] = [noise(300), tmp_path / "a.wav", (2**15 * noise(700)).astype(np.int16)]
    found = tokenizer.encode_batch(audio, 24000)
    lengths = [200, 182, 467]  # at 16 kHz, rounded up
    assert found.lengths.tolist() == lengths
    for clip, row, mask in zip(audio, found.codes, found.mask, strict=True):
        np.testing.assert_array_equal(row[mask], tokenizer.encode(clip, 24000))
    at_24k = tokenizer.decode(found.codes, [300, 273, 700], 24000, mask=found.mask)
    alone = tokenizer.decode(found.codes[0][found.mask[0]], 300, 24000)
    np.testing.assert_allclose(at_24k[0], np.pad(alone, (0, 400)), rtol=0, atol=1e-6)


def test_tensors_give_a_batch_of_tensors(tokenizer: Tokenizer) -> None:
    audio = [torch.from_numpy(noise(length)) for length in (100, 40)]
    found = tokenizer.encode_batch(audio)
    assert [part.dtype for part in found] == [torch.int64, torch.bool, torch.int64]
    assert found.lengths.tolist() == [100, 40]
    assert torch.equal(found.codes[1][found.mask[1]], tokenizer.encode(audio[1]))
    heard = tokenizer.decode(found.codes, found.lengths, mask=found.mask)
    assert isinstance(heard, torch.Tensor) and heard.shape == (2, 100)
    assert all(isinstance(codes, torch.Tensor) for codes in tokenizer.encode_batch(audio, padding=False).codes)


def test_groups_have_similar_lengths() -> None:
    assert list(by_length([5, 90, 7, 80, 6], 2)) == [[1, 3], [2, 4], [0]]


@pytest.mark.parametrize(
    ("audio", "options", "sentence"),
    [
        ([], {}, "^a batch must be a list of at least one recording$"),
        (noise(2, 100), {}, "^a batch must be a list of at least one recording$"),
        ([noise(5)], {"batch_size": 0}, "^the batch size is 0, but must be positive$"),
        ([noise(5)], {"layout": "rows"}, "^the layout is 'rows', but must be 'flat', 'frames' or 'codebooks_first'$"),
        ([noise(5), noise(2, 9)], {}, r"^recording 1 of the batch: it has shape \[2, 9\], but must be \[T\]$"),
        ([noise(5), noise(0)], {}, "^recording 1 of the batch: the audio holds no samples$"),
        ([noise(5), None], {}, "^recording 1 of the batch: the audio is None"),
        (["no such file.wav"], {}, "No such file"),
        ([noise(5)], {"sample_rate": 10}, "has a sample rate of 10 Hz"),
    ],
    ids=str,
)
def test_other_batches_are_refused(tokenizer: Tokenizer, audio: Any, options: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        tokenizer.encode_batch(audio, **options)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ([[1, 1, 1, 1], [1, 1, 1, 0]], "^the mask of row 1 ends within a frame of 2 codes$"),
        ([[1, 1, 1, 1], [0, 0, 1, 1]], "^the padding of row 1 is not at its end$"),
        ([[1, 0], [0, 1]], "^the padding of row 1 is not at its end$"),
        ([[1, 2], [1, 1]], "^the mask must hold only True and False, or 1 and 0$"),
        ([[1, 1, 1], [1, 1, 1]], r"^the mask has the shape \[2, 3\], but must have \[2, 4\] or \[2, 2\]$"),
        ([1, 1], r"^the mask has the shape \[2\], but must have \[2, 4\] or \[2, 2\]$"),
    ],
    ids=str,
)
def test_other_masks_are_refused(tokenizer: Tokenizer, mask: Any, sentence: str) -> None:
    with refuses(sentence):
        tokenizer.decode(np.zeros((2, 4), np.int64), mask=np.array(mask))


def test_a_mask_needs_a_batch_and_its_lengths(tokenizer: Tokenizer) -> None:
    codes, mask = np.zeros((2, 4), np.int64), np.ones((2, 2), bool)
    with refuses("^a mask belongs to a padded batch, without context$"):
        tokenizer.decode(codes[0], mask=mask)
    with refuses("^a mask belongs to a padded batch, without context$"):
        tokenizer.decode(codes, mask=mask, context=1)
    with refuses("^a mask belongs to a padded batch, not to a list$"):
        tokenizer.decode([codes[0]], mask=mask)
    mask[1, 1] = False
    with refuses("^the codes hold 16 samples, not 48$"):
        tokenizer.decode(codes, [48, 48], mask=mask)
    assert tokenizer.decode(codes, 16, mask=mask).shape == (2, 16)


@tiny
def test_codes_with_codebooks_first(name: str) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    audio, tokens = noise(3, 333), tokenizer.tokens_per_frame
    frames = tokenizer.encode(audio, layout="frames")
    for given in (audio, audio[:, None]):
        codes = tokenizer.encode(given, layout="codebooks_first")
        assert codes.shape == (3, tokens, frames.shape[1])
        np.testing.assert_array_equal(codes, frames.swapaxes(1, 2))
    heard = tokenizer.decode(frames, 333)
    np.testing.assert_array_equal(tokenizer.decode(codes, 333, layout="codebooks_first"), heard)
    alone = tokenizer.encode(audio[0], layout="codebooks_first")
    np.testing.assert_array_equal(alone, codes[0])
    np.testing.assert_allclose(tokenizer.decode(alone, 333, layout="codebooks_first"), heard[0], rtol=0, atol=1e-12)
    assert tokenizer.vocabulary(pattern="delay").encode(codes, "codebooks_first").shape[1] == tokens


def test_short_audio_with_a_channel_axis_is_a_batch(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(noise(9, 1, 8)).shape == (9, 2)  # as [9, 8] it would look like channels


@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 3, 4), (2, 2, 2, 2)])
def test_codes_without_codebooks_first_are_refused(tokenizer: Tokenizer, shape: tuple[int, ...]) -> None:
    with refuses(r"^codes must be \[2, F\] or \[B, 2, F\], not \[.*\]$"):
        tokenizer.decode(np.zeros(shape, np.int64), layout="codebooks_first")


@tiny
@pytest.mark.parametrize("layout", ["flat", "frames", "codebooks_first"])
def test_parts_with_all_their_context_are_the_whole(name: str, layout: Layout) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    frames = tokenizer.encode(noise(2, 700), layout="frames")
    whole, delay = tokenizer.decode(frames), tokenizer.config.synthesis_delay

    def decoded(first: int, stop: int) -> NDArray[np.float32]:
        part: NDArray[Any] = frames[:, :stop]
        part = {"flat": part.reshape(2, -1), "frames": part, "codebooks_first": part.swapaxes(1, 2)}[layout]
        return tokenizer.decode(part, layout=layout, context=first)

    parts = [decoded(first, first + 4) for first in (0, 4, 8, 12, 16, 20)]
    assert [part.shape[1] for part in parts] == [4 * FRAME - delay, *[4 * FRAME] * 4, 3 * FRAME]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-12)
    assert decoded(4, 4).shape == (2, 0)
    one = tokenizer.decode(frames[0, :9], 64, 8000, "frames", context=5)
    np.testing.assert_allclose(one, resample(decoded(5, 9)[0], 16000, 8000), rtol=0, atol=1e-6)


@pytest.mark.parametrize("context", [-1, 6, 1.5])
def test_other_contexts_are_refused(tokenizer: Tokenizer, context: Any) -> None:
    with refuses(f"^the context is {context} frames, but must be from 0 to the 5 of the codes$"):
        tokenizer.decode(np.zeros(10, np.int64), context=context)


def test_a_context_is_at_least_the_overlap_of_the_synthesis() -> None:
    from models import echo_engine

    tokenizer = Tokenizer(echo_engine("overlap of three frames"), HASH)  # 48 samples in frames of 16
    audio = noise(160)
    codes = tokenizer.encode(audio, layout="frames")
    with refuses("^the context is 2 frames, but must be 0 or at least 3$"):
        tokenizer.decode(codes, layout="frames", context=2)
    part = tokenizer.decode(codes[1:], layout="frames", context=6)
    np.testing.assert_allclose(part, tokenizer.decode(codes, layout="frames")[7 * 16 - 48 :], rtol=0, atol=1e-4)
