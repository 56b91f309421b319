"""States carried over from step to step in training, and the pitch that the pulses follow."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import recipe, trainer_of

from spectok.config import ExcitationConfig
from spectok.model.codec import NETWORK_STATES
from spectok.model.excitation import Excitation
from spectok.model.streaming import leaves
from spectok.training.augment import Augmenter
from spectok.training.losses import LossConfig
from spectok.training.recipe import TrainConfig
from spectok.training.streams import Streams

PULSES = ExcitationConfig(kind="pulses", above=1000.0)


def pulsed(reset_share: float = 0.0, tracked_pitch: tuple[float, float] = (0.15, 0.5), **optim: Any) -> TrainConfig:
    """A recipe with pulses and two draws, whose weights hardly change."""
    loss = LossConfig(draws=2, pitch_weight=0.1, complex_weight=0.3)
    config = recipe(loss=loss, learning_rate=1e-12, **optim)
    codec = dataclasses.replace(config.codec, excitation=PULSES)
    return dataclasses.replace(config, codec=codec, reset_share=reset_share, tracked_pitch=tracked_pitch)


def test_states_after_three_steps_are_those_of_one_long_stream(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed())
    drawn = Augmenter(trainer.corpus, trainer.config.data)
    audio = torch.cat([drawn.batch(6400, 0, step).audio for step in range(3)], dim=1)
    for _ in range(3):
        trainer.train_step()
    streams, codec = trainer.streams, trainer.codec
    encoder, decoder = codec.init_state(2)
    with torch.no_grad():
        _, _, (encoder, network) = codec.estimate(audio, (encoder, decoder[:NETWORK_STATES]))
    for found, expected in zip(leaves(streams.network), leaves((encoder, network)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not found.requires_grad
    assert torch.equal(streams.tail, audio[:, -codec.config.synthesis_delay :])
    _, _, place = streams.synthesis[0]
    assert len(set(place.flatten().tolist())) > 1 and place.shape == (4, 1)  # two draws of two streams


def test_the_original_is_delayed_like_the_output(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed())
    delay = trainer.config.codec.synthesis_delay
    audio = torch.randn(2, 6400), torch.randn(2, 6400)
    streams = trainer.streams
    first = streams.delayed(audio[0])
    streams.go_on(audio[0], streams.network, streams.synthesis)
    late = torch.cat([first, streams.delayed(audio[1])], dim=1)
    assert torch.equal(late, torch.nn.functional.pad(torch.cat(audio, dim=1), (delay, 0))[:, :12800])


def test_a_reset_affects_only_its_streams(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed())
    trainer.train_step()
    streams = trainer.streams
    before = {name: tensor.clone() for name, tensor in streams.tensors().items()}
    streams.reset(torch.tensor([False, True]))
    network = len(leaves(streams.network))
    for name, tensor in streams.tensors().items():
        rows = torch.arange(len(tensor)) % 2 == 1
        assert torch.equal(tensor[~rows], before[name][~rows])
        if int(name) < network:
            assert before[name][rows].any() and not tensor[rows].any()
    (phase, pitch), *_ = streams.synthesis[0]
    assert not pitch[1::2].any() and len(set(phase[1::2].flatten().tolist())) == 2  # drawn independently
    assert not streams.tail[1].any() and streams.tail[0].any()
    streams.reset(torch.tensor([False, False]))


def test_the_share_of_resets_and_their_dependence_on_the_step(prepared: Path) -> None:
    config = pulsed(reset_share=0.1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=4))
    trainer, other = trainer_of(prepared, config, steps=1), trainer_of(prepared, config, steps=1)
    drawn = []
    for trainer.step in range(1000):
        drawn.append(trainer._resets())
    other.step = 500
    assert torch.equal(other._resets(), drawn[500])
    assert float(torch.stack(drawn).float().mean()) == pytest.approx(0.1, abs=3 * (0.09 / 4000) ** 0.5)


def test_each_rank_restores_its_rows(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed())
    trainer.train_step()
    both = [Streams(trainer.codec, 2, 2) for _ in range(2)]
    whole = {
        name: torch.cat([a, b])
        for (name, a), b in zip(both[0].tensors().items(), both[1].tensors().values(), strict=True)
    }
    for rank, own in enumerate(both):
        restored = Streams(trainer.codec, 2, 2)
        restored.restore(whole, rank, 2)
        for name, tensor in restored.tensors().items():
            assert torch.equal(tensor, own.tensors()[name])


def test_pulses_follow_the_tracker_at_first_and_the_codec_later(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed(), steps=100)
    excitation = trainer.codec.decoder.excitation
    assert isinstance(excitation, Excitation)
    grid = excitation.grid
    audio, _, _ = trainer._next_batch()
    estimate, _, _ = trainer.codec.estimate(audio, trainer.streams.network)
    assert estimate.pitch is not None
    own = grid.decode(estimate.pitch)
    tracked = torch.full((2, 40), 100.0)
    tracked[:, 20:] = 0  # unvoiced
    trainer.step = 10
    pitch, losses = trainer._pitch(estimate, tracked)
    assert torch.equal(pitch[:, :20], torch.full((2, 20), int(grid.index(torch.tensor(100.0)))))
    assert torch.equal(pitch[:, 20:], torch.where(own < 0, own, -1 - own)[:, 20:])  # the codec's pitch, unvoiced
    assert losses["pitch"] > 0
    led = 0
    trainer.step = 33  # half way from 15 to 50 %
    for _ in range(500):
        pitch, _ = trainer._pitch(estimate, tracked)
        led += int((pitch[:, :20] != own[:, :20]).any(dim=1).sum())
    assert led / 1000 == pytest.approx((0.5 - 0.33) / 0.35, abs=3 * (0.25 / 1000) ** 0.5)
    trainer.step = 50
    pitch, _ = trainer._pitch(estimate, tracked)
    assert pitch is not None and torch.equal(pitch, own)


def test_pitches_outside_the_range_count_as_unvoiced(prepared: Path) -> None:
    trainer = trainer_of(prepared, pulsed(), steps=100)
    audio, _, _ = trainer._next_batch()
    estimate, _, _ = trainer.codec.estimate(audio, trainer.streams.network)
    for hertz, is_voiced in ((0.0, False), (54.0, False), (55.0, True), (520.0, True), (521.0, False)):
        pitch, _ = trainer._pitch(estimate, torch.full((2, 40), hertz))
        assert bool((pitch >= 0).all()) == is_voiced and bool((pitch < 0).all()) != is_voiced
