"""Supervision of the decoder's inner scales."""

import dataclasses

import pytest
import torch
from conftest import FLAT, QUERY
from runs import differing, recipe, trainer_of
from torch import nn

from spectok.model.codec import SPECTRUM_GAIN, Codec
from spectok.training.losses import LossConfig
from spectok.training.scales import Scales

configs = pytest.mark.parametrize("config", [QUERY, FLAT], ids=["query", "flat"])


def watched(config):
    codec = Codec(config)
    return codec, Scales(codec)


@configs
def test_scales_rise_to_the_whole_spectrum(config):
    codec, scales = watched(config)
    codec(torch.randn(2, 6 * config.frame_length))
    seen = [tuple(scales.features[index].shape) for index in range(len(scales.heads))]
    # Hops and positions that are left: QUERY has one stage of strides (2, 2), FLAT has (1, 4), (2, 4) and (1, 2).
    expected = {
        "tiny-query": ([(2, 6, 16, 8)], [(2, 2)]),
        "tiny-flat": ([(2, 6, 1, 10), (2, 6, 2, 8), (2, 12, 8, 6)], [(2, 32), (2, 16), (1, 4)]),
    }
    assert (seen, scales.steps) == expected[config.name]


@torch.no_grad()
def test_the_loss_by_hand(speech):
    codec, scales = watched(QUERY)
    frame = QUERY.frame_length
    audio = torch.from_numpy(speech[16000 : 16000 + 40 * frame].copy()).reshape(2, -1)
    codec(audio)
    features = scales.features[0]
    spectrum = codec.encoder.power_law.compress(codec.encoder.stft(audio)) * SPECTRUM_GAIN
    magnitude = torch.linalg.vector_norm(spectrum, dim=1)
    pooled = (
        magnitude[:, 0::2, 0::2] + magnitude[:, 1::2, 0::2] + magnitude[:, 0::2, 1::2] + magnitude[:, 1::2, 1::2]
    ) / 4
    head = scales.heads[0]
    estimate = torch.einsum("bfqc,c->bfq", features, head.weight[0]) + head.bias
    errors = (estimate - pooled).square().sum((1, 2)) / (pooled.square().sum((1, 2)) + 1e-2 * 20 * 16)
    assert float(scales(audio)) == pytest.approx(float(errors.mean()), rel=1e-5)
    assert scales.features == {}


@torch.no_grad()
def test_heads_that_say_nothing_are_as_wrong_as_silence(speech):
    codec, scales = watched(FLAT)
    for head in scales.heads:
        nn.init.zeros_(head.weight)
    audio = torch.from_numpy(speech[20000 : 20000 + 100 * FLAT.frame_length].copy()).reshape(1, -1)
    codec(audio)
    assert 0.9 < float(scales(audio)) < 1.0


@configs
def test_the_loss_reaches_the_decoder_before_each_scale_and_not_after_the_last(config):
    codec, scales = watched(config)
    audio = torch.randn(2, 6 * config.frame_length)
    codec(audio)
    scales(audio).backward()
    reached = {name for name, parameter in codec.named_parameters() if parameter.grad is not None}
    last = len(codec.decoder.tower.layers) - 1  # the output convolution, after the last upsampling
    assert {f"decoder.tower.layers.{index}" for index in (last - 1, last)}.isdisjoint(
        name.rsplit(".layers", 1)[0] if name.count("layers") > 1 else name.rsplit(".conv", 1)[0] for name in reached
    )
    assert "decoder.project.weight" in reached and "encoder.project.weight" in reached


def test_heads_learn_and_are_not_released(prepared, tmp_path):
    loss = LossConfig(scales_weight=0.5)
    trainer = trainer_of(prepared, recipe(loss=loss, learning_rate=3e-3), steps=40)
    before = {name: weight.clone() for name, weight in trainer.scales.state_dict().items()}
    values = [trainer.train_step() for _ in range(40)]
    assert differing(before, trainer.scales.state_dict()) == ["heads.0.weight", "heads.0.bias"]
    assert values[-1]["scales"] < 0.7 * values[0]["scales"]
    without = Codec(trainer.config.codec).state_dict()
    assert trainer.averaged_codec().state_dict().keys() == trainer.average.keys() == without.keys()
    plain = trainer_of(prepared, dataclasses.replace(trainer.config, loss=LossConfig()))
    assert "scales" not in plain.train_step()
