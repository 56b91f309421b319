"""Tests of the range coder, of the entropy model, and of files with entropy coding."""

import io
import re
import shutil
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from container_cases import make_codes, quick, to_bytes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recipes import entropy as recipe
from spectok import Tokenizer, pretrained
from spectok.container import Header, Reader, Writer, read_spt, read_stream
from spectok.container.version3 import packet_bytes
from spectok.entropy import BITS, POWERS, EntropyModel, RangeDecoder, RangeEncoder
from spectok.errors import InputError

WHOLE = 1 << BITS


def random_model(levels: tuple[int, ...], tokens: int, seed: int = 0, largest: int = 40) -> EntropyModel:
    """An entropy model with random weights."""
    size = sum(levels) * tokens
    weights = np.random.default_rng(seed).integers(-largest, largest + 1, (1 + 3 * size, size)).astype(np.int8)
    digit = np.repeat(np.arange(len(levels) * tokens), levels * tokens)
    weights[1 : 1 + size][digit[:, None] >= digit] = 0
    return EntropyModel(levels, tokens, weights)


MODEL = random_model((4, 3, 5), 2)
SMALL = Header("tiny", "0123456789abcdef", 16000, 60, 2, 64, None, "a1b2c3d4", entropy_id=MODEL.id, packet_bytes=64)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entropy model of these tests is known, as if its model had been found."""
    monkeypatch.setitem(pretrained._entropy_models, MODEL.id, MODEL)


# The range coder.


def edges_of(weights: list[int]) -> list[int]:
    """Starts of the intervals of levels with these weights, and the end, as the specification says."""
    sums = [0, *accumulate(weights)]
    return [before * (WHOLE - len(weights)) // sums[-1] + level for level, before in enumerate(sums)]


@quick
@given(st.lists(st.tuples(st.lists(st.integers(0, 65536), min_size=2, max_size=9), st.integers(0, 8)), max_size=300))
def test_the_range_coder_gives_back_any_levels(draws: list[tuple[list[int], int]]) -> None:
    """With any weights, and at most one byte more than their information."""
    encoder, coded_levels, bits = RangeEncoder(), [], 0.0
    for others, choice in draws:
        weights, level = [65536, *others], choice % (1 + len(others))  # as the likeliest level has
        edges = edges_of(weights)
        encoder.put([edges[level]], [edges[level + 1] - edges[level]])
        bits += BITS - np.log2(edges[level + 1] - edges[level])
        coded_levels.append((weights, level))
    coded = encoder.finish()
    assert len(coded) <= min(encoder.most_bytes, bits / 8 + 1 + 0.002 * len(draws))
    decoder = RangeDecoder(coded)
    assert [decoder.take(weights) for weights, _ in coded_levels] == [level for _, level in coded_levels]


def test_the_bytes_of_the_range_coder() -> None:
    """By hand: the upper half, which begins at 8192 * (2^18 - 1), and of it the second quarter from its middle on."""
    encoder = RangeEncoder()
    assert encoder.finish() == b""  # zeros, which are never written, are in the range
    encoder.put([8192, 4096], [8192, 4096])
    low, step = 8192 * (2**18 - 1), (8192 * (2**18 - 1)) >> 14
    assert encoder.state == (low + 4096 * step, 4096 * step, 0)
    assert encoder.finish() == b"\xbf"  # 0xbf000000 is the last number with three zeros up to 0xbfffbfff
    decoder = RangeDecoder(b"\xbf")
    assert (decoder.take([1, 1]), decoder.take([9, 9, 9, 9])) == (1, 1)


def test_a_string_that_no_encoder_writes_is_refused() -> None:
    """The range is a multiple of 2^14 only after the first step: a few numbers at its end belong to no interval."""
    with pytest.raises(InputError, match="no encoder writes such codes"):
        RangeDecoder(b"\xff\xff\xff\xff").take([1, 1])


def test_the_powers_are_those_of_the_specification() -> None:
    assert POWERS[0] == 65536
    assert POWERS[16] == 46341  # 2^16 / sqrt(2), rounded
    for place, power in enumerate(POWERS):  # 2^(16 - place / 32) to half a unit
        assert (2 * power - 1) ** 32 < 2 ** (544 - place) < (2 * power + 1) ** 32


# The entropy model.


@pytest.mark.parametrize(("levels", "tokens"), [((4, 4), 1), ((4, 3, 5), 2), ((2,), 3), ((8, 5, 5, 5), 1)])
def test_codes_come_back(levels: tuple[int, ...], tokens: int) -> None:
    """Of 200 frames, at the size that the probabilities promise, to a byte."""
    model = random_model(levels, tokens)
    codes = np.random.default_rng(1).integers(0, model.codebook_size, (200, tokens))
    starts, sizes = model.intervals(codes, codes[:0])
    assert starts.shape == sizes.shape == (200, tokens * len(levels))
    encoder = RangeEncoder()
    encoder.put(starts.ravel().tolist(), sizes.ravel().tolist())
    coded = encoder.finish()
    assert abs(8 * len(coded) - (BITS - np.log2(sizes)).sum()) < 8 * 1.5
    np.testing.assert_array_equal(model.decode(coded, 200), codes)
    pieces = [model.intervals(codes[place : place + 7], codes[:place])[0] for place in range(0, 200, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), starts)


def test_probabilities_are_those_of_the_specification() -> None:
    """By hand, in whole numbers, for one digit after two frames."""
    size = 4
    weights = np.zeros((1 + 3 * size, size), np.int8)
    weights[0] = [0, 32, -32, 5]  # biases: one more is a factor of 2^(1/32)
    weights[1 + size + 2] = [0, 0, 64, 0]  # level 2 in the frame before
    weights[1 + 2 * size + 1] = [-7, 0, 0, 0]  # level 1 in the one before that
    model = EntropyModel((4,), 1, weights)
    parts = [POWERS[(32 + 7) % 32] >> 1, 65536, 65536, POWERS[27]]  # logits -7, 32, 32, 5
    edges = [sum(parts[:level]) * (WHOLE - 4) // sum(parts) + level for level in range(5)]
    starts, sizes = model.intervals(np.array([[0], [1], [2], [3]]), np.array([[1], [2]])[:2])
    assert (starts[0, 0], starts[0, 0] + sizes[0, 0]) == (edges[0], edges[1])
    for level in range(4):
        starts, sizes = model.intervals(np.array([[level]]), np.array([[0], [1], [2]]))
        assert (starts[0, 0], starts[0, 0] + sizes[0, 0]) == (edges[level], edges[level + 1])


def test_the_file_of_an_entropy_model() -> None:
    content = MODEL.to_bytes()
    assert content[:4] == bytes([3, 4, 3, 5])
    assert len(content) == 4 + 24 + 3 * 24 * 24
    again = EntropyModel.from_bytes(content, 2)
    assert (again.levels, again.codebook_size, again.id) == (MODEL.levels, 60, MODEL.id)
    np.testing.assert_array_equal(again.weights, MODEL.weights)
    for damaged in (b"", content[:-1], content + b"\0", b"\0" + content[1:]):
        with pytest.raises(InputError, match="is damaged, or has another number of tokens per frame"):
            EntropyModel.from_bytes(damaged, 2)
    with pytest.raises(InputError, match="another number of tokens"):
        EntropyModel.from_bytes(content, 1)
    weights = MODEL.weights.copy()
    weights[1 + 4, 3] = 1  # a level of the second digit for the first digit
    with pytest.raises(InputError, match="predicts digits from later ones"):
        EntropyModel.from_bytes(bytes([3, 4, 3, 5]) + weights.tobytes(), 2)
    with pytest.raises(InputError, match="a frame has 5100 levels, but an entropy model can have 4096 at most"):
        EntropyModel((255,) * 20, 1, np.zeros((1, 1), np.int8))
    with pytest.raises(InputError, match="digits of at least 2 levels"):
        EntropyModel((1, 4), 1, np.zeros((16, 5), np.int8))


# Files.


def coded(num_frames: int, seed: int = 0, header: Header = SMALL) -> tuple[bytes, NDArray[np.int64]]:
    """A file with random codes, and the codes."""
    codes = make_codes(header, num_frames, seed)
    return to_bytes(replace(header, num_samples=num_frames), codes), codes


@pytest.mark.parametrize("num_frames", [0, 1, 15, 16, 17, 40, 200])
def test_a_file_comes_back(num_frames: int) -> None:
    content, codes = coded(num_frames)
    header, read = read_spt(io.BytesIO(content))
    assert header == replace(SMALL, num_samples=num_frames)
    assert header.version == 3
    np.testing.assert_array_equal(read, codes)
    streamed, packets = read_stream(io.BytesIO(content))
    np.testing.assert_array_equal(np.concatenate([packet.codes for packet in packets]), codes)
    assert streamed == SMALL


def test_the_bytes_do_not_depend_on_the_pieces(tmp_path: Path) -> None:
    content, codes = coded(200)
    sink = io.BytesIO()
    with Writer(sink, SMALL) as writer:
        for place in range(0, 400, 7):  # pieces of three and a half frames
            writer.write(codes[place : place + 7])
            assert writer.num_codes == min(400, place + 7)
        writer.close(200)
    assert sink.getvalue() == content
    path = tmp_path / "a.spt"
    path.write_bytes(to_bytes(replace(SMALL, num_samples=90), codes[:180]))
    with Writer.append(path) as writer:
        writer.write(codes[180:])
        writer.close(200)
    assert path.read_bytes() == content


@pytest.mark.parametrize("chunk", [1, 4, 5, 8, 12])
def test_a_packet_with_the_largest_number_of_frames_is_written_at_once(chunk: int) -> None:
    """In whatever pieces the codes come; the last packet may be empty."""
    header = replace(SMALL, frames_per_packet=4)
    codes = make_codes(header, 12)
    whole = to_bytes(replace(header, num_samples=12), codes)
    sink = io.BytesIO()
    with Writer(sink, header) as writer:
        for place in range(0, 12, chunk):
            writer.write(codes[2 * place : 2 * (place + chunk)])
            assert len(sink.getvalue()) == 38 + min(12, place + chunk) // 4 * 64
        writer.close(12)
    assert sink.getvalue() == whole
    _, packets = read_stream(io.BytesIO(whole))
    assert [packet.num_frames for packet in packets] == [4, 4, 4, 0]
    np.testing.assert_array_equal(read_spt(io.BytesIO(whole))[1], codes)


def test_any_frames_are_read() -> None:
    content, codes = coded(200)
    with Reader(io.BytesIO(content)) as reader:
        assert reader.num_frames == 200
        for start, count in ((0, 200), (0, 1), (199, 1), (37, 90), (100, 0), (200, 0)):
            np.testing.assert_array_equal(reader.read(start, count), codes[2 * start : 2 * (start + count)])
        for start, stop in ((0, 200), (50, 51), (120, 200)):
            packets = list(reader.packets(start, stop))
            assert packets[0].start_frame <= start < packets[0].stop_frame
            assert packets[-1].start_frame < stop <= packets[-1].stop_frame
        assert list(reader.packets(70, 70)) == []


def test_every_damaged_byte_is_detected() -> None:
    content, _ = coded(40)
    for place in range(len(content)):
        for flip in (1, 16, 255):
            damaged = bytearray(content)
            damaged[place] ^= flip
            with pytest.raises(InputError):
                read_spt(io.BytesIO(bytes(damaged)))
    for length in range(len(content)):
        with pytest.raises(InputError):
            read_spt(io.BytesIO(content[:length]))
    with pytest.raises(InputError, match="other bytes follow its end"):
        read_spt(io.BytesIO(content + b"\0"))


def places(content: bytes) -> tuple[int, list[range]]:
    """Where the first packet begins, and the frames of all packets."""
    with Reader(io.BytesIO(content), recover=True) as reader:
        assert reader.complete
        return len(content) - reader._length, reader.frames


def test_damage_in_the_middle_costs_its_packets_only() -> None:
    content, codes = coded(200)
    first, frames = places(content)
    assert len(frames) > 8
    for hurt in ([0], [3], [2, 3, 4], [1, 5]):
        damaged = bytearray(content)
        for index in hurt:
            damaged[first + index * 64 + 20] ^= 1
        with Reader(io.BytesIO(bytes(damaged)), recover=True) as reader:
            assert reader.damaged == hurt
            lost = {frame for index in hurt for frame in frames[index]}
            assert {frame for gap in reader.lost for frame in gap} == lost
            assert (reader.num_frames, reader.has_end, reader.complete) == (200, True, False)
            for packet in reader:
                assert lost.isdisjoint(range(packet.start_frame, packet.stop_frame))
                np.testing.assert_array_equal(packet.codes, codes[2 * packet.start_frame : 2 * packet.stop_frame])
            assert sum(packet.num_frames for packet in reader) == 200 - len(lost)
            for index in hurt:
                assert set(frames[index]) <= set(reader.frames[index]) <= lost


def test_a_damaged_first_packet_is_named() -> None:
    content, codes = coded(200)
    first, frames = places(content)
    damaged = bytearray(content)
    damaged[first + 40] ^= 1
    with Reader(io.BytesIO(bytes(damaged))) as reader:
        with pytest.raises(InputError, match="its packet 0 "):
            reader.read(0, 1)
        np.testing.assert_array_equal(reader.read(frames[1].start, 1), codes[2 * frames[1].start :][:2])


def test_a_file_that_was_cut_off_keeps_its_whole_packets() -> None:
    content, codes = coded(200)
    first, frames = places(content)
    with Reader(io.BytesIO(content[: first + 3 * 64 + 30]), recover=True) as reader:
        assert (reader.damaged, reader.lost, reader.num_frames) == ([3], [], frames[2].stop)
        assert not reader.has_end
        read = np.concatenate([packet.codes for packet in reader])
    np.testing.assert_array_equal(read, codes[: 2 * frames[2].stop])


def test_packets_that_claim_other_frames_are_refused() -> None:
    """A packet with a true checksum that does not begin where the one before ended."""
    content, _ = coded(60)
    other = to_bytes(replace(SMALL, num_samples=60), np.zeros(120, np.int64))
    first, frames = places(content)
    _, others = places(other)
    index = 1
    assert frames[1].start != others[1].start
    mixed = content[: first + index * 64] + other[first + index * 64 :]
    with pytest.raises(InputError, match=f"its packet {index} begins with another frame than it should"):
        read_spt(io.BytesIO(mixed))
    with Reader(io.BytesIO(mixed), recover=True) as reader:
        assert not reader.complete


def test_headers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="packet_bytes is 31; expected 32 to 65536"):
        replace(SMALL, packet_bytes=31)
    with pytest.raises(InputError, match="more than 4 times as many codes as fit 64 bytes"):
        replace(SMALL, frames_per_packet=171)  # of 12 bits each, 256 bytes hold 170
    assert replace(SMALL, frames_per_packet=0).frames_per_packet == 170
    assert Header("", "0" * 16, 16000, 65536, 1, entropy_id="0" * 8).frames_per_packet == 2000
    with pytest.raises(InputError, match="a file of version 2 has entropy_id"):
        replace(SMALL, version=2)
    with pytest.raises(InputError, match="a file of version 3 has entropy_id ''"):
        Header("", "0" * 16, 16000, 65536, 1, version=3)
    with pytest.raises(InputError, match="entropy_id is 'x'; expected 8 hexadecimal digits"):
        replace(SMALL, entropy_id="x")
    assert packet_bytes(SMALL) == 64


def test_a_frame_that_does_not_fit_a_packet_is_refused() -> None:
    model = random_model((4,) * 5, 8, largest=127)
    pretrained._entropy_models[model.id] = model
    header = Header("big", "0" * 16, 16000, 1024, 8, 1, 1, entropy_id=model.id, packet_bytes=32)
    with pytest.raises(InputError, match="packet_bytes is 32, which is too small for a frame"):
        to_bytes(header, [1023] * 8)


def test_codes_without_their_entropy_model_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The header and the packets of such a file can still be verified."""
    content, _ = coded(40)
    path = tmp_path / "a.spt"
    path.write_bytes(content)
    monkeypatch.delitem(pretrained._entropy_models, MODEL.id)
    message = f"its codes need the entropy model {MODEL.id} of tiny, weights 0123456789abcdef, which is not known"
    with Reader(path) as reader:
        assert reader.num_frames == 40
        with pytest.raises(InputError, match=rf"^cannot read {path}: its packet 0 cannot be decoded: {message}$"):
            _ = next(iter(reader)).codes
    with Reader(path, recover=True) as reader:
        assert reader.complete
    with pytest.raises(InputError, match=message):
        read_spt(path)
    with pytest.raises(InputError, match=message):
        to_bytes(replace(SMALL, num_samples=1), [0, 0])


