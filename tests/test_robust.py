"""The robust encoder: the leveller, and the training of an encoder for a decoder that exists."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import QUERY, VQ
from models import random_codec, write_model
from numpy.typing import NDArray
from runs import recipe

from recipes import train as train_recipe
from spectok.errors import InputError
from spectok.model.codec import Codec
from spectok.model.contract import verify_streaming
from spectok.model.denoiser import Denoiser
from spectok.model.leveller import TARGET_DB, Leveller
from spectok.model.quantizer import FSQuantizer, VectorQuantizer
from spectok.training.augment import Augmenter, DataConfig
from spectok.training.corpus import Corpus
from spectok.training.losses import LossConfig
from spectok.training.recipe import Budget, ErasureConfig, TrainConfig
from spectok.training.robust import EncoderTrainer, code_errors, denoised_error
from spectok.weights import load_tensors

LATENT_ONLY = LossConfig(latent_weight=1.0, complex_weight=0.0, magnitude_weight=0.0, mel_weight=0.0)
ROBUST = dataclasses.replace(QUERY, leveller=True)


def decibels(audio: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(audio, dtype=np.float64).mean()))


def levelled(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    whole = audio[: len(audio) // 160 * 160]
    output: torch.Tensor = Leveller(160, 16000)(torch.from_numpy(whole)[None])[0]
    return output.numpy()


def test_the_leveller_keeps_the_contract() -> None:
    verify_streaming(Leveller(16, 16000), 0.3 * torch.randn(2, 160))


def test_a_steady_sound_gets_the_target_level() -> None:
    """After half a second if it is loud; the prior slows the gain for quiet sound and bounds it."""
    noise = np.random.default_rng(0).standard_normal(64000).astype(np.float32)
    for level, expected in ((12, 0.0), (0, 0.0), (-6, -0.8), (-12, -6.1)):
        output = levelled(noise * np.float32(10 ** ((TARGET_DB + level) / 20)))
        assert decibels(output[8000:12000]) - TARGET_DB == pytest.approx(expected, abs=0.15)
        assert decibels(output[60000:]) - TARGET_DB == pytest.approx({-6: -0.2, -12: -2.4}.get(level, 0.0), abs=0.15)
    assert decibels(levelled(1e-4 * noise)[60000:]) == pytest.approx(-80, abs=0.1)  # far below speech: no gain


def test_the_same_speech_at_another_loudness_gets_the_same_level(speech: NDArray[np.float32]) -> None:
    """After the first half second, as seen in every half second; the difference in loudness is 6 dB, and 12 dB."""
    plain = levelled(speech)
    for gain, most in ((0.5, 0.05), (0.25, 0.7)):
        quiet = levelled(np.float32(gain) * speech)
        for start in range(8000, 56001, 8000):
            part = slice(start, start + 8000)
            assert decibels(quiet[part]) - decibels(plain[part]) == pytest.approx(0, abs=most)


def test_pauses_and_silence_do_not_change_the_gain(speech: NDArray[np.float32]) -> None:
    pause = np.concatenate([speech[:32000], np.zeros(16000, np.float32), speech[:1600]])
    output = levelled(pause)
    assert not output[32160:47840].any()
    before, after = (
        np.abs(output[at]).sum() / np.abs(pause[at]).sum() for at in (slice(31000, 32000), slice(48160, 49600))
    )
    assert 20 * np.log10(after / before) == pytest.approx(0, abs=0.6)


def test_an_encoder_with_a_leveller_gives_nearly_the_same_codes_at_another_loudness(
    speech: NDArray[np.float32],
) -> None:
    plain = random_codec(QUERY)
    codec = Codec(ROBUST).eval()
    codec.load_state_dict(plain.state_dict())
    loud = torch.from_numpy(speech[:32000])[None]
    shares = []
    for one in (plain, codec):
        codes = [one.encode_step(audio, one.encoder.init_state(1))[0] for audio in (loud, 0.5 * loud)]
        shares.append(float((codes[0] != codes[1]).float().mean()))
    assert shares[1] < 0.4 * shares[0]


def test_the_denoiser_keeps_the_contract_and_changes_nothing_before_training() -> None:
    layer, x = Denoiser(5, 4), torch.randn(2, 2, 9, 5)
    assert torch.equal(layer(x), x)
    torch.nn.init.normal_(layer.output.weight)
    gains = layer(x) / x
    assert ((gains > 0) & (gains < 2)).all() and gains.std() > 0.1
    torch.testing.assert_close(gains[:, 0], gains[:, 1])  # phases stay
    verify_streaming(layer, x, time_axis=2)


def test_an_untrained_robust_encoder_gives_the_codes_of_the_leveller_alone(speech: NDArray[np.float32]) -> None:
    first = Codec(ROBUST).eval()
    second = Codec(dataclasses.replace(ROBUST, denoiser_hidden=6)).eval()
    second.load_state_dict(first.state_dict(), strict=False)
    audio = torch.from_numpy(speech[:16000])[None]
    codes = [codec.encode_step(audio, codec.encoder.init_state(1))[0] for codec in (first, second)]
    assert torch.equal(*codes)
    verify_streaming(second.encoder, torch.randn(2, 320))


def test_the_error_of_a_denoised_spectrum_by_hand() -> None:
    clean = torch.zeros(2, 2, 4, 3)
    clean[0, 0] = 1.0  # the other row is silent
    heard = clean.clone()
    heard[:, 1] = 0.5
    half = clean.clone()
    half[:, 1] = 0.25
    # Half of the numbers of the clean row are 1, so its mean square is 0.5; the errors are in the other half.
    before, after = (
        0.5 * 0.5 * noise**2 + 0.25 * np.array([(np.sqrt(1 + noise**2) - 1) ** 2, noise**2]) for noise in (0.5, 0.25)
    )
    expected = (after / (before + np.array([0.02 * 0.5, 0.0]) + 1e-3)).mean()
    assert float(denoised_error(half, clean, heard)) == pytest.approx(expected, rel=1e-3)
    weak = 0.9 * clean  # relative to little where doing nothing is right
    expected = (0.5 * 0.005 + 0.25 * 0.01) / (0.02 * 0.5 + 1e-3) / 2
    assert float(denoised_error(weak, clean, clean)) == pytest.approx(expected, rel=1e-3)
    assert float(denoised_error(clean, clean, heard)) == 0


def test_code_errors_are_distances_to_the_region_of_a_code() -> None:
    """Of a grid of 4 levels: boundaries at -1, 0 and 1 steps, and a margin of 0.4 steps."""
    quantizer = FSQuantizer(QUERY.quantizer)
    steps = torch.tensor([-1.45, -0.5, 0.5, 1.2])
    latent = torch.atanh(steps / 1.5)[:, None].expand(4, 3).reshape(1, 4, 1, 3)
    wanted = quantizer.encode(latent)
    assert float(code_errors(quantizer, latent, wanted)) == pytest.approx((0.2 / 1) ** 2 / 4, abs=1e-6)
    moved = torch.atanh((steps - 0.3) / 1.5).nan_to_num(-9.0)[:, None].expand(4, 3).reshape(1, 4, 1, 3)
    errors = torch.tensor([0.0, 0.2, 0.2, 0.5])  # in steps: the first is beyond the outermost, which costs nothing
    assert float(code_errors(quantizer, moved, wanted)) == pytest.approx(float(errors.square().mean()), abs=1e-6)
    vector = VectorQuantizer(VQ.quantizer)
    entries = vector.decode(torch.tensor([[[3], [5]]]))
    assert float(code_errors(vector, entries + 0.1, torch.tensor([[[3], [5]]])).mean()) == pytest.approx(0.01, abs=1e-6)


def trainer_of(
    folder: Path,
    loss: LossConfig = LATENT_ONLY,
    steps: int = 100,
    rate: float = 1e-3,
    denoiser: int = 0,
    trained: Literal["encoder", "denoiser"] = "encoder",
) -> EncoderTrainer:
    base = recipe(learning_rate=rate)
    codec = dataclasses.replace(base.codec, leveller=True, denoiser_hidden=denoiser)
    data = dataclasses.replace(base.data, denoise=True, noise_share=0.7, noise_kinds={"coloured": 1.0, "babble": 1.0})
    config = dataclasses.replace(base, codec=codec, loss=loss, trained=trained, data=data)
    return EncoderTrainer(config, Corpus(folder, "train"), Budget(steps=steps))


def test_only_the_encoder_learns_and_its_codes_come_nearer_to_the_clean_ones(prepared: Path) -> None:
    trainer = trainer_of(prepared, rate=3e-3)
    trainer.start_from(random_codec(trainer.config.codec).state_dict())
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    still = trainer_of(prepared, rate=1e-9)  # hears the same passages
    still.start_from(before)
    learnt, first = (np.mean([each.train_step()["latent"] for _ in range(200)][-60:]) for each in (trainer, still))
    assert learnt < 0.8 * first
    changed = {
        name.split(".")[0] for name, tensor in trainer.codec.state_dict().items() if (tensor != before[name]).any()
    }
    assert changed == {"encoder"}
    teacher = trainer.teacher.state_dict()
    assert all(torch.equal(teacher[name], before[f"encoder.{name}"]) for name in teacher)


def test_the_denoiser_learns_alone_and_its_teacher_has_none(prepared: Path) -> None:
    loss = dataclasses.replace(LATENT_ONLY, latent_weight=0.0, denoised_weight=1.0)
    trainer = trainer_of(prepared, loss, rate=3e-3, denoiser=12)
    steady = dataclasses.replace(
        trainer.config.data, noise_share=1.0, noise_kinds={"coloured": 1.0}, noise_snr_db=(5.0, 5.0)
    )
    trainer.config = dataclasses.replace(trainer.config, data=steady)
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    values = [trainer.train_step() for _ in range(40)]
    assert np.mean([one["denoised"] for one in values[-8:]]) < 0.8 * np.mean([one["denoised"] for one in values[:8]])
    after = trainer.codec.state_dict()
    changed = {".".join(name.split(".")[:2]) for name, tensor in after.items() if (tensor != before[name]).any()}
    assert changed == {"encoder.denoiser"}
    assert trainer.teacher.denoiser is None
    trainer.start_from(after)
    teacher = trainer.teacher.state_dict()
    assert all(torch.equal(teacher[name], after[f"encoder.{name}"]) for name in teacher)


def test_the_denoiser_alone_learns_the_codes_of_clean_speech(prepared: Path) -> None:
    """With the rest of the encoder as it was."""
    trainer = trainer_of(prepared, rate=3e-3, denoiser=12, trained="denoiser")
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    values = [trainer.train_step() for _ in range(40)]
    assert np.mean([one["latent"] for one in values[-8:]]) < np.mean([one["latent"] for one in values[:8]])
    after = trainer.codec.state_dict()
    assert {".".join(name.split(".")[:2]) for name in after if (after[name] != before[name]).any()} == {
        "encoder.denoiser"
    }
    with pytest.raises(InputError, match=r"^to train the denoiser, codec.denoiser_hidden must be positive$"):
        trainer_of(prepared, trained="denoiser")


def test_an_encoder_starts_from_an_earlier_one_and_its_teacher_does_not(prepared: Path) -> None:
    """Of another codec only the denoiser is taken."""
    trainer = trainer_of(prepared, denoiser=12)
    teacher = {name: tensor.clone() for name, tensor in trainer.teacher.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    other = {name: tensor + 0.01 for name, tensor in before.items()}
    trainer.start_encoder_from(other)
    now = trainer.codec.state_dict()
    for name, tensor in now.items():
        assert torch.equal(tensor, other[name] if name.startswith("encoder.") else before[name]), name
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in trainer.teacher.state_dict().items())
    averaged = trainer.averaged.module.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in now.items())
    trainer = trainer_of(prepared, denoiser=12)
    smaller = {name: t for name, t in other.items() if name.startswith("encoder.denoiser.")}
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    trainer.start_encoder_from(smaller)
    for name, tensor in trainer.codec.state_dict().items():
        assert torch.equal(tensor, smaller.get(name, before[name])), name


def test_losses_between_waveforms_compare_with_the_levelled_speech(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(prepared, dataclasses.replace(LATENT_ONLY, mel_weight=1.0, complex_weight=0.5))
    originals: list[torch.Tensor] = []

    def recorded(original: torch.Tensor, output: torch.Tensor, progress: float) -> dict[str, torch.Tensor]:
        originals.append(original)
        return {"mel": (original - output).abs().mean()}

    monkeypatch.setattr(trainer.losses, "forward", recorded)
    values = [trainer.train_step() for _ in range(2)]
    assert all({"latent", "mel", "wrong_codes"} <= step.keys() and step["skipped"] == 0.0 for step in values)
    config = trainer.config
    drawn = Augmenter(trainer.corpus, config.data)
    audio = torch.cat([drawn.batch(trainer.crop_samples, config.seed, step).audio for step in range(2)], dim=1)
    expected = Leveller(config.codec.spectrum.hop_length, config.codec.sample_rate)(audio)
    delay = config.codec.synthesis_delay
    torch.testing.assert_close(torch.cat(originals, dim=1)[:, delay:], expected[:, :-delay], rtol=0, atol=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(prepared: Path, tmp_path: Path) -> None:
    whole = trainer_of(prepared)
    for _ in range(4):
        whole.train_step()
    first = trainer_of(prepared)
    for _ in range(2):
        first.train_step()
    first.save(tmp_path)
    second = trainer_of(prepared)
    second.resume(tmp_path)
    for _ in range(2):
        second.train_step()
    for name, tensor in whole.codec.state_dict().items():
        assert torch.equal(tensor, second.codec.state_dict()[name]), name


def test_the_recipe_takes_the_codec_of_the_model_it_starts_from(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", dataclasses.replace(QUERY, name="tiny"))
    options = ["--data", str(prepared), "--steps", "2", "--quiet", "--set", "data.noise_share=0.0"]
    options += [
        "--set",
        "codec.denoiser_hidden=4",
        "--set",
        "data.room_share=0.0",
        "--set",
        "data.crop_seconds=0.2",
        "--set",
        "data.batch_size=2",
    ]
    command = ["recipes/robust.toml", *options, "--out", str(tmp_path / "run")]
    init = ["--init", str(model.folder)]
    assert train_recipe.main([*command, *init]) == 0
    weights, _ = load_tensors(tmp_path / "run" / "release" / "model.safetensors")
    before, _ = load_tensors(model.weights)
    assert all(torch.equal(weights[name], before[name]) for name in before if name.startswith("decoder."))
    assert '"denoiser_hidden": 4' in (tmp_path / "run" / "release" / "config.json").read_text()
    further = [*options, "--out", str(tmp_path / "further"), "--set", "optim.learning_rate=1e-9", *init]
    assert train_recipe.main(["recipes/robust.toml", *further, "--encoder", str(tmp_path / "run" / "release")]) == 0
    for option in ("--bf16", "--compile"):
        assert train_recipe.main(["recipes/robust.toml", *options, option, "--out", str(tmp_path / "none"), *init]) == 2
        assert "a recipe for an encoder runs in float32 and is not compiled" in capsys.readouterr().err
    later, _ = load_tensors(tmp_path / "further" / "release" / "model.safetensors")
    for name in later:  # the encoder is that of the first run, all else that of the model
        expected = weights[name] if name.startswith("encoder.") else before[name]
        torch.testing.assert_close(later[name], expected, rtol=0, atol=1e-6)
    without = [*options, "--out", str(tmp_path / "without"), *init, "--encoder", str(model.folder)]
    assert train_recipe.main(["recipes/robust.toml", *without]) == 2
    assert capsys.readouterr().err == "train: the model in --encoder has no denoiser of the width of this recipe's\n"
    command[command.index("--steps") + 1] = "3"
    assert train_recipe.main([*command, "--resume"]) == 0
    earlier = ["--encoder", str(tmp_path / "run" / "release")]
    assert train_recipe.main([*command, "--resume", *earlier]) == 2  # it has begun
    assert train_recipe.main(["recipes/flat.toml", *options, "--out", str(tmp_path / "flat"), *init, *earlier]) == 2
    assert train_recipe.main(["recipes/robust.toml", *options, "--out", str(tmp_path / "other")]) == 2


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(InputError, match=r"^data.denoise needs trained = 'encoder' or 'denoiser', which keep "):
        TrainConfig(data=DataConfig(denoise=True))
    with pytest.raises(InputError, match=r"^to train an encoder, latent_weight or denoised_weight must be po"):
        TrainConfig(trained="encoder")
    with pytest.raises(InputError, match=r"^the losses between waveforms need a positive latent_weight$"):
        TrainConfig(trained="encoder", loss=LossConfig(denoised_weight=1.0))
    with pytest.raises(InputError, match=r"^loss.denoised_weight needs a positive codec.denoiser_hidden$"):
        TrainConfig(trained="encoder", loss=LossConfig(denoised_weight=1.0, latent_weight=1.0))
    losses = LossConfig(latent_weight=1.0, pitch_weight=0.1)
    with pytest.raises(InputError, match=r"^to train an encoder, loss.pitch_weight and erasures.share must be 0$"):
        TrainConfig(trained="encoder", loss=losses, erasures=ErasureConfig(share=0.5))
