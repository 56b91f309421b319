"""The encoder of Whisper for the recogniser's loss: equal to that of CTranslate2, and a distance known by hand."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectok.audio import read_audio
from spectok.errors import InputError
from spectok.evaluation import judges
from spectok.training import whisper
from spectok.training.losses import LossConfig, Losses
from spectok.training.whisper import WhisperEncoder, hearing_distance

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in other packages


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    return WhisperEncoder()


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return read_audio(SPEECH, 16000)[0]


def test_it_computes_what_ctranslate2_does(encoder: WhisperEncoder, speech: NDArray[np.float32]) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    parts = judges.whisper_weights()
    with tempfile.TemporaryDirectory() as folder:
        for file in parts[1].parent.glob("*.json"):
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        (Path(folder) / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
        model = ctranslate2.models.Whisper(folder, device="cpu", compute_type="float32")
    audio = np.zeros(30 * 16000, np.float32)
    audio[: len(speech)] = speech
    with torch.inference_mode():
        log_mel = encoder.log_mel(torch.from_numpy(audio)[None])
        ours = encoder(torch.from_numpy(audio)[None])[-1][0].numpy()
    theirs = np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(log_mel.numpy()))))[0]
    assert ours.shape == theirs.shape == (1500, 512)
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(theirs).max()


def test_its_input_is_that_of_whisper_with_a_floor(encoder: WhisperEncoder, speech: NDArray[np.float32]) -> None:
    extractor = pytest.importorskip("faster_whisper.feature_extractor").FeatureExtractor()
    theirs = extractor(speech, padding=False)
    ours = encoder.log_mel(torch.from_numpy(speech)[None])[0].numpy()[:, : theirs.shape[1]]
    theirs, ours = theirs[:, :-2], ours[:, :-2]  # at the end, zeros are added there and a reflection here
    powers = 10 ** (4 * theirs - 4)
    differences = np.abs(ours - (np.log10(powers + whisper.FLOOR) + 4) / 4)[theirs > theirs.min()]
    assert differences.max() < 1e-5 and len(differences) > 0.9 * theirs.size
    assert (powers > whisper.FLOOR).mean() > 0.5


def test_a_clip_is_at_distance_zero_from_itself_and_far_from_others(
    encoder: WhisperEncoder, speech: NDArray[np.float32]
) -> None:
    with torch.inference_mode():
        first, second = (encoder(torch.from_numpy(part)[None]) for part in (speech[8000:24000], speech[24000:40000]))
    assert [tuple(output.shape) for output in first] == [(1, 50, 512)] * 3
    assert float(hearing_distance(first, first)) == 0
    assert 1.2 < float(hearing_distance(first, second)) < 1.7


def test_the_distance_counts_dimensions_alike() -> None:
    original = torch.tensor([[[1.0, 100.0], [-1.0, 300.0]]])  # mean deviations of 1 and 100
    assert float(hearing_distance([original], [original + torch.tensor([0.5, 20.0])])) == pytest.approx(0.35)


def test_the_loss_is_of_the_first_draw_only(speech: NDArray[np.float32]) -> None:
    losses = Losses(LossConfig(recognizer_weight=1.0), 16000)
    audio = torch.from_numpy(speech[8000:24000])[None]
    decoded = torch.cat([0.5 * audio, torch.zeros_like(audio)]).requires_grad_()
    value = losses(audio, decoded)["recognizer"]
    (gradient,) = torch.autograd.grad(value, decoded)
    assert float(gradient[0].abs().max()) > 0 == float(gradient[1].abs().max())
    assert float(losses(audio, audio)["recognizer"]) == 0


def test_what_is_heard_is_not_computed_twice(speech: NDArray[np.float32]) -> None:
    losses = Losses(LossConfig(recognizer_weight=1.0), 16000)
    audio = torch.from_numpy(speech[8000:24000])[None]
    heard = losses.hear(audio, 0.5 * audio)
    expected = losses(audio, 0.5 * audio)["recognizer"]
    losses.recognizer = None
    assert float(losses(audio, 0.5 * audio, heard=heard)["recognizer"]) == float(expected) > 0
    assert losses.hear(audio, audio) is None


def test_in_bfloat16_it_hears_nearly_the_same(speech: NDArray[np.float32]) -> None:
    audio = torch.from_numpy(speech[8000:24000])[None]
    found = {}
    for is_fast in (False, True):
        losses = Losses(LossConfig(recognizer_weight=1.0, recognizer_bf16=is_fast), 16000)
        decoded = (0.5 * audio).requires_grad_()
        value = losses(audio, decoded)["recognizer"]
        found[is_fast] = float(value.detach()), torch.autograd.grad(value, decoded)[0].flatten()
    assert found[True][0] == pytest.approx(found[False][0], rel=0.01) and found[True][0] != found[False][0]
    assert torch.cosine_similarity(found[True][1], found[False][1], dim=0) > 0.98


def test_without_the_weights_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "WHISPER", ("no_such_package", "neither_this"))
    with pytest.raises(InputError, match="needs the weights of Whisper"):
        WhisperEncoder()


def test_another_sample_rate_is_refused() -> None:
    with pytest.raises(InputError, match="needs a sample rate of 16000 Hz, not 8000"):
        Losses(LossConfig(recognizer_weight=1.0), 8000)