def test_an_entropy_model_of_other_codes_is_refused() -> None:
    with pytest.raises(InputError, match=f"its entropy model {MODEL.id} is of codes of another size"):
        to_bytes(replace(SMALL, codebook_size=61, num_samples=1), [0, 0])


@pytest.mark.parametrize("name", pretrained.models())
def test_released_models_save_at_least_eight_percent(name: str, speech: NDArray[np.float32]) -> None:
    """Of the bytes of a file with eight seconds of speech, all overheads included; the codes are the same."""
    tokenizer = Tokenizer.from_pretrained(name)
    codes = tokenizer.encode(speech)
    sizes = {}
    for entropy_coding in (True, False):
        sink = io.BytesIO()
        tokenizer.save(sink, codes, len(speech), entropy_coding=entropy_coding)
        sizes[entropy_coding] = len(sink.getvalue())
        sink.seek(0)
        recording = tokenizer.load(sink)
        np.testing.assert_array_equal(recording.codes, codes)
    assert sizes[True] < 0.92 * sizes[False]


GOLDEN = Path(__file__).parent / "data" / "entropy"


def test_the_golden_file_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written once is read by every later version, and written the same."""
    model = EntropyModel.from_bytes((GOLDEN / "tiny-entropy.dat").read_bytes(), 2)
    monkeypatch.setitem(pretrained._entropy_models, model.id, model)
    header = replace(SMALL, entropy_id=model.id, num_samples=31_999)
    codes = np.arange(200) ** 3 // 7 % 60
    content = (GOLDEN / "tiny-version3.spt").read_bytes()
    found, read = read_spt(io.BytesIO(content))
    assert (found, model.id) == (header, "f4fc6a07")
    np.testing.assert_array_equal(read, codes)
    assert to_bytes(header, codes) == content


# The recipe.


def test_fitting_finds_the_probabilities_of_a_process() -> None:
    """A Markov chain of two digits, of which the second depends on the first: within 1 % of its entropy."""
    random = np.random.default_rng(0)
    change = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    chain = [0]
    for draw in random.random(30_000):
        chain.append(int(np.searchsorted(change[chain[-1]].cumsum(), draw)))
    first = np.array(chain)
    second = np.where(random.random(len(first)) < 0.75, first % 2, 1 - first % 2)
    untrained = EntropyModel((3, 2), 1, np.zeros((16, 5), np.int8))
    codes = (first + 3 * second)[:, None]
    frames = recipe.with_frames_before([untrained.digits(codes[:25_000])], absent=5)
    assert frames.shape == (25_000, 3, 2)
    assert frames[0].tolist() == [[0, 3 + second[0]], [5, 5], [5, 5]]
    fitted = recipe.fit(untrained, frames, steps=300)
    shares = np.bincount(first, minlength=3) / len(first)
    entropy = -(shares[:, None] * change * np.log2(change)).sum() - (0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert recipe.bits_per_code(fitted, [codes[25_000:]]) == pytest.approx(entropy, rel=0.01)


def test_the_recipe_gives_a_model_an_entropy_model(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], speech: NDArray[np.float32]
) -> None:
    """Files of a private model are then written and read with it."""
    released, folder = pretrained.find("spectok-16k-800"), tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "encoder.onnx", "decoder.onnx"):
        shutil.copy(released.folder / name, folder / name)
    assert Tokenizer.from_pretrained(folder).header(16000, 1).version == 2
    assert recipe.main([str(folder), "--data", str(prepared), "--steps", "30"]) == 0
    assert re.search(r"^spectok-16k-800: 1\d\.\d+ bits per code in place of 16, ", capsys.readouterr().out, re.M)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.header(16000, 1).version == 3
    codes = tokenizer.encode(speech)
    tokenizer.save(tmp_path / "a.spt", codes)
    np.testing.assert_array_equal(tokenizer.load(tmp_path / "a.spt").codes, codes)


def test_the_recipe_refuses_a_folder_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert re.search(r"^entropy: cannot read [^\n]*config\.json[^\n]*\n$", capsys.readouterr().err)
