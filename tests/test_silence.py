"""Digital silence: one frame of codes, whatever the stream was before it, and how they are chosen."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import QUERY, VQ
from models import released
from numpy.typing import NDArray

from recipes.release import silence_codes
from spectok import InputError, pretrained
from spectok.model.codec import Codec
from spectok.model.contract import verify_streaming
from spectok.model.quantizer import FSQuantizer
from spectok.model.silence import HOLD_FRAMES, Silence

CODES = (5, 62)
SILENT = dataclasses.replace(QUERY, silence_codes=CODES)
every_model = pytest.mark.parametrize("name", pretrained.models())


def frames_of(codec: Codec, audio: NDArray[np.float32]) -> NDArray[np.int64]:
    """Codes `[F, K]`."""
    codes, _ = codec.encode_step(torch.from_numpy(audio)[None], codec.encoder.init_state(1))
    return codes.reshape(-1, codec.config.quantizer.tokens_per_frame).numpy()


def test_the_latent_of_silence_has_its_codes() -> None:
    for codes in ((0, 63), (5, 62), (17, 40)):
        silence = Silence(codes, QUERY.quantizer, 32)
        assert FSQuantizer(QUERY.quantizer).encode(silence.latent[None, None]).flatten().tolist() == list(codes)


def test_frames_are_silent_after_the_hold_and_before_the_start_of_a_stream(speech: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    codec, plain = Codec(SILENT), Codec(QUERY)
    plain.load_state_dict(codec.state_dict())
    frame = codec.frame_length
    zeros = np.zeros(40 * frame, np.float32)
    audio = np.concatenate([zeros[: 3 * frame], speech[16000 : 16000 + 10 * frame], zeros, speech[: 2 * frame]])
    audio[13 * frame - 1] = 1e-9  # the last sample before the pause counts, however small
    codes, without = frames_of(codec, audio), frames_of(plain, audio)
    silent = (codes == CODES).all(axis=1)
    expected = [*range(3), *range(13 + HOLD_FRAMES, 53)]
    assert np.flatnonzero(silent).tolist() == expected
    assert np.array_equal(codes[~silent], without[~silent])  # the encoder's other states do not change by it


def test_the_encoder_keeps_the_contract() -> None:
    audio = torch.randn(2, 32 * (HOLD_FRAMES + 9))
    audio[:, 64 : 64 + 32 * (HOLD_FRAMES + 3)] = 0
    verify_streaming(Codec(SILENT).encoder, audio)


@every_model
def test_released_models_give_one_frame_for_silence_and_decode_it_to_silence(
    name: str, speech: NDArray[np.float32]
) -> None:
    """Less than -80 dB, from the start of a stream and after speech, with no sample above -44 dB."""
    tokenizer = released(name)
    silence = np.zeros(3 * 16000, np.float32)
    codes = tokenizer.encode(np.concatenate([silence, speech[:32000], silence]), layout="frames")
    wanted = np.array(tokenizer.config.silence_codes)
    assert (codes[:149] == wanted).all() and (codes[250 + HOLD_FRAMES + 1 : 400] == wanted).all()
    for audio in (tokenizer.decode(codes[:149], layout="frames"), tokenizer.decode(codes, layout="frames")[-32000:]):
        assert 10 * np.log10(np.square(audio, dtype=np.float64).mean()) < -80
        assert np.abs(audio).max() < 10 ** (-44 / 20)


def test_the_codes_of_silence_are_those_of_the_lowest_level(speech: NDArray[np.float32]) -> None:
    name = "spectok-16k-800"
    engine = released(name, "torch").engine
    codes = silence_codes(engine.codec, speech)  # type: ignore[attr-defined]
    assert codes == released(name).config.silence_codes


def test_impossible_codes_are_refused() -> None:
    for codes in ((5,), (5, 64), (-1, 3)):
        with pytest.raises(InputError, match=r"^silence_codes are .*, but must be 2 codes of an fsq, from 0 to 63$"):
            dataclasses.replace(QUERY, silence_codes=codes)
    with pytest.raises(InputError, match=r"^silence_codes are .*, but must be 4 codes of an fsq, from 0 to 31$"):
        dataclasses.replace(VQ, silence_codes=(1, 2, 3, 4))
