"""Codes that know their model: what keeps the model, what is a plain array, and who refuses codes of another."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import random_engine, released

from spectok import InputError, Tokenizer
from spectok.codes import Codes, check_codes

OURS, THEIRS = "0" * 16, "1" * 16
TOKENS = 2  # of the tiny codec


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(random_engine("query"), OURS)


def codes_of(model: str = OURS) -> Codes:
    return Codes(np.arange(24).reshape(3, 8), model)


@pytest.mark.parametrize(
    "view",
    [
        lambda codes: codes[1],
        lambda codes: codes[:, 2:6],
        lambda codes: codes[[0, 2]],
        lambda codes: codes[codes[:, 0] > 0],
        lambda codes: codes.reshape(3, -1, TOKENS),
        lambda codes: codes.T,
        lambda codes: codes.copy(),
        lambda codes: codes.astype(np.uint16),
        lambda codes: np.atleast_2d(codes),
        lambda codes: copy.copy(codes),
        lambda codes: copy.deepcopy(codes),
        lambda codes: pickle.loads(pickle.dumps(codes)),
        lambda codes: pickle.loads(pickle.dumps(codes, protocol=5)),
        lambda codes: next(iter(codes)),
    ],
)
def test_views_and_copies_keep_the_model(view: Callable[[Any], Any]) -> None:
    codes = codes_of()
    seen = view(codes)
    assert type(seen) is Codes and seen.model == OURS
    np.testing.assert_array_equal(seen, view(np.asarray(codes)))
    assert view(codes_of("")).model == ""


@pytest.mark.parametrize(
    "compute",
    [
        lambda codes: codes + 1,
        lambda codes: 1 + codes,
        lambda codes: codes // 2,
        lambda codes: codes == 3,
        lambda codes: -codes,
        lambda codes: codes + codes,
        lambda codes: np.add(codes, 1, out=np.zeros_like(np.asarray(codes))),
        lambda codes: codes.sum(axis=1),
        lambda codes: np.add.accumulate(codes, axis=1),
        lambda codes: codes.max(axis=0),
        lambda codes: np.where(codes > 3, codes, 0),
        lambda codes: np.asarray(codes),
        lambda codes: np.array(codes),
    ],
)
def test_results_of_arithmetic_are_plain_arrays(compute: Callable[[Any], Any]) -> None:
    computed = compute(codes_of())
    assert type(computed) is np.ndarray
    np.testing.assert_array_equal(computed, compute(np.asarray(codes_of())))


def test_adding_in_place_gives_a_plain_array() -> None:
    codes = codes_of()
    codes += 5
    assert type(codes) is np.ndarray
    np.testing.assert_array_equal(codes, np.asarray(codes_of()) + 5)


def test_joined_codes_do_not_claim_a_model() -> None:
    assert getattr(np.concatenate([codes_of(), codes_of(THEIRS)]), "model", "") == ""


def test_codes_are_compared_and_printed_as_arrays() -> None:
    codes, plain = codes_of(), np.asarray(codes_of())
    assert str(codes) == str(plain) and str(codes[0]) == str(plain[0]) and f"{codes[0, 1]}" == "1"
    assert repr(codes[0]) == "Codes([0, 1, 2, 3, 4, 5, 6, 7])"
    assert (codes == plain).all() and codes.tolist() == plain.tolist() and isinstance(codes[0, 0], np.int64)
    np.testing.assert_array_equal(codes, codes_of(THEIRS))
    assert type(codes.max()) is np.int64 and codes.max() == 23
    assert torch.from_numpy(codes).tolist() == plain.tolist()


def test_the_tokenizer_names_its_model_in_what_it_returns(tokenizer: Tokenizer, tmp_path: Path) -> None:
    audio = np.zeros((2, 100), np.float32)
    for codes in (tokenizer.encode(audio), tokenizer.encode(audio[0]), *tokenizer.encode([audio[0], audio[1]])):
        assert type(codes) is Codes and codes.model == OURS
    frame = tokenizer.encode(audio, layout="frames")[0, 0]
    assert isinstance(frame, Codes) and frame.model == OURS
    tokenizer.save(tmp_path / "a.spt", tokenizer.encode(audio[0]))
    loaded = tokenizer.load(tmp_path / "a.spt").codes
    assert isinstance(loaded, Codes) and loaded.model == OURS
    assert type(tokenizer.stream_encoder().push(audio[0])) is np.ndarray
    assert type(tokenizer.encode(torch.from_numpy(audio))) is torch.Tensor
    assert tokenizer.vocabulary().decode([1, 2]).model == OURS


@pytest.mark.parametrize(
    "use",
    [
        lambda tokenizer, codes, path: tokenizer.decode(codes),
        lambda tokenizer, codes, path: tokenizer.decode([codes]),
        lambda tokenizer, codes, path: tokenizer.save(path, codes),
        lambda tokenizer, codes, path: tokenizer.stream_decoder().push(codes),
        lambda tokenizer, codes, path: tokenizer.stream_decoder().push(codes, np.zeros(4, bool)),
        lambda tokenizer, codes, path: (group := tokenizer.decoder_group()).push({group.join(): codes}),
    ],
)
def test_codes_of_another_model_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, use: Callable[[Tokenizer, Any, Path], Any]
) -> None:
    codes = codes_of(THEIRS)[0]
    sentence = f"^the codes were made by a model with weights {THEIRS}, not by tiny-query with weights {OURS}$"
    with pytest.raises(InputError, match=sentence):
        use(tokenizer, codes, tmp_path / "a.spt")
    assert list(tmp_path.iterdir()) == []
    for accepted in (np.asarray(codes), codes_of(OURS)[0], codes_of("")[0]):
        use(tokenizer, accepted, tmp_path / "a.spt")
    if not (tmp_path / "a.spt").exists():  # a file must name its weights
        use(Tokenizer(tokenizer.engine, ""), codes, tmp_path / "a.spt")


def test_codes_of_another_released_model_are_refused_by_name() -> None:
    tokenizer, other = released("spectok-16k-4k"), released("spectok-16k-800")
    codes = other.encode(np.zeros(3200, np.float32))
    sentence = f"^the codes were made by spectok-16k-800 with .*, not by spectok-16k-4k with .*{tokenizer.weight_hash}$"
    with pytest.raises(InputError, match=sentence):
        tokenizer.decode(codes)
    with pytest.raises(InputError, match=r"^the codes were made by spectok-16k-800 with .*, not by the vocab"):
        tokenizer.vocabulary().encode(codes)


@pytest.mark.parametrize(
    ("codes", "where"),
    [([1, 64], "code 1"), ([[1, -1]], "code 1"), ([[1, 2], [3, 64]], r"code \[1, 1\]"), (64, r"code \[\]")],
)
def test_the_first_wrong_code_is_named_with_its_place(codes: Any, where: str) -> None:
    value = np.asarray(codes).flat[-1]
    with pytest.raises(InputError, match=f"^codes must be from 0 to 63, but {where} is {value}$"):
        check_codes(np.asarray(codes), 64)
