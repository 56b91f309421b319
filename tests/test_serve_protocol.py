"""The messages of `spectok serve`: what is read from them, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectok import InputError, pretrained
from spectok.serve.protocol import (
    FLUSH,
    MODES,
    Flush,
    Hello,
    Lost,
    code_bytes,
    read_codes,
    read_command,
    read_hello,
    read_pcm,
    ready,
    refusal,
)

CONFIG = pretrained.find("spectok-16k-4k").config
HELLO = {"model": "m", "mode": "encode"}


def test_a_hello_is_read_and_written() -> None:
    assert read_hello('{"model": "m", "mode": "relay", "room": "a b"}') == Hello("m", "relay", room="a b")
    whole = Hello("m", "decode", 48000, "0123456789abcdef", "secret")
    assert read_hello(whole.to_json()) == whole
    assert json.loads(Hello("m", "encode").to_json()) == HELLO


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"\0\0", "the first message must be JSON, but it is binary"),
        ("", "the first message is no JSON"),
        ("[" * 4000, "the first message is no JSON"),
        ("[]", "the first message must be a JSON object"),
        (" " * 4097, "the first message has 4097 characters, but must have at most 4096"),
        ({"mode": "encode"}, "the first message needs a model and a mode"),
        (HELLO | {"mode": "sing"}, "the first message: mode is 'sing', but must be one of 'encode', "),
        (HELLO | {"model": 3}, "the first message: model is 3, but must be of type str"),
        (HELLO | {"sample_rate": 1}, "the stream has a sample rate of 1 Hz; it must be 1000 to 192000"),
        (HELLO | {"sample_rate": 0}, "the stream has a sample rate of 0 Hz; leave it out for the model's own"),
        (HELLO | {"sample_rate": 16e3}, "the first message: sample_rate is 16000.0, but must be of type int"),
        (HELLO | {"sample_rate": None}, "the first message: sample_rate is None, but must be of type int"),
        (HELLO | {"rate": 1}, "the first message has the unknown key 'rate'; known are mode, model, room, sample_rate"),
        (HELLO | {"room": "a"}, "a room belongs to the mode relay, not to encode"),
        (HELLO | {"mode": "relay"}, "a relay needs the name of a room, of 1 to 64 printable characters"),
        (HELLO | {"mode": "relay", "room": "a\n"}, "a relay needs the name of a room, of 1 to 64 printable characters"),
    ],
)
def test_a_bad_hello_is_one_sentence(message: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_hello(json.dumps(message) if isinstance(message, dict) else message)
    assert str(refused.value).startswith(sentence)


def test_commands_are_read() -> None:
    assert read_command(FLUSH, "encode") == Flush()
    assert read_command('{"lost": 250}', "decode") == Lost(250)


@pytest.mark.parametrize(
    ("message", "mode", "sentence"),
    [
        ('{"flush": 1}', "encode", 'a text message after the first must be {"flush": true} or, in the mode decode, '),
        ('{"flush": true, "lost": 1}', "decode", "a text message after the first must be "),
        ("{}", "encode", "a text message after the first must be "),
        ("null", "encode", "the message must be a JSON object"),
        ('{"lost": 1}', "transcode", "frames can be lost in the mode decode, not in transcode"),
        ('{"lost": 0}', "decode", "the number of lost frames must be from 1 to 250"),
        ('{"lost": 251}', "decode", "the number of lost frames must be from 1 to 250"),
        ('{"lost": true}', "decode", "the number of lost frames must be from 1 to 250"),
        ('{"lost": 1' + "0" * 4000 + "}", "decode", "the number of lost frames must be from 1 to 250"),
    ],
)
def test_a_bad_command_is_one_sentence(message: str, mode: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_command(message, mode)
    assert str(refused.value).startswith(sentence)


def test_samples_and_codes_are_little_endian() -> None:
    assert read_pcm(b"\x01\x00\xff\xff").tolist() == [1, -1]
    codes = np.array([0, 1023, 1, 2, 3, 4, 5, 256])
    assert code_bytes(codes) == b"\0\0\xff\x03\x01\0\x02\0\x03\0\x04\0\x05\0\0\x01"
    assert read_codes(code_bytes(codes), CONFIG).tolist() == codes.tolist()
    assert read_pcm(b"").shape == read_codes(b"", CONFIG).shape == (0,)


def test_parts_of_samples_and_frames_are_refused() -> None:
    with pytest.raises(InputError, match=r"^PCM must be whole samples of 16 bits, not 3 bytes$"):
        read_pcm(b"\0\0\0")
    with pytest.raises(InputError, match=r"^codes must be whole frames of 16 bytes, not 18 bytes$"):
        read_codes(b"\0" * 18, CONFIG)
    with pytest.raises(InputError, match=r"^codes must be from 0 to 1023, but code 2 is 1024$"):
        read_codes(code_bytes(np.array([0, 1023, 1024, 0, 0, 0, 0, 9000])), CONFIG)


def test_answers_are_json() -> None:
    assert json.loads(ready(CONFIG, "0" * 16, 48000, 1440)) == {
        "ready": {
            "model": "spectok-16k-4k",
            "weights": "0" * 16,
            "sample_rate": 48000,
            "frame_length": 320,
            "tokens_per_frame": 8,
            "codebook_size": 1024,
            "latency_samples": 1440,
        }
    }
    assert json.loads(refusal("a\nb")) == {"error": "a\\x0ab"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["model", "mode", "sample_rate", "weights", "token", "room", "flush", "lost", "other"])
TABLES = st.dictionaries(KEYS, JSON | st.sampled_from([*MODES, 16000, True]), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | TABLES.map(json.dumps), st.sampled_from(MODES))
def test_any_text_is_read_or_refused(text: str, mode: str) -> None:
    try:
        hello = read_hello(text)
        assert hello.mode in MODES and read_hello(hello.to_json()) == hello
    except InputError as error:
        assert json.loads(refusal(str(error)))["error"].isprintable()
    try:
        command = read_command(text, mode)
        assert isinstance(command, Flush) or (mode == "decode" and 1 <= command.frames <= 250)
    except InputError as error:
        assert json.loads(refusal(str(error)))["error"].isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        assert read_pcm(content).astype("<i2").tobytes() == content
    except InputError:
        assert len(content) % 2
    try:
        codes = read_codes(content, CONFIG)
        assert code_bytes(codes) == content and len(codes) % 8 == 0 and codes.max(initial=0) < 1024
    except InputError:
        assert len(content) % 16 or np.frombuffer(content, "<u2").max() >= 1024
