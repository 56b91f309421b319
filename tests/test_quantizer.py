import dataclasses
import math

import pytest
import torch
from torch import Tensor

from spectok.config import QuantizerConfig
from spectok.model.quantizer import FSQuantizer, SoftLimit, VectorQuantizer

SMALL = QuantizerConfig(tokens_per_frame=8, levels=(4,) * 5, codebook_size=1024, codebook_dim=5)
LARGE = QuantizerConfig(tokens_per_frame=1, levels=(4,) * 8, codebook_size=65536, codebook_dim=8)
MIXED = QuantizerConfig(tokens_per_frame=1, levels=(8, 5, 2, 3), codebook_size=240, codebook_dim=4)
fsq = pytest.mark.parametrize("config", [SMALL, LARGE, MIXED], ids=["1024", "65536", "240"])

VQ = QuantizerConfig(
    kind="vq", tokens_per_frame=2, codebook_size=16, codebook_dim=3, decay=0.9, expiry_threshold=0.5, pool_size=40
)


def every_code(config: QuantizerConfig) -> Tensor:
    """All codes in order, as one row `[1, F, K]`."""
    return torch.arange(config.codebook_size).reshape(1, -1, config.tokens_per_frame)


def fill(quantizer: VectorQuantizer, latents: Tensor) -> None:
    for start in range(0, latents.shape[1], 5):
        part = latents[:, start : start + 5]
        quantizer.update_(part, quantizer.encode(part))


@pytest.fixture
def ready() -> VectorQuantizer:
    """A VQ initialised from 40 latents around 16 separate points."""
    quantizer = VectorQuantizer(VQ)
    points = 4 * torch.randn(16, 3)
    rows = torch.cat([points, points, points[:8]]) + 0.01 * torch.randn(40, 3)
    fill(quantizer, rows.reshape(1, 20, 2, 3))
    assert quantizer.is_ready
    return quantizer


def entries(quantizer: VectorQuantizer) -> Tensor:
    embed: Tensor = quantizer.codebook.embed[0]
    return embed.clone()


@fsq
def test_fsq_codes_and_vectors_are_a_bijection(config: QuantizerConfig) -> None:
    quantizer, codes = FSQuantizer(config), every_code(config)
    vectors = quantizer.decode(codes)
    assert vectors.shape == (*codes.shape, config.codebook_dim)
    assert len(vectors.reshape(-1, config.codebook_dim).unique(dim=0)) == config.codebook_size
    latents = torch.atanh(vectors * 0.999)  # the quantizer applies tanh first
    assert torch.equal(quantizer.encode(latents), codes)
    assert torch.equal(quantizer.double().encode(latents.double()), codes)


@fsq
def test_fsq_values_are_on_a_grid_symmetric_about_zero(config: QuantizerConfig) -> None:
    vectors = FSQuantizer(config).decode(every_code(config)).reshape(-1, config.codebook_dim)
    for dimension, levels in enumerate(config.levels):
        values = vectors[:, dimension].unique()
        torch.testing.assert_close(values, torch.linspace(-1, 1, levels), rtol=0, atol=1e-6)


@fsq
def test_fsq_takes_the_nearest_value_after_tanh(config: QuantizerConfig) -> None:
    latent = 1.5 * torch.randn(3, 20, config.tokens_per_frame, config.codebook_dim)
    quantizer = FSQuantizer(config)
    output = quantizer(latent)
    assert output.codes.dtype == torch.int64 and output.codes.shape == latent.shape[:3]
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), rtol=0, atol=1e-6)
    half_steps = 1 / (torch.tensor(config.levels) - 1)
    assert bool(((output.quantized - torch.tanh(latent)).abs() <= half_steps + 1e-6).all())
    assert torch.equal(output.latent, latent)
    assert float(output.commitment_loss) == 0
    assert torch.equal(quantizer.encode(latent), output.codes)


