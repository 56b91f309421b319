"""Entropy coding of codes: a range coder, and the entropy model that tells it how probable each code is.

All arithmetic is in integers, so that every machine computes the same probabilities and reads the same codes.

**Digits.** A code of finite scalar quantization is a number whose digits are the levels of its dimensions, the first
dimension being the lowest digit. The digits of the K codes of a frame are coded one after the other. Each is predicted
from the digits before it in its frame, and from all digits of the two frames before.

**Entropy model.** A multinomial logistic regression: every level of a digit has a logit, which is the sum of a bias and
of one weight for each of the digits that it is predicted from, according to their levels. Frames before the first one
of a packet add nothing. Logits are in units of 1/32 bit. With S levels in a frame, counted over all of its digits, the
file `entropy.dat` of a model has

| bytes | content |
|---:|---|
| 1 | D, the number of digits of a code |
| D | the number of levels of each digit, from 2 |
| S | biases |
| S * S | weights of the digits before in the same frame: row a, column b is what level a adds to the logit of level b |
| S * S | weights of the digits of the frame before |
| S * S | weights of the digits of the frame before that |

where biases and weights are signed bytes, and levels are numbered digit after digit and code after code. Weights of
digits that come later in the same frame, or of the digit itself, are 0.

**Probabilities.** Let d be the difference between the largest logit of a digit's levels and that of a level. The weight
of the level is `POWERS[d % 32] >> d // 32`, which is 2^(16 - d/32), and 0 from d = 512 on. With T the sum of the
weights of L levels, and W the sum of those before a level, this level has the interval of the numbers from
`start = W * (2^14 - L) // T + its number` up to the start of the next level's; the last ends at 2^14. So each level has
at least 1 of 2^14 parts.

**Range coder** (G. N. N. Martin, 1979), with one state `low`, `range` and 32 bits of precision: at first `low` is 0 and
`range` 2^32 - 1. For each digit, with `step = range >> 14`, `low` grows by `step * start`, and `range` becomes
`step * (end - start)`; while it is below 2^24, both are multiplied by 256. The result is the shortest string of bytes
that, followed by zeros, is a number from `low` to `low + range - 1`, without the zeros at its end. The decoder takes
bytes from it, and zeros after its end.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError, require

BITS = 14  # of a probability
UNIT = 32  # logits in a factor of two
FRAMES = 2  # frames before, whose digits are used
POWERS = tuple(int(2**16 * 2 ** (-place / UNIT) + 0.5) for place in range(UNIT))
_FIELD = (1 << 16) - 1
MAX_LEVELS, MAX_DIGITS = 4096, 84  # in a frame; a logit is the sum of at most 3 * 84 weights and a bias
_WEIGHTS = tuple(POWERS[below % UNIT] >> below // UNIT for below in range(512)) + (0,) * ((1 << 16) - 512)
_TABLE = np.array(_WEIGHTS)
_WHOLE, _SMALLEST = (1 << 32) - 1, 1 << 24  # of the range


class RangeEncoder:
    """Codes intervals of probability as a string of bytes. Its state is three integers, which can be kept and restored.

    Attributes:
        state: `low` as a whole number, with all bytes so far; `range`; and how many bytes `low` was multiplied by.
    """

    def __init__(self) -> None:
        self.state = 0, _WHOLE, 0

    def put(self, starts: Sequence[int], sizes: Sequence[int]) -> None:
        """Code intervals, of 2^14 parts."""
        low, width, shifts = self.state
        for start, size in zip(starts, sizes, strict=True):
            step = width >> BITS
            low += step * start
            width = step * size
            while width < _SMALLEST:
                low, width, shifts = low << 8, width << 8, shifts + 1
        self.state = low, width, shifts

    @property
    def most_bytes(self) -> int:
        """The largest number of bytes that `finish` can return now."""
        return self.state[2] + 1

    def finish(self) -> bytes:
        """The string; the encoder can go on afterwards."""
        low, width, shifts = self.state
        value = (low + width - 1) >> 32 << 32
        if value < low:
            value = (low + width - 1) >> 24 << 24  # it is not less than `low`, because the range is at least 2^24
        return value.to_bytes(shifts + 4, "big").rstrip(b"\0")


class RangeDecoder:
    """Decodes what `RangeEncoder` has coded.

    Args:
        coded: the string.
    """

    def __init__(self, coded: bytes) -> None:
        self._coded, self._place, self._width = coded, 4, _WHOLE
        self._value = int.from_bytes(coded[:4].ljust(4, b"\0"), "big")

    def take(self, weights: Sequence[int]) -> int:
        """The number of the level that was coded.

        Args:
            weights: of the levels, whose intervals follow from them.

        Raises:
            InputError: no encoder writes such a string.
        """
        step = self._width >> BITS
        part = self._value // step
        if part >> BITS:
            raise InputError("no encoder writes such codes")
        total, scale = sum(weights), (1 << BITS) - len(weights)
        level = start = end = sums = 0
        for weight in weights:
            sums += weight
            level += 1
            start, end = end, sums * scale // total + level
            if part < end:
                break
        value, width = self._value - step * start, step * (end - start)
        while width < _SMALLEST:
            width <<= 8
            byte = self._coded[self._place] if self._place < len(self._coded) else 0
            value = value << 8 | byte
            self._place += 1
        self._value, self._width = value, width
        return level - 1


class EntropyModel:
    """The probabilities of the digits of codes.

    Args:
        levels: the number of levels of each digit of a code, `[D]`; their product is the size of the codebook.
        tokens_per_frame: K.
        weights: int8 `[1 + 3 * S, S]`: the biases, and the weights of the same frame, the frame before, and the one
            before that, S levels each.

    Raises:
        InputError: the numbers do not fit each other, or a weight is one of a digit that comes later.
    """

    def __init__(self, levels: Sequence[int], tokens_per_frame: int, weights: NDArray[np.int8]) -> None:
        self.levels, self.tokens_per_frame = tuple(levels), tokens_per_frame
        all_levels = self.levels * tokens_per_frame
        require(bool(levels) and min(levels) >= 2, "an entropy model needs digits of at least 2 levels")
        size = sum(all_levels)
        require(size <= MAX_LEVELS, f"a frame has {size} levels, but an entropy model can have {MAX_LEVELS} at most")
        most = f"an entropy model can have {MAX_DIGITS} at most"
        require(len(all_levels) <= MAX_DIGITS, f"a frame has {len(all_levels)} digits, but {most}")
        require(weights.shape == (1 + 3 * size, size), f"the weights of an entropy model are {list(weights.shape)}")
        ends = np.cumsum(all_levels)
        self.places = [slice(end - count, end) for end, count in zip(ends.tolist(), all_levels, strict=True)]
        self.first = np.array([place.start for place in self.places])  # the number of each digit's level 0
        self.powers = np.concatenate([[1], np.cumprod(self.levels)[:-1]]).astype(np.int64)
        digit_of = np.repeat(np.arange(len(all_levels)), all_levels)
        later = digit_of[:, None] >= digit_of
        require(not weights[1 : 1 + size][later].any(), "an entropy model predicts digits from later ones")
        self.weights = weights
        self._rows = np.concatenate([weights, np.zeros((1, size), np.int8)])

    @property
    def codebook_size(self) -> int:
        """The number of different codes."""
        return int(np.prod(self.levels))

    @classmethod
    def from_bytes(cls, content: bytes, tokens_per_frame: int) -> "EntropyModel":
        """Read an `entropy.dat`.

        Raises:
            InputError: it is damaged, or of codes with another number of tokens per frame.
        """
        digits = content[0] if content else 0
        levels = tuple(content[1 : 1 + digits])
        size = sum(levels) * tokens_per_frame
        is_whole = digits and len(levels) == digits and len(content) == 1 + digits + (1 + 3 * size) * size
        require(bool(is_whole), "an entropy model is damaged, or has another number of tokens per frame")
        weights = np.frombuffer(content, np.int8, offset=1 + digits).reshape(1 + 3 * size, size)
        return cls(levels, tokens_per_frame, weights)

    def to_bytes(self) -> bytes:
        """The content of `entropy.dat`."""
        return bytes([len(self.levels), *self.levels]) + self.weights.tobytes()

    @property
    def id(self) -> str:
        """The first 4 bytes of the SHA-256 of `entropy.dat`, as 8 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:8]

    def digits(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the levels, as columns of the weights, of codes `[F, K]`: `[F, K * D]`."""
        digits = codes[:, :, None] // self.powers % np.array(self.levels)
        numbers: NDArray[np.int64] = digits.reshape(len(codes), len(self.places)) + self.first
        return numbers

    def intervals(
        self, codes: NDArray[np.int64], before: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and sizes of the intervals of the digits of frames, of 2^14 parts, `[F, K * D]` each.

        Args:
            codes: of the frames, `[F, K]`.
            before: codes of the frames before them in the packet, of which the last two count, `[P, K]`.
        """
        given = min(FRAMES, len(before))
        digits = self.digits(np.concatenate([before[len(before) - given :], codes]))
        size = self.weights.shape[1]
        rows = np.full((FRAMES + len(codes), 3, digits.shape[1]), 1 + 3 * size)  # of the weights, and one of zeros
        for back in range(FRAMES + 1):
            rows[FRAMES - given + back : len(rows), back] = 1 + back * size + digits[: len(digits) - back]
        logits = self._rows[0] + self._rows[rows[FRAMES:].reshape(len(codes), -1)].sum(axis=1, dtype=np.int64)
        digits = digits[given:]
        starts, sizes = np.zeros_like(digits), np.zeros_like(digits)
        frames = np.arange(len(codes))
        for number, place in enumerate(self.places):
            edges = _edges(logits[:, place])
            level = digits[:, number] - place.start
            starts[:, number] = edges[frames, level]
            sizes[:, number] = edges[frames, level + 1] - starts[:, number]
        return starts, sizes

    def decode(self, coded: bytes, num_frames: int) -> NDArray[np.int64]:
        """The codes of the first frames of a packet, `[num_frames, K]`.

        Args:
            coded: what the range coder has written.
            num_frames: how many frames there are.

        Raises:
            InputError: no encoder writes such a string.
        """
        bias, same, *back = self._packed
        coder = RangeDecoder(coded)
        frames: list[list[int]] = []
        for _ in range(num_frames):
            logits = bias
            for rows, before in zip(back, frames[: -FRAMES - 1 : -1], strict=False):
                logits += sum([rows[level] for level in before])
            frame = []
            for place, shifts, width in self._fields:
                low = logits & (1 << width) - 1
                found = [low >> shift & _FIELD for shift in shifts]
                highest = max(found)
                level = place + coder.take([_WEIGHTS[highest - logit] for logit in found])
                frame.append(level)
                logits = (logits >> width) + same[level]
            frames.append(frame)
        digits = np.array(frames, np.int64).reshape(num_frames, len(self.places))
        levels = (digits - self.first).reshape(num_frames, self.tokens_per_frame, len(self.levels))
        codes: NDArray[np.int64] = levels @ self.powers
        return codes

    @cached_property
    def _packed(self) -> tuple[int, list[int], list[int], list[int]]:
        """The biases and the three blocks of weights for `decode`: each row is one integer with a field per level.

        One addition of two such integers adds all logits of a frame, which is far faster than an array operation for
        each digit. Fields have 16 bits. All weights are raised by 128, so that none is negative; all logits of a digit
        have the same number of weights in them, and only the differences between them count. The fields of a row of
        the first block begin after those of its own digit.
        """
        raised = self.weights.astype(np.int64) + 128
        rows = [sum(int(value) << 16 * place for place, value in enumerate(row)) for row in raised.tolist()]
        size = self.weights.shape[1]
        ends = np.repeat([place.stop for place in self.places], [place.stop - place.start for place in self.places])
        same = [row >> 16 * int(end) for row, end in zip(rows[1 : 1 + size], ends, strict=True)]
        return rows[0], same, rows[1 + size : 1 + 2 * size], rows[1 + 2 * size :]

    @cached_property
    def _fields(self) -> list[tuple[int, tuple[int, ...], int]]:
        """For each digit the number of its level 0, where the fields of its levels begin in bits, and their width."""
        counts = [place.stop - place.start for place in self.places]
        return [
            (place.start, tuple(range(0, 16 * count, 16)), 16 * count)
            for place, count in zip(self.places, counts, strict=True)
        ]


def _edges(logits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Starts of the intervals of a digit's levels and the end of the last, `[F, L + 1]`, for logits `[F, L]`."""
    count = logits.shape[1]
    below = logits.max(axis=1, keepdims=True) - logits
    weights = _TABLE[below]
    sums = np.cumsum(weights, axis=1)
    edges = np.zeros((len(logits), count + 1), np.int64)
    edges[:, 1:] = sums * ((1 << BITS) - count) // sums[:, -1:]
    return edges + np.arange(count + 1)
