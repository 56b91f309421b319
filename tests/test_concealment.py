"""Concealment of lost frames: the layer, the codec, the engines and the training."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUERY
from models import RandomEngine, random_codec, write_model
from numpy.typing import NDArray
from runs import recipe, trainer_of

from spectok.engine import OnnxEngine, TorchEngine
from spectok.errors import InputError
from spectok.evaluation.erasures import lost_frames
from spectok.export.agreement import export_verified
from spectok.model.codec import Codec
from spectok.model.concealment import Concealment, repeated
from spectok.model.contract import verify_streaming
from spectok.sessions import StreamDecoder
from spectok.training.recipe import ErasureConfig, TrainConfig

CONCEALING = dataclasses.replace(QUERY, concealment_hidden=6)
LOST = np.array([[0, 0, 1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0, 1, 1]], bool)


def frames_of(rows: int = 2, count: int = LOST.shape[1]) -> NDArray[np.int64]:
    """Random codes `[B, F, K]`."""
    slots = (rows, count, QUERY.quantizer.tokens_per_frame)
    return np.random.default_rng(0).integers(0, QUERY.quantizer.codebook_size, slots)


def without(codec: Codec) -> Codec:
    """The same codec with the same weights, but without concealment."""
    plain = Codec(dataclasses.replace(codec.config, concealment_hidden=0)).eval()
    weights = codec.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


def test_the_layer_keeps_the_contract_and_corrects_lost_frames_only() -> None:
    layer, x = Concealment(4, 6, 5), torch.randn(2, 8, 5)
    verify_streaming(layer, x)
    assert not layer(x).any()  # an untrained one
    torch.nn.init.ones_(layer.out.weight)
    x[..., -1] = torch.from_numpy(LOST)
    assert torch.equal(layer(x).any(dim=-1), torch.from_numpy(LOST))


def test_lost_frames_repeat_the_last_one_that_arrived() -> None:
    frames = torch.arange(16).reshape(2, 8, 1)
    expected = [[0, 1, 1, 3, 3, 3, 6, 7], [8, 8, 10, 11, 12, 13, 13, 13]]
    assert repeated(frames, torch.from_numpy(LOST))[..., 0].tolist() == expected


def test_streams_without_loss_do_not_change_by_it() -> None:
    codec, codes = random_codec(CONCEALING), torch.from_numpy(frames_of().reshape(2, -1))
    state = codec.init_state(2)[1]
    plain = without(codec)
    expected, _ = plain.decode_step(codes, plain.init_state(2)[1])
    for lost in (None, torch.zeros(2, 8, dtype=torch.bool)):
        assert torch.equal(codec.decode_step(codes, state, lost)[0], expected)
    one_lost = torch.zeros(2, 8, dtype=torch.bool)
    one_lost[0, 5] = True
    changed, _ = codec.decode_step(codes, state, one_lost)
    frame, delay = QUERY.frame_length, QUERY.synthesis_delay
    assert torch.equal(changed[1], expected[1])
    assert torch.equal(changed[0, : 5 * frame], expected[0, : 5 * frame])
    assert (changed[0, 5 * frame + delay :] - expected[0, 5 * frame + delay :]).abs().max() > 1e-4


def test_estimate_conceals_as_a_decoder_of_repeated_codes_does() -> None:
    codec = random_codec(CONCEALING).double()
    audio, lost = 0.1 * torch.randn(2, 8 * QUERY.frame_length, dtype=torch.float64), torch.from_numpy(LOST)
    encoder, decoder = codec.init_state(2)
    estimate, quantized, _ = codec.estimate(audio, (encoder, decoder), lost)
    expected, _ = codec.decode_step(repeated(quantized.codes, lost).flatten(1), decoder, lost)
    found, _ = codec.decoder.synthesize(estimate, decoder[3:])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # FSQ's grid is float32


def test_both_engines_and_sessions_conceal_alike(speech: NDArray[np.float32], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", CONCEALING)
    export_verified(model, speech[16000:20000], model.folder)
    codes = frames_of()
    filled = repeated(torch.from_numpy(codes), torch.from_numpy(LOST)).numpy().reshape(2, -1)
    outputs = []
    for engine in (OnnxEngine(model), TorchEngine(model)):
        whole, _ = engine.decode_step(filled, engine.init_state(2).decoder, LOST)
        repeating, _ = engine.decode_step(filled, engine.init_state(2).decoder)
        assert np.abs(whole - repeating).max() > 1e-4
        session = StreamDecoder(engine, batch=2)
        heard = [session.push(codes[:, n : n + 3], LOST[:, n : n + 3]) for n in range(0, 8, 3)]
        np.testing.assert_allclose(np.concatenate(heard, axis=1), whole[:, QUERY.synthesis_delay :], rtol=0, atol=1e-5)
        outputs.append(whole)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-5)


def test_long_pushes_with_losses_are_split_into_blocks() -> None:
    engine = RandomEngine(CONCEALING)
    count = 2 * round(2 * CONCEALING.frame_rate) + 5
    codes = frames_of(1, count)[0]
    lost = lost_frames(count, 0.2, 1.5, np.random.default_rng(1))
    whole = StreamDecoder(engine).push(codes, lost)
    assert engine.longest == round(2 * CONCEALING.frame_rate)
    session = StreamDecoder(engine)
    heard = [session.push(frame, np.array([is_lost])) for frame, is_lost in zip(codes, lost, strict=True)]
    np.testing.assert_allclose(np.concatenate(heard), whole, rtol=0, atol=1e-9)


def conceals(share: float = 1.0) -> TrainConfig:
    config = recipe(learning_rate=1e-2)
    codec = dataclasses.replace(config.codec, concealment_hidden=8)
    erasures = ErasureConfig(share=share, rate=(0.3, 0.4), burst=(1.0, 2.0))
    return dataclasses.replace(config, codec=codec, erasures=erasures, trained="concealment")


def test_training_the_concealment_changes_nothing_else(prepared: Path) -> None:
    trainer = trainer_of(prepared, conceals(), steps=3)
    before = copy.deepcopy(trainer.codec.state_dict())
    for _ in range(3):
        trainer.train_step()
    after = trainer.codec.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in after if name.startswith("decoder.concealment.")}
    assert {name for name, tensor in trainer.average.items() if not torch.equal(tensor, before[name])} == changed


def test_the_share_of_streams_with_losses_follows_the_recipe(prepared: Path) -> None:
    config = dataclasses.replace(conceals(0.5), data=dataclasses.replace(conceals().data, batch_size=400))
    trainer = trainer_of(prepared, config)
    lost = trainer._lost()
    assert lost is not None and lost.shape == (400, 20) and not lost[:, 0].any()
    assert float(lost.any(dim=1).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(lost[lost.any(dim=1)].float().mean()) == pytest.approx(0.35, abs=0.05)
    again = trainer._lost()
    assert again is not None and torch.equal(again, lost)  # it depends on seed and step only
    trainer.step = 1
    other = trainer._lost()
    assert other is not None and not torch.equal(other, lost)


def test_concealment_cannot_be_trained_without_losses() -> None:
    with pytest.raises(InputError, match=r"codec.concealment_hidden and erasures.share must be positive$"):
        conceals(0.0)


def test_lost_frames_have_their_rate_and_their_bursts() -> None:
    for rate, burst in ((0.1, 1 / 0.9), (0.1, 3.0), (0.4, 3.0)):
        lost = lost_frames(200_000, rate, burst, np.random.default_rng(0))
        runs = np.count_nonzero(np.diff(lost.astype(int)) == 1)
        assert not lost[0]
        assert lost.mean() == pytest.approx(rate, rel=0.03)
        assert lost.sum() / runs == pytest.approx(burst, rel=0.03)
    assert not lost_frames(1000, 0.0, 1.0, np.random.default_rng(0)).any()
