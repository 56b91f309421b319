"""Patterns of frames that a network loses."""

import numpy as np
from numpy.typing import NDArray


def lost_frames(count: int, rate: float, burst: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of `count` frames are lost: a share of `rate` in runs of `burst` on average; the first one never is.

    A chain of two states (E. N. Gilbert, Bell System Technical Journal 39 (5), 1960); with a burst of `1 / (1 - rate)`
    frames are lost independently of one another.
    """
    draws, lost = rng.random(count), np.zeros(count, bool)
    stay, begin = 1 - 1 / burst, rate / (1 - rate) / burst
    for n in range(1, count):
        lost[n] = draws[n] < (stay if lost[n - 1] else begin)
    return lost
