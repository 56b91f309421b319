"""`Vocabulary`: maps codes into the ids of a language model, and back.

    vocabulary = tokenizer.vocabulary(offset=32000)
    ids = vocabulary.encode(codes)
    codes = vocabulary.decode(ids)

The ids from `offset` on are those of the codes, then come those of the special tokens. `offset` is the number of ids
that the language model has already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectok.arrays import like, to_numpy
from spectok.codes import Codes, Layout, check_model, to_rows
from spectok.errors import InputError, require

Pattern = Literal["flat", "delay"]
SPECIALS = ("begin", "end", "pad", "text", "speaker")


@dataclass(frozen=True)
class Vocabulary:
    """The ids of codes and special tokens in a language model. Make one with `Tokenizer.vocabulary`.

    Args:
        codebook_size: the number of different codes.
        tokens_per_frame: K, the number of codes per frame.
        offset: the first id.
        specials: names of the special tokens, which have the ids after those of the codes, in this order.
        pattern: the order of the ids. "flat": `[N]`, frame after frame, N = F * K. "delay": `[K, F + K - 1]`, the delay
            pattern of MusicGen (arXiv 2306.05284, section 2.2): row k has code k of each frame, k steps later, and
            "pad" in the k steps before the first frame and in the K - 1 - k steps after the last.
        separate: False: the K codes of a frame share the ids, because they are from one codebook. True: code k of each
            frame has ids of its own, which begin at `offset + k * codebook_size`.
        model: hash of the weights whose codes these are; "" if it is not known. `encode` refuses codes that know that
            another model made them (`spectok.codes.Codes`), and the codes that `decode` returns know this model.

    Raises:
        InputError: `offset` is negative or not a whole number, a name of a special token is empty or not unique, there
            is no such pattern, or "delay" has no special token "pad".
    """

    codebook_size: int
    tokens_per_frame: int
    offset: int = 0
    specials: Sequence[str] = SPECIALS
    pattern: Pattern = "flat"
    separate: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        is_whole = isinstance(self.offset, (int, np.integer)) and not isinstance(self.offset, bool)
        require(is_whole and 0 <= self.offset < 1 << 62, f"the offset must be a whole number from 0, not {self.offset}")
        are_names = isinstance(self.specials, (list, tuple)) and all(isinstance(n, str) and n for n in self.specials)
        require(are_names, f"the special tokens must be a sequence of names, not {self.specials!r}")
        object.__setattr__(self, "specials", tuple(self.specials))
        require(len({*self.specials}) == len(self.specials), f"a special token is named twice: {self.specials}")
        known = get_args(Pattern)
        require(self.pattern in known, f"the pattern is {self.pattern!r}, but must be one of {', '.join(known)}")
        require(
            self.pattern == "flat" or "pad" in self.specials,
            "the delay pattern fills with 'pad', which must be among the special tokens",
        )

    @property
    def size(self) -> int:
        """The number of ids: those of the codes and of the special tokens."""
        return self._code_ids + len(self.specials)

    @property
    def end_of_ids(self) -> int:
        """The id after the last one: the number of ids of a language model whose own ids are below `offset`."""
        return self.offset + self.size

    def id_of(self, special: str) -> int:
        """The id of a special token.

        Raises:
            InputError: the vocabulary has no special token of this name.
        """
        known = ", ".join(self.specials) or "none"
        require(special in self.specials, f"there is no special token {special!r}; there are {known}")
        return self.offset + self._code_ids + self.specials.index(special)

    def encode(self, codes: Any, layout: Layout | None = None) -> Any:
        """The ids of codes. Special tokens are not added, except the "pad" of the delay pattern.

        Args:
            codes: integers of one recording or of a batch, as array, tensor or list of integers, in a shape that
                `Tokenizer.decode` accepts.
            layout: of the codes, as in `Tokenizer.decode`; needed only where the shape can mean two things.

        Returns:
            int64 ids: `[N]` or `[B, N]` for the pattern "flat", `[K, F + K - 1]` or `[B, K, F + K - 1]` for "delay"; a
            tensor on the same device for a tensor, otherwise an array.

        Raises:
            InputError: the codes are not in the codebook, end within a frame, have a wrong or ambiguous shape, or know
                that another model made them.
        """
        check_model(codes, "the vocabulary's model", self.model)
        rows, is_batch = to_rows(to_numpy(codes), self.tokens_per_frame, layout)
        rows = self._whole_frames(self._integers(rows, "codes"), "codes")
        wrong = np.argwhere((rows < 0) | (rows >= self.codebook_size))
        if len(wrong):
            row, place = wrong[0]
            where = f" of recording {row}" if is_batch else ""
            last = self.codebook_size - 1
            raise InputError(f"codes must be from 0 to {last}, but code {place}{where} is {rows[row, place]}")
        ids = self.offset + rows.reshape(len(rows), -1, self.tokens_per_frame) + self._starts
        ids = self._delayed(ids) if self.pattern == "delay" else ids.reshape(len(rows), -1)
        return like(codes, ids if is_batch else ids[0])

    def decode(self, ids: Any) -> Any:
        """The codes of ids.

        Special tokens at the start and at the end are dropped: of the pattern "flat" ids, of "delay" whole columns of
        K special tokens. The "pad" with which the delay pattern is filled is dropped too. Special tokens elsewhere are
        an error, and so are ids that are not of this vocabulary.

        Args:
            ids: integers in the shapes that `encode` returns, as array, tensor or list of integers. All rows of a batch
                must have the same number of frames.

        Returns:
            int64 codes `[N]` or `[B, N]`; a tensor on the same device for a tensor, otherwise an array.

        Raises:
            InputError: an id stands where none of its kind can, with its value and its place; the ids end within a
                frame; the rows of a batch have different numbers of frames; or the shape is wrong.
        """
        array = to_numpy(ids)
        axes = 1 + (self.pattern == "delay")
        expected = "[N] or [B, N]" if axes == 1 else f"[{self.tokens_per_frame}, S] or [B, {self.tokens_per_frame}, S]"
        fits = array.ndim in (axes, axes + 1) and (axes == 1 or array.shape[-2] == self.tokens_per_frame)
        require(fits, f"ids must be {expected}, not {list(array.shape)}")
        is_batch = array.ndim == axes + 1
        require(not is_batch or len(array) > 0, "the batch has no rows")
        batch = self._integers(array if is_batch else array[None], "ids")
        rows = [self._codes_of(row, f" of recording {number}" if is_batch else "") for number, row in enumerate(batch)]
        shortest, longest = min(map(len, rows)), max(map(len, rows))
        require(
            shortest == longest,
            f"the recordings of the batch have {shortest} to {longest} codes; decode them one by one",
        )
        codes = Codes(np.stack(rows), self.model)
        return like(ids, codes if is_batch else codes[0])

    @property
    def _code_ids(self) -> int:
        """The number of ids of codes."""
        return self.codebook_size * (self.tokens_per_frame if self.separate else 1)

    @property
    def _starts(self) -> NDArray[np.int64]:
        """Where the ids of the codes of a frame begin, after `offset`, `[K]`."""
        return np.arange(self.tokens_per_frame) * (self.codebook_size if self.separate else 0)

    def _integers(self, array: NDArray[Any], what: str) -> NDArray[np.int64]:
        if array.size and array.dtype.kind not in "iu":
            raise InputError(f"{what} must be integers, not {array.dtype}")
        return array.astype(np.int64)

    def _whole_frames(self, rows: NDArray[np.int64], what: str) -> NDArray[np.int64]:
        tokens, left = self.tokens_per_frame, rows.shape[-1] % self.tokens_per_frame
        require(left == 0, f"the {what} end within a frame: {left} are left over, a frame has {tokens}")
        return rows

    def _delayed(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids `[B, F, K]` in the delay pattern, `[B, K, F + K - 1]`."""
        batch, frames, tokens = ids.shape
        delayed = np.full((batch, tokens, frames + tokens - 1), self.id_of("pad"))
        for row in range(tokens):
            delayed[:, row, row : row + frames] = ids[:, :, row]
        return delayed

    def _codes_of(self, ids: NDArray[np.int64], where: str) -> NDArray[np.int64]:
        """Codes `[N]` of the ids of one recording, `[N]` or `[K, S]`; `where` completes the places in errors."""
        tokens, columns = self.tokens_per_frame, np.atleast_2d(ids)
        is_special = ((columns >= self.offset + self._code_ids) & (columns < self.end_of_ids)).all(axis=0)
        kept = np.flatnonzero(~is_special)
        if not len(kept):
            return np.zeros(0, np.int64)
        start, stop = int(kept[0]), int(kept[-1]) + 1
        columns = columns[:, start:stop]
        if self.pattern == "flat":
            lowest = self.offset + np.resize(self._starts, columns.shape)
            kinds = np.full(columns.shape, self.codebook_size)
        else:
            frames = columns.shape[1] - tokens + 1
            require(frames > 0, f"the ids{where} are {stop - start} steps, but one frame takes {tokens}")
            is_code = self._delayed(np.zeros((1, frames, tokens), np.int64))[0] == 0
            lowest = np.where(is_code, (self.offset + self._starts)[:, None], self.id_of("pad"))
            kinds = np.where(is_code, self.codebook_size, 1)
        found = columns - lowest
        wrong = np.argwhere((found < 0) | (found >= kinds))
        if len(wrong):
            row, step = wrong[0]
            low = int(lowest[row, step])
            high = low + int(kinds[row, step]) - 1
            place = f"id {start + step}" if self.pattern == "flat" else f"the id at step {start + step} of row {row}"
            allowed = f"from {low} to {high}" if low < high else f"{low}, the special token 'pad'"
            raise InputError(f"{place}{where} is {columns[row, step]}, but must be {allowed}")
        if self.pattern == "delay":
            found = np.stack([found[row, row : row + frames] for row in range(tokens)], axis=1)
        return self._whole_frames(found.reshape(-1), f"ids{where}")
