"""Losses of separation. Every output has its source, so that no permutation is searched for."""

import torch
from torch import Tensor

FLOOR_DB = -60.0  # below the mixture's loudest bin, where a bin is left out of the penalty
TINY = 1e-8  # added to energies


def negative_snr(estimate: Tensor, source: Tensor, limit_db: float = 30.0) -> Tensor:
    """Minus the thresholded SNR in dB, mean over all rows: `-10 log10(|s|^2 / (|s - e|^2 + t |s|^2))`.

    t is `10^(-limit_db / 10)`, which bounds the SNR (S. Wisdom et al., arXiv 2006.12701, equation 2; SFC uses it at
    30 dB).

    Args:
        estimate: audio `[..., T]`.
        source: audio `[..., T]`.
        limit_db: the most that the SNR can be.
    """
    power = source.square().sum(-1)
    error = (source - estimate).square().sum(-1)
    limit: float = 10 ** (-limit_db / 10)
    return 10 * torch.log10((error + limit * power + TINY) / (power + TINY)).mean()


def overshoot(estimates: Tensor, mixture: Tensor) -> Tensor:
    """Mean of `relu(log(|estimate| / |mixture|))` over bins and sources: the penalty on energy beyond the mixture's.

    This is the penalty of the slides on singing-voice separation, with the mixture in place of the source. Bins more
    than 60 dB below the mixture's loudest one are left out.

    Args:
        estimates: complex spectra, `[B, S, F, Q]`.
        mixture: its complex spectrum, `[B, F, Q]`.
    """
    power = mixture.abs().square()[:, None]
    kept = power > 10 ** (FLOOR_DB / 10) * power.amax((2, 3), keepdim=True)
    own = torch.view_as_real(estimates).square().sum(-1)
    excess = torch.relu(torch.log((own + TINY) / (power + TINY))) / 2 * kept
    return excess.sum() / (kept.sum() * estimates.shape[1]).clamp_min(1)
