"""The ids of codes in a language model: exact inverses, in both patterns, and what is refused."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from models import random_engine, released
from numpy.typing import NDArray

from spectok import InputError, Tokenizer
from spectok.codes import Layout
from spectok.vocabulary import SPECIALS, Pattern, Vocabulary

PATTERNS: tuple[Pattern, ...] = ("flat", "delay")
SMALL = Vocabulary(4, 2, offset=100)  # codes 100 to 103, special tokens 104 to 108
APART = dataclasses.replace(SMALL, separate=True)  # codes 100 to 103 and 104 to 107, special tokens 108 to 112
DELAY = dataclasses.replace(SMALL, pattern="delay")


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    return Vocabulary(
        codebook_size=draw(st.integers(1, 70000)),
        tokens_per_frame=draw(st.integers(1, 12)),
        offset=draw(st.integers(0, 1 << 40)),
        specials=draw(st.permutations(SPECIALS)),
        pattern=draw(st.sampled_from(PATTERNS)),
        separate=draw(st.booleans()),
    )


untimed = settings(deadline=None, derandomize=True, database=None)


@untimed
@given(vocabularies(), st.integers(1, 3), st.integers(0, 9), st.data())
def test_decoding_is_the_inverse_of_encoding(
    vocabulary: Vocabulary, batch: int, frames: int, data: st.DataObject
) -> None:
    tokens = vocabulary.tokens_per_frame
    shape = (batch, frames, tokens)
    codes = data.draw(arrays(np.int64, shape, elements=st.integers(0, vocabulary.codebook_size - 1)))
    flat = codes.reshape(batch, -1)
    ids = vocabulary.encode(codes)
    steps = (frames * tokens,) if vocabulary.pattern == "flat" else (tokens, frames + tokens - 1)
    assert ids.shape == (batch, *steps) and ids.dtype == np.int64
    assert vocabulary.offset <= ids.min(initial=vocabulary.offset)
    assert ids.max(initial=vocabulary.offset) < vocabulary.end_of_ids
    np.testing.assert_array_equal(vocabulary.decode(ids), flat)
    np.testing.assert_array_equal(vocabulary.encode(flat, layout="flat"), ids)
    for row in range(batch):
        np.testing.assert_array_equal(vocabulary.encode(flat[row]), ids[row])
        np.testing.assert_array_equal(vocabulary.encode(codes[row], layout="frames"), ids[row])
        np.testing.assert_array_equal(vocabulary.decode(ids[row]), flat[row])
        # A recording between special tokens, as a language model gets it.
        edges = [data.draw(st.lists(st.sampled_from(SPECIALS), max_size=3)) for _ in range(2)]
        before, after = (
            np.tile(np.array([vocabulary.id_of(name) for name in names], np.int64), (*steps[:-1], 1)) for names in edges
        )
        framed = np.concatenate([before.reshape(*steps[:-1], -1), ids[row], after.reshape(*steps[:-1], -1)], axis=-1)
        np.testing.assert_array_equal(vocabulary.decode(framed), flat[row])


@untimed
@given(vocabularies())
def test_ids_of_different_meaning_are_different(vocabulary: Vocabulary) -> None:
    tokens, last = vocabulary.tokens_per_frame, vocabulary.codebook_size - 1
    flat = dataclasses.replace(vocabulary, pattern="flat")
    ids = flat.encode(np.array([0] * tokens + [last] * tokens)).reshape(2, tokens)
    step = vocabulary.codebook_size if vocabulary.separate else 0
    np.testing.assert_array_equal(ids[0], vocabulary.offset + step * np.arange(tokens))
    np.testing.assert_array_equal(ids[1], ids[0] + last)
    specials = [vocabulary.id_of(name) for name in vocabulary.specials]
    assert specials == list(range(int(ids.max()) + 1, vocabulary.end_of_ids))
    assert vocabulary.size == vocabulary.end_of_ids - vocabulary.offset == len(specials) + specials[0] - ids[0, 0]


def test_ids_by_hand() -> None:
    codes = np.array([[0, 1], [2, 3], [1, 0]])
    assert SMALL.encode(codes, layout="frames").tolist() == [100, 101, 102, 103, 101, 100]
    assert APART.encode(codes, layout="frames").tolist() == [100, 105, 102, 107, 101, 104]
    pad = DELAY.id_of("pad")
    assert pad == 106
    assert DELAY.encode(codes, layout="frames").tolist() == [[100, 102, 101, pad], [pad, 101, 103, 100]]
    assert (SMALL.size, SMALL.end_of_ids) == (9, 109)
    assert (APART.size, APART.end_of_ids) == (13, 113)
    assert [SMALL.id_of(name) for name in SPECIALS] == [104, 105, 106, 107, 108]


def test_the_delay_pattern_of_four_codebooks() -> None:
    """Figure 1 of arXiv 2306.05284: code k of a frame is predicted k steps after the first one."""
    vocabulary = Vocabulary(100, 4, specials=("pad",), pattern="delay")
    codes = np.arange(1, 21).reshape(5, 4)
    ids = vocabulary.encode(codes, layout="frames")
    assert ids.shape == (4, 8)
    for frame in range(5):
        for k in range(4):
            assert ids[k, frame + k] == codes[frame, k]
    assert (ids == 100).sum() == 12


def test_specials_at_both_ends_are_dropped_and_no_others() -> None:
    begin, end, pad = (SMALL.id_of(name) for name in ("begin", "end", "pad"))
    assert SMALL.decode([begin, 100, 103, end, pad, pad]).tolist() == [0, 3]
    assert SMALL.decode([begin, end]).tolist() == SMALL.decode(np.zeros(0, np.int64)).tolist() == []
    with refuses("^id 2 is 104, but must be from 100 to 103$"):
        SMALL.decode([begin, 100, begin, 103, end])
    assert DELAY.decode([[begin, 100, pad, end], [begin, pad, 103, end]]).tolist() == [0, 3]
    with refuses(r"^the id at step 1 of row 1 is 104, but must be 106, the special token 'pad'$"):
        DELAY.decode([[begin, 100, pad, end], [begin, begin, 103, end]])


def test_tensors_give_tensors() -> None:
    codes = torch.tensor([[0, 1, 2, 3]])
    ids = SMALL.encode(codes)
    assert isinstance(ids, torch.Tensor) and ids.tolist() == [[100, 101, 102, 103]]
    assert torch.equal(SMALL.decode(ids), codes)


@pytest.mark.parametrize(
    ("vocabulary", "ids", "sentence"),
    [
        (SMALL, [100, 99], "^id 1 is 99, but must be from 100 to 103$"),
        (SMALL, [100, 109], "^id 1 is 109, but must be from 100 to 103$"),
        (SMALL, [[100, 100], [100, -1]], "^id 1 of recording 1 is -1, but must be from 100 to 103$"),
        (APART, [104, 104], "^id 0 is 104, but must be from 100 to 103$"),
        (APART, [100, 103], "^id 1 is 103, but must be from 104 to 107$"),
        (SMALL, [100], "^the ids end within a frame: 1 are left over, a frame has 2$"),
        (SMALL, [100.0, 101.0], "^ids must be integers, not float64$"),
        (SMALL, 100, r"^ids must be \[N\] or \[B, N\], not \[\]$"),
        (SMALL, [[100, 100], [104, 105]], "^the recordings of the batch have 0 to 2 codes; decode them one by one$"),
        (SMALL, np.zeros((0, 2), np.int64), "^the batch has no rows$"),
        (DELAY, np.zeros((0, 2, 5), np.int64), "^the batch has no rows$"),
        (DELAY, [100, 106], r"^ids must be \[2, S\] or \[B, 2, S\], not \[2\]$"),
        (DELAY, [[100, 106]], r"^ids must be \[2, S\] or \[B, 2, S\], not \[1, 2\]$"),
        (DELAY, [[100], [106]], "^the ids are 1 steps, but one frame takes 2$"),
        (DELAY, [[100, 99, 106], [106, 100, 100]], "^the id at step 1 of row 0 is 99, but must be from 100 to 103$"),
        (DELAY, [[[100, 101], [106, 100]]], "^the id at step 1 of row 0 of recording 0 is 101, but must be 106, the"),
    ],
    ids=str,
)
def test_other_ids_are_refused_with_value_and_place(vocabulary: Vocabulary, ids: Any, sentence: str) -> None:
    with refuses(sentence):
        vocabulary.decode(ids)


@pytest.mark.parametrize(
    ("codes", "layout", "sentence"),
    [
        ([0, 4], None, "^codes must be from 0 to 3, but code 1 is 4$"),
        (np.array([[0, 0, 0, 0], [0, 0, 0, -1]]), None, "^codes must be from 0 to 3, but code 3 of recording 1 is -1$"),
        ([0, 1, 2], None, "^the codes end within a frame: 1 are left over, a frame has 2$"),
        ([0.5, 1.0], None, "^codes must be integers, not float64$"),
        (np.zeros((3, 2), np.int64), None, "^codes of shape .* can be 3 recordings of one frame"),
        (np.zeros((3, 3), np.int64), "frames", r"^codes must be \[F, 2\] or \[B, F, 2\], not \[3, 3\]$"),
    ],
    ids=str,
)
def test_other_codes_are_refused(codes: Any, layout: Layout | None, sentence: str) -> None:
    with refuses(sentence):
        SMALL.encode(codes, layout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"offset": -1}, "^the offset must be a whole number from 0, not -1$"),
        ({"offset": 1.5}, r"^the offset must be a whole number from 0, not 1\.5$"),
        ({"offset": True}, "^the offset must be a whole number from 0, not True$"),
        ({"specials": ("a", "a")}, "^a special token is named twice"),
        ({"specials": "pad"}, "^the special tokens must be a sequence of names, not 'pad'$"),
        ({"specials": ("",)}, r"^the special tokens must be a sequence of names, not \('',\)$"),
        ({"pattern": "parallel"}, "^the pattern is 'parallel', but must be one of flat, delay$"),
        ({"pattern": "delay", "specials": ()}, "^the delay pattern fills with 'pad', which must be among the special"),
    ],
    ids=str,
)
def test_other_vocabularies_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        Tokenizer(random_engine("query"), "0" * 16).vocabulary(**arguments)


def test_a_vocabulary_cannot_change_and_knows_its_names() -> None:
    with refuses("^there is no special token 'mask'; there are begin, end, pad, text, speaker$"):
        SMALL.id_of("mask")
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.offset = 1  # type: ignore[misc]
    same = Vocabulary(4, 2, 100, list(SPECIALS))
    assert same == SMALL and hash(same) == hash(SMALL)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_speech_through_the_vocabulary_of_a_model(pattern: Pattern, speech: NDArray[np.float32]) -> None:
    tokenizer = released("spectok-16k-4k")
    vocabulary = tokenizer.vocabulary(offset=32000, pattern=pattern, separate=True)
    codes = tokenizer.encode(speech[:8000])
    ids = vocabulary.encode(codes)
    assert vocabulary.size == 8 * 1024 + 5
    np.testing.assert_array_equal(tokenizer.decode(vocabulary.decode(ids)), tokenizer.decode(codes))
