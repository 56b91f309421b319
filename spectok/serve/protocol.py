"""The messages between client and server, checked; docs/serve.md has the protocol as a table.

Text messages are JSON objects. Binary messages are signed 16-bit samples or unsigned 16-bit codes, little endian.
"""

import json
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from spectok.codes import check_codes
from spectok.config import CodecConfig
from spectok.errors import InputError, require, shown
from spectok.samples import check_sample_rate
from spectok.schema import from_dict

Mode = Literal["encode", "decode", "transcode", "relay"]
MODES: tuple[str, ...] = get_args(Mode)
MAX_MESSAGE = 1 << 16  # bytes: 2 s of PCM at 16 kHz
MAX_TEXT = 4096  # characters of a text message
MAX_LOST = 250  # frames that one message may report as lost: 5 s
MAX_ROOM = 64  # characters of a room's name
MAX_CODEBOOK = 1 << 16  # larger codes do not fit 16 bits

REFUSED, GOING_AWAY, TRY_LATER, FAILED = 1008, 1001, 1013, 1011  # codes of closing (RFC 6455)


class Refusal(InputError):
    """What the server does not accept. The client gets the sentence, and the connection is closed with the code."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Hello:
    """The first message of a client."""

    model: str
    mode: Mode
    sample_rate: int = 0  # of the PCM, in Hz; 0 for the model's own
    weights: str = ""  # first 16 hexadecimal digits of the SHA-256 of the weights; "" for any
    token: str = ""
    room: str = ""  # of a relay

    def __post_init__(self) -> None:
        if self.sample_rate:
            check_sample_rate(self.sample_rate, "the stream")
        if self.mode == "relay":
            is_name = 1 <= len(self.room) <= MAX_ROOM and self.room.isprintable()
            require(is_name, f"a relay needs the name of a room, of 1 to {MAX_ROOM} printable characters")
        else:
            require(not self.room, f"a room belongs to the mode relay, not to {self.mode}")

    def to_json(self) -> str:
        """The message, without the keys that have their default."""
        table = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value for name, value in table.items() if value})


class Lost(NamedTuple):
    """Frames that did not arrive at the client, which the decoder conceals."""

    frames: int


class Flush(NamedTuple):
    """The end of a stream."""


def read_hello(message: str | bytes) -> Hello:
    """The first message of a client.

    Raises:
        InputError: it is no text, no JSON object, or has an unknown key or an impossible value.
    """
    table = _table(message, "the first message")
    require({"model", "mode"} <= table.keys(), "the first message needs a model and a mode")
    require(table.get("sample_rate") != 0, "the stream has a sample rate of 0 Hz; leave it out for the model's own")
    return from_dict(Hello, table, "the first message")


def read_command(message: str, mode: str) -> Lost | Flush:
    """A later text message of a client.

    Raises:
        InputError: it is neither `{"flush": true}` nor, in the mode decode, `{"lost": n}`.
    """
    table = _table(message, "the message")
    if table.keys() == {"flush"} and table["flush"] is True:
        return Flush()
    if table.keys() == {"lost"}:
        frames = table["lost"]
        require(mode == "decode", f"frames can be lost in the mode decode, not in {mode}")
        is_number = type(frames) is int and 1 <= frames <= MAX_LOST
        require(is_number, f"the number of lost frames must be from 1 to {MAX_LOST}")
        return Lost(frames)
    raise InputError('a text message after the first must be {"flush": true} or, in the mode decode, {"lost": n}')


def read_pcm(message: bytes) -> NDArray[np.int16]:
    """The samples of a binary message, int16 `[T]`, T from 0.

    Raises:
        InputError: the message ends within a sample.
    """
    require(len(message) % 2 == 0, f"PCM must be whole samples of 16 bits, not {len(message)} bytes")
    return np.frombuffer(message, "<i2")


def read_codes(message: bytes, config: CodecConfig) -> NDArray[np.int64]:
    """The codes of a binary message, int64 `[N]` in whole frames, N from 0.

    Raises:
        InputError: the message ends within a frame, or a code is not in the codebook.
    """
    size, tokens = config.quantizer.codebook_size, config.quantizer.tokens_per_frame
    require(
        len(message) % (2 * tokens) == 0,
        f"codes must be whole frames of {2 * tokens} bytes, not {len(message)} bytes",
    )
    return check_codes(np.frombuffer(message, "<u2"), size)


def code_bytes(codes: NDArray[np.int64]) -> bytes:
    """Codes `[N]` as a binary message."""
    return codes.astype("<u2").tobytes()


def ready(config: CodecConfig, weights: str, sample_rate: int, latency_samples: int) -> str:
    """The server's answer to a hello that it accepts.

    Args:
        config: of the model.
        weights: the first 16 hexadecimal digits of the SHA-256 of its weights.
        sample_rate: of the PCM, in Hz.
        latency_samples: algorithmic latency of encoder and decoder together, at that rate.
    """
    facts = {
        "model": config.name,
        "weights": weights,
        "sample_rate": sample_rate,
        "frame_length": config.frame_length,
        "tokens_per_frame": config.quantizer.tokens_per_frame,
        "codebook_size": config.quantizer.codebook_size,
        "latency_samples": latency_samples,
    }
    return json.dumps({"ready": facts})


def refusal(sentence: str) -> str:
    """The message before the server closes a connection."""
    return json.dumps({"error": shown(sentence)})


FLUSH, FLUSHED = json.dumps({"flush": True}), json.dumps({"flushed": True})


def _table(message: str | bytes, what: str) -> dict[str, Any]:
    require(isinstance(message, str), f"{what} must be JSON, but it is binary")
    require(len(message) <= MAX_TEXT, f"{what} has {len(message)} characters, but must have at most {MAX_TEXT}")
    try:
        table = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no JSON") from error
    require(isinstance(table, dict), f"{what} must be a JSON object")
    found: dict[str, Any] = table
    return found