def test_fsq_uses_its_whole_codebook() -> None:
    latent = 100 * torch.tensor([-1.0, 1.0]).repeat(5)[:10].reshape(1, 1, 2, 5)
    codes = FSQuantizer(SMALL).encode(torch.cat([latent, torch.full((1, 1, 2, 5), 1e6)], dim=1))
    assert int(codes.max()) == 1023 and int(codes.min()) >= 0


def test_fsq_gradient_is_that_of_tanh() -> None:
    latent = torch.randn(2, 3, 8, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(latent)
    (FSQuantizer(SMALL).double()(latent).quantized * weights).sum().backward()
    expected = weights * (1 - torch.tanh(latent.detach()) ** 2)
    torch.testing.assert_close(latent.grad, expected, rtol=1e-7, atol=0)  # the library's step of 2 / 3 is a float32


def test_fsq_has_no_parameters() -> None:
    quantizer = FSQuantizer(SMALL)
    assert list(quantizer.parameters()) == [] and dict(quantizer.state_dict()) == {}
    vectors = quantizer.decode(every_code(SMALL)).clone()
    quantizer.update_(torch.randn(1, 4, 8, 5), torch.zeros(1, 4, 8, dtype=torch.int64))
    assert torch.equal(quantizer.decode(every_code(SMALL)), vectors)


def test_vq_codes_and_vectors_are_a_bijection(ready: VectorQuantizer) -> None:
    codes = every_code(VQ)
    assert torch.equal(ready.encode(ready.decode(codes)), codes)
    assert torch.equal(ready.double().encode(ready.decode(codes)), codes)


def test_vq_passes_latents_through_until_the_pool_is_full() -> None:
    quantizer = VectorQuantizer(VQ)
    latents = torch.randn(1, 20, 2, 3)
    for start in range(0, 20, 5):
        assert not quantizer.is_ready
        part = latents[:, start : start + 5].clone().requires_grad_()
        output = quantizer(part)
        assert torch.equal(output.quantized, part) and float(output.commitment_loss.detach()) == 0
        output.quantized.sum().backward()
        assert part.grad is not None and torch.equal(part.grad, torch.ones_like(part))
        quantizer.update_(part, output.codes)
    assert quantizer.is_ready
    assert not torch.equal(quantizer(latents).quantized, latents)


def test_vq_is_initialised_by_k_means_on_the_pool(ready: VectorQuantizer) -> None:
    pool = ready.pool
    nearest = torch.cdist(pool, entries(ready)).argmin(1)
    for code in range(16):
        mine = pool[nearest == code]
        assert len(mine) > 0
        # A k-means centre is the mean of its rows, except for the smoothing of the counts: 16e-5 in 40 at most.
        torch.testing.assert_close(entries(ready)[code], mine.mean(0), rtol=2e-5, atol=1e-6)
    assert float(ready.codebook.cluster_size.sum()) == 40


def test_vq_takes_the_nearest_entry_and_passes_gradients_straight_through(ready: VectorQuantizer) -> None:
    latent = torch.randn(2, 5, 2, 3, requires_grad=True)
    output = ready(latent)
    distances = (latent[..., None, :] - entries(ready)).norm(dim=-1)
    assert torch.equal(output.codes, distances.argmin(-1))
    nearest = ready.decode(output.codes)
    torch.testing.assert_close(output.quantized, nearest, rtol=0, atol=1e-6)
    expected = (latent - nearest).square().mean()
    torch.testing.assert_close(output.commitment_loss, expected, rtol=1e-6, atol=0)
    output.quantized.sum().backward()
    assert latent.grad is not None and torch.equal(latent.grad, torch.ones_like(latent))


def test_vq_takes_the_lowest_code_of_equal_entries(ready: VectorQuantizer) -> None:
    ready.codebook.embed[0, 9] = ready.codebook.embed[0, 4]
    assert ready.encode(ready.decode(torch.tensor([[[9, 4]]]))).tolist() == [[[4, 4]]]


def test_vq_changes_only_in_update(ready: VectorQuantizer) -> None:
    before = {name: tensor.clone() for name, tensor in ready.state_dict().items()}
    pool = ready.pool.clone()
    latent = torch.randn(2, 5, 2, 3)
    for training in (True, False):
        ready.train(training)
        ready.decode(ready.encode(latent))
        codes = ready(latent).codes
    assert all(torch.equal(tensor, before[name]) for name, tensor in ready.state_dict().items())
    assert torch.equal(ready.pool, pool)
    ready.update_(latent, codes)
    changed = {name for name, tensor in ready.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"codebook.embed", "codebook.embed_avg", "codebook.cluster_size"}


def test_vq_update_by_hand(ready: VectorQuantizer) -> None:
    ready.codebook.cluster_size.fill_(3.0)  # no entry is near expiry
    ready.codebook.embed_avg.copy_(3 * ready.codebook.embed)
    old = entries(ready)
    a, b = old[2] + 0.3, old[2] - 0.1
    ready.update_(torch.stack([a, b]).reshape(1, 1, 2, 3), torch.tensor([[[2, 2]]]))
    sizes = torch.full((16,), 0.9 * 3)
    sizes[2] += 0.1 * 2
    sums = 0.9 * 3 * old
    sums[2] += 0.1 * (a + b)
    torch.testing.assert_close(ready.codebook.cluster_size[0], sizes, rtol=1e-6, atol=0)
    torch.testing.assert_close(ready.codebook.embed_avg[0], sums, rtol=1e-5, atol=1e-6)
    smoothed = (sizes + 1e-5) / (sizes.sum() + 16e-5) * sizes.sum()
    torch.testing.assert_close(entries(ready), sums / smoothed[:, None], rtol=1e-5, atol=1e-6)


def test_vq_expiry_resets_the_entry_and_its_averages_and_the_next_update_keeps_it(ready: VectorQuantizer) -> None:
    ready.codebook.cluster_size.fill_(3.0)
    ready.codebook.embed_avg.copy_(3 * ready.codebook.embed)
    ready.codebook.cluster_size[0, 5] = 0.51  # after one unused update 0.459, below the threshold
    old = entries(ready)
    latent = ready.decode(torch.tensor([[[1, 7]]]))
    ready.update_(latent, ready.encode(latent))
    new = entries(ready)[5]
    assert float((ready.pool - new).norm(dim=1).min()) == 0
    assert float(ready.codebook.cluster_size[0, 5]) == 1.0
    assert torch.equal(ready.codebook.embed_avg[0, 5], new)
    others = [code for code in range(16) if code != 5]
    torch.testing.assert_close(entries(ready)[others], old[others], rtol=1e-4, atol=1e-4)

    ready.codebook.embed[0, 5] = ready.codebook.embed_avg[0, 5] = torch.tensor([50.0, 0.0, 0.0])
    latent = torch.tensor([50.5, 0.0, 0.0]).expand(1, 1, 2, 3)
    codes = ready.encode(latent)
    assert codes.tolist() == [[[5, 5]]]
    ready.update_(latent, codes)
    # The entry is kept, and moves towards its latents: 0.9 of the entry plus 0.1 * 2 of the latents, over 1.1.
    expected = torch.tensor([(0.9 * 50 + 0.2 * 50.5) / 1.1, 0.0, 0.0])
    torch.testing.assert_close(entries(ready)[5], expected, rtol=1e-4, atol=0)


def test_vq_pool_keeps_the_last_latents() -> None:
    quantizer = VectorQuantizer(dataclasses.replace(VQ, expiry_threshold=0.0))
    rows = torch.arange(3 * 66.0).reshape(66, 3)
    for start, stop in ((0, 10), (10, 12), (12, 50), (50, 66)):
        part = rows[start:stop].reshape(1, -1, 2, 3)
        quantizer.update_(part, quantizer.encode(part))
        assert torch.equal(quantizer.pool[-min(stop, 40) :], rows[max(0, stop - 40) : stop])
    quantizer.update_(torch.cat([rows, rows]).reshape(2, 33, 2, 3), torch.zeros(2, 33, 2, dtype=torch.int64))
    assert torch.equal(quantizer.pool, rows[-40:])


def test_vq_pool_is_never_smaller_than_the_codebook_and_not_saved() -> None:
    quantizer = VectorQuantizer(dataclasses.replace(VQ, pool_size=4))
    assert quantizer.pool.shape == (16, 3)
    assert sorted(quantizer.state_dict()) == [
        "codebook.cluster_size",
        "codebook.embed",
        "codebook.embed_avg",
        "codebook.initted",
    ]


def test_vq_without_a_pool_takes_new_entries_from_the_batch() -> None:
    quantizer = VectorQuantizer(dataclasses.replace(VQ, pool_size=0))
    assert quantizer.pool.shape == (0, 3)
    first = torch.randn(1, 4, 2, 3)  # 8 latents for 16 entries
    quantizer.update_(first, quantizer.encode(first))
    assert quantizer.is_ready
    # K-means of 8 separate points for 16 entries: an entry is a point, up to the smoothing of the counts, 16e-5 in 8,
    # or has no latents and is zero.
    points = torch.cat([first.reshape(-1, 3), torch.zeros(1, 3)])
    assert float(torch.cdist(entries(quantizer), points).amin(1).max()) < 1e-3
    assert 4 <= len(quantizer.encode(first).unique()) <= 8
    quantizer.codebook.cluster_size.fill_(3.0)
    quantizer.codebook.embed_avg.copy_(3 * quantizer.codebook.embed)
    quantizer.codebook.cluster_size[0, 5] = 0.51  # after one unused update 0.459, below the threshold
    old = entries(quantizer)
    second = 10 + torch.randn(1, 4, 2, 3)
    quantizer.update_(second, torch.zeros(1, 4, 2, dtype=torch.int64))
    assert float((second.reshape(-1, 3) - entries(quantizer)[5]).norm(dim=1).min()) == 0
    others = [code for code in range(1, 16) if code != 5]
    torch.testing.assert_close(entries(quantizer)[others], old[others], rtol=1e-4, atol=1e-4)


def test_vq_with_a_threshold_of_zero_never_replaces_an_entry(ready: VectorQuantizer) -> None:
    ready.codebook.threshold_ema_dead_code = 0.0
    ready.codebook.cluster_size[0, 5] = 1e-6
    ready.codebook.embed_avg[0, 5] = 1e-6 * ready.codebook.embed[0, 5]
    latent = ready.decode(torch.tensor([[[1, 7]]])).expand(1, 8, 2, 3)
    ready.update_(latent, ready.encode(latent))
    assert float(ready.codebook.cluster_size[0, 5]) == pytest.approx(0.9e-6, rel=1e-5)


def test_soft_limit_is_its_formula() -> None:
    latent = 3 * torch.randn(2, 4, 40, dtype=torch.float64)
    limited = SoftLimit(40, 1.5).double()(latent)
    for row in range(2):
        for frame in range(4):
            x = latent[row, frame]
            expected = x / math.sqrt(1 + float(x.square().mean()) / 1.5**2)
            torch.testing.assert_close(limited[row, frame], expected, rtol=0, atol=1e-12)


def test_soft_limit_bounds_loud_frames_and_keeps_quiet_ones() -> None:
    latent = torch.randn(1, 3, 40, dtype=torch.float64) * torch.tensor([1e-4, 1.0, 1e4]).reshape(1, 3, 1)
    limited = SoftLimit(40, 1.5).double()(latent)
    torch.testing.assert_close(limited[:, 0], latent[:, 0], rtol=1e-8, atol=0)
    rms = limited.square().mean(dim=2).sqrt()[0]
    assert float(rms[2]) == pytest.approx(1.5, abs=1e-6)
    assert bool((rms < 1.5).all())
