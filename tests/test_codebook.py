"""The vectors of codes, with and without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import VQ
from models import random_codec, random_engine, released, write_model
from numpy.typing import NDArray
from safetensors.torch import save

from spectok import InputError, Tokenizer, pretrained
from spectok.codebook import CODEBOOK, grid, stored
from spectok.engine import OnnxEngine, TorchEngine


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


def quantized(engine: Any) -> NDArray[np.float32]:
    """What the quantizer of a TorchEngine decodes its codes to."""
    codes = torch.arange(engine.config.quantizer.codebook_size)
    vectors: NDArray[np.float32] = engine.codec.quantizer.decode(codes[None, :, None])[0, :, 0].detach().numpy()
    return vectors


@pytest.mark.parametrize("name", pretrained.models())
def test_vectors_of_a_released_model_are_those_of_its_quantizer(name: str) -> None:
    onnx, in_torch = released(name), released(name, "torch")
    quantizer = onnx.config.quantizer
    vectors = onnx.code_vectors()
    assert vectors.dtype == np.float32 and vectors.shape == (quantizer.codebook_size, quantizer.codebook_dim)
    np.testing.assert_array_equal(vectors, quantized(in_torch.engine))
    np.testing.assert_array_equal(in_torch.code_vectors(), vectors)
    codes = onnx.encode(np.zeros(3200, np.float32), layout="frames")
    np.testing.assert_array_equal(onnx.code_vectors(codes), vectors[np.asarray(codes)])


@pytest.mark.parametrize("levels", [(4, 4, 4), (5, 3), (2,), (8, 5, 5, 5)])
def test_the_grid_is_that_of_the_library(levels: tuple[int, ...]) -> None:
    from vector_quantize_pytorch import FSQ

    expected = FSQ(list(levels), preserve_symmetry=True).implicit_codebook
    np.testing.assert_array_equal(grid(levels), expected.numpy())


def test_a_learned_codebook_is_the_same_in_both_engines(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny", VQ)
    for side in ("encoder", "decoder"):
        (model.folder / f"{side}.onnx").touch()  # the vectors are in the weights: no graph is loaded
    onnx, in_torch = OnnxEngine(model), TorchEngine(model)
    np.testing.assert_array_equal(in_torch.code_vectors(), quantized(in_torch))
    np.testing.assert_array_equal(onnx.code_vectors(), in_torch.code_vectors())


def test_a_stored_tensor_of_half_precision() -> None:
    embed = random_codec(VQ).state_dict()[CODEBOOK].half()
    content = save({"other": torch.zeros(3), CODEBOOK: embed})
    np.testing.assert_array_equal(stored(content, CODEBOOK), embed.float().numpy())
    for damaged in (content[:-1], content[:4], content[8:], save({"other": embed})):
        with refuses("^the weights have no readable tensor 'quantizer.codebook.embed'$"):
            stored(damaged, CODEBOOK)


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        ([3, 64], "^codes must be from 0 to 63, but code 1 is 64$"),
        ([[3, 4], [-1, 0]], r"^codes must be from 0 to 63, but code \[1, 0\] is -1$"),
        ([0.5], "^codes must be integers, not float64$"),
    ],
)
def test_vectors_of_other_codes_are_refused(codes: Any, sentence: str) -> None:
    with refuses(sentence):
        Tokenizer(random_engine("query"), "0" * 16).code_vectors(codes)


def test_vectors_of_single_codes_and_of_none() -> None:
    tokenizer = Tokenizer(random_engine("query"), "0" * 16)
    assert tokenizer.code_vectors(5).shape == (3,)
    assert tokenizer.code_vectors(torch.tensor([[1, 2]])).shape == (1, 2, 3)
    assert tokenizer.code_vectors([]).shape == (0, 3)
