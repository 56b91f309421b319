"""A user's program: mypy checks here that every result of the public functions has a precise type."""

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectok import InputError, StreamDecoder, StreamEncoder, Tokenizer

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]


def offline(tokenizer: Tokenizer, audio: Audio, path: Path) -> Audio:
    """Arrays of one recording and of several, and a file."""
    codes = assert_type(tokenizer.encode(audio, 16000), Codes)
    assert_type(tokenizer.encode(path), Codes)
    assert_type(tokenizer.encode([audio, audio]), list[Codes])
    assert_type(tokenizer.decode([codes, codes], [100, 100]), list[Audio])
    return assert_type(tokenizer.decode(codes, len(audio)), Audio)


def in_torch(tokenizer: Tokenizer, audio: Tensor) -> Tensor:
    """Tensors of one recording and of several."""
    codes = assert_type(tokenizer.encode(audio), Tensor)
    assert_type(tokenizer.encode([audio, audio]), list[Tensor])
    assert_type(tokenizer.decode([codes, codes]), list[Tensor])
    return assert_type(tokenizer.decode(codes), Tensor)


def streaming(tokenizer: Tokenizer, chunks: list[Audio]) -> Audio:
    """Chunks through the two sessions of a stream."""
    encoder = assert_type(tokenizer.stream_encoder(), StreamEncoder)
    decoder = assert_type(tokenizer.stream_decoder(), StreamDecoder)
    heard = [assert_type(decoder.push(assert_type(encoder.push(chunk), Codes)), Audio) for chunk in chunks]
    heard.append(decoder.push(encoder.flush()))
    return np.concatenate(heard)


def refusal(model: str) -> str:
    """What bad input is answered with."""
    try:
        return assert_type(Tokenizer.from_pretrained(model), Tokenizer).weight_hash
    except InputError as error:
        return str(error)
