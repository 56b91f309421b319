"""The interfaces of Hugging Face, offline, and the cache of `Dataset.map`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from models import released
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoProcessor

from spectok import InputError, Tokenizer, pretrained
from spectok.audio import write_audio
from spectok.hf import SpectokFeatureExtractor, SpectokProcessor, TokenizeAudio
from spectok.resampling import resample

NAME = "spectok-16k-4k"


@pytest.fixture(scope="module")
def processor() -> SpectokProcessor:
    return SpectokProcessor(model=NAME)


@pytest.fixture
def clips(speech: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [speech[:3000], speech[16000:21000]]


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


@pytest.mark.parametrize("tensors", ["np", "pt", None])
def test_a_feature_extractor_pads(clips: list[NDArray[np.float32]], tensors: str | None) -> None:
    inputs = SpectokFeatureExtractor()(clips, sampling_rate=16000, return_tensors=tensors)
    assert list(inputs) == ["input_values", "padding_mask"]
    values, mask = inputs["input_values"], inputs["padding_mask"]
    assert isinstance(values, torch.Tensor if tensors == "pt" else np.ndarray)
    assert values.shape == (2, 1, 5000) and mask.shape == (2, 5000)
    for row, kept, clip in zip(np.asarray(values), np.asarray(mask), clips, strict=True):
        np.testing.assert_array_equal(row[0, : len(clip)], clip)
        assert kept.sum() == len(clip) and kept[: len(clip)].all() and not row[0, len(clip) :].any()


def test_a_feature_extractor_pads_to_a_length_or_not_at_all(clips: list[NDArray[np.float32]]) -> None:
    extractor = SpectokFeatureExtractor()
    cut = extractor(clips, padding="max_length", max_length=4000, truncation=True)
    assert cut["input_values"].shape == (2, 1, 4000) and cut["padding_mask"].sum(axis=1).tolist() == [3000, 4000]
    apart = extractor([torch.from_numpy(clips[0]), clips[1].tolist()], padding=False)
    assert [row.shape for row in apart["input_values"]] == [(1, 3000), (1, 5000)]
    assert extractor(clips[0].tolist())["input_values"].shape == (1, 1, 3000)


def test_other_audio_is_refused(clips: list[NDArray[np.float32]]) -> None:
    extractor = SpectokFeatureExtractor()
    with refuses("^the audio has a sample rate of 8000 Hz, but the codec of 16000 Hz; resample it$"):
        extractor(clips, sampling_rate=8000)
    with refuses("^recording 1 holds no samples$"):
        extractor([clips[0], np.zeros(0, np.float32)])
    with refuses("^the batch has no recordings$"):
        extractor([])
    with refuses("^recordings of different lengths need padding to become tensors$"):
        extractor(clips, padding=False, return_tensors="pt")
    with refuses("^the feature extractor has a sample rate of 8000 Hz, but the codec of 16000 Hz$"):
        SpectokProcessor(SpectokFeatureExtractor(sampling_rate=8000), NAME)


@pytest.mark.parametrize("tensors", ["np", "pt"])
@pytest.mark.parametrize("layout", ["codebooks_first", "frames", "flat"])
def test_a_processor_encodes_and_decodes_a_batch(
    processor: SpectokProcessor, clips: list[NDArray[np.float32]], layout: Any, tensors: str
) -> None:
    codes, mask, lengths = processor.encode(**processor(clips, return_tensors=tensors), layout=layout)
    assert isinstance(codes, torch.Tensor if tensors == "pt" else np.ndarray)
    assert lengths.tolist() == [3000, 5000]
    heard = processor.batch_decode(codes, mask, lengths, layout=layout)
    tokenizer = released(NAME)
    for row, kept, sound, clip in zip(np.asarray(codes), np.asarray(mask), heard, clips, strict=True):
        expected = tokenizer.encode(clip, layout=layout)
        np.testing.assert_array_equal(np.compress(kept, row, -1 if layout == "codebooks_first" else 0), expected)
        np.testing.assert_array_equal(sound, tokenizer.decode(expected, len(clip), layout=layout))
    assert [len(sound) for sound in processor.batch_decode(codes, layout=layout)] == [17 * 320 - 160] * 2
    with refuses(r"^the padding of recording 0 is not at its end, or its mask has another shape$"):
        processor.encode(np.stack(clips[:1]), np.eye(1, 3000, 5))
    with refuses("^the padding of row 0 is not at its end$"):
        processor.batch_decode(codes, np.asarray(mask)[:, ::-1], layout=layout)
    for other in (np.asarray(mask)[0], np.asarray(mask)[:1]):
        with refuses(r"^the mask has the shape \[.*\], but must have \["):
            processor.batch_decode(codes, other, layout=layout)


def test_a_saved_processor_works_by_itself(
    processor: SpectokProcessor, clips: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    """In a process of its own, offline, from a folder with another name."""
    written = processor.save_pretrained(tmp_path / "saved")
    assert sorted(Path(path).relative_to(tmp_path / "saved").as_posix() for path in written) == [
        *(f"codec/{name}" for name in sorted(pretrained.find(NAME).index)),
        "preprocessor_config.json",
        "processor_config.json",
    ]
    (tmp_path / "saved").rename(tmp_path / "moved")
    for auto, expected in ((AutoProcessor, SpectokProcessor), (AutoFeatureExtractor, SpectokFeatureExtractor)):
        assert type(auto.from_pretrained(tmp_path / "moved")) is expected  # type: ignore[no-untyped-call]
    loaded = AutoProcessor.from_pretrained(tmp_path / "moved")
    assert loaded.codec.weight_hash == processor.codec.weight_hash
    np.testing.assert_array_equal(loaded.encode(clips).codes, processor.encode(clips).codes)
    (tmp_path / "moved" / "codec" / "encoder.onnx").write_bytes(b"damaged")
    with refuses("encoder.onnx"):
        AutoProcessor.from_pretrained(tmp_path / "moved").encode(clips)


def test_a_processor_of_a_released_model_and_of_none(processor: SpectokProcessor) -> None:
    assert repr(processor).startswith("SpectokProcessor of spectok-16k-4k with SpectokFeatureExtractor {")
    assert SpectokProcessor.from_pretrained(NAME).codec.weight_hash == released(NAME).weight_hash
    with refuses("^there is no model 'nobody'"):
        SpectokProcessor.from_pretrained("nobody")


def test_forms_of_audio_in_a_dataset(clips: list[NDArray[np.float32]], tmp_path: Path) -> None:
    tokenizer, clip = released(NAME), clips[0]
    path = tmp_path / "a.wav"
    write_audio(path, clip, 16000)
    expected = tokenizer.encode(path)
    tokenize = TokenizeAudio(tokenizer)
    as_read = np.asarray((np.rint(clip * 32768) / 32768).astype(np.float32))
    forms: list[Any] = [str(path), {"path": str(path), "bytes": None}, {"path": None, "bytes": path.read_bytes()}]
    forms += [{"array": as_read, "sampling_rate": 16000}, as_read.tolist()]
    for form in forms:
        np.testing.assert_array_equal(tokenize({"audio": form})["codes"], expected)
    for codes in tokenize({"audio": forms})["codes"]:
        np.testing.assert_array_equal(codes, expected)
    slower = TokenizeAudio(tokenizer, sampling_rate=8000, layout="frames")({"audio": as_read.tolist()})["codes"]
    np.testing.assert_array_equal(slower, tokenizer.encode(resample(as_read, 8000, 16000), layout="frames"))
    assert tokenize({"audio": []}) == {"codes": []}
    with refuses("^the dataset has no column 'audio'$"):
        tokenize({"sound": clip})
    with refuses("^a recording has neither samples, bytes nor a path$"):
        tokenize({"audio": [{"path": None, "bytes": None}]})


HASH = """
from datasets.fingerprint import Hasher
from spectok import Tokenizer
from spectok.hf import TokenizeAudio
print(Hasher.hash(TokenizeAudio(Tokenizer.from_pretrained("spectok-16k-4k"))))
"""


def test_the_hash_depends_on_the_model_and_the_arguments_only(clips: list[NDArray[np.float32]]) -> None:
    tokenizer = Tokenizer.from_pretrained(NAME)
    before = Hasher.hash(TokenizeAudio(tokenizer))
    tokenizer.decode(tokenizer.encode(clips[0]))
    assert Hasher.hash(TokenizeAudio(tokenizer)) == Hasher.hash(TokenizeAudio(released(NAME))) == before
    done = subprocess.run([sys.executable, "-c", HASH], env=dict(os.environ), capture_output=True, text=True)
    assert done.stdout.strip() == before, done.stderr
    others = [TokenizeAudio(released("spectok-16k-800")), TokenizeAudio(tokenizer, layout="frames")]
    assert len({before, *map(Hasher.hash, others)}) == 3


def test_map_in_two_processes_and_from_the_cache(clips: list[NDArray[np.float32]], tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", clips[number % 2], 16000)
    Dataset.from_dict({"audio": [str(tmp_path / f"{number}.wav") for number in range(4)]}).save_to_disk(
        str(tmp_path / "data")
    )
    dataset = Dataset.load_from_disk(str(tmp_path / "data"))
    options: dict[str, Any] = {"batched": True, "batch_size": 2, "remove_columns": "audio"}
    first = dataset.map(TokenizeAudio(Tokenizer.from_pretrained(NAME)), num_proc=2, **options)
    for row, number in zip(first, range(4), strict=True):
        assert row["codes"] == released(NAME).encode(tmp_path / f"{number}.wav").tolist()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("cache-*")}
    assert len(before) == 2
    again = dataset.map(TokenizeAudio(Tokenizer.from_pretrained(NAME)), num_proc=2, **options)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("cache-*")} == before
    assert again[:] == first[:]
