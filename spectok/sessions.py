"""Streaming: sessions that accept chunks of any size and hold the state of one stream.

    encoder = StreamEncoder(engine)
    for audio in microphone:
        send(encoder.push(audio))
    send(encoder.flush())

The joined outputs of `push` and `flush` do not depend on how the stream is split into chunks, up to rounding of the
arithmetic (README.md, Limits). Offline encoding is one session with one push. Sessions share only the engine's weights.
A session can be copied, pickled, or kept as a dictionary of arrays (`state_dict`) at any point of its stream.
"""

import copy
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spectok.codes import check_codes, check_model
from spectok.config import EXTENSION_FACTOR, CodecConfig
from spectok.engine import Engine, Side
from spectok.errors import InputError, require
from spectok.resampling import StreamResampler, resampling_delay
from spectok.samples import check_audio, check_sample_rate

ENGINE = "engine."  # start of the names of the engine's arrays in the state of a session
HOLD_FRAMES, FADE_FRAMES = 5, 5  # lost in a row until the audio begins to fade, and until it is silent: 100 and 200 ms
BLOCK_SECONDS = 2  # long pushes are split into blocks of this length, which fit into the processor's caches


class OneThread:
    """A lock for a `with` statement that refuses a second thread, in place of letting it wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise InputError("two threads used a session at the same time; give each stream its own, or use a lock")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def latency_at(config: CodecConfig, sample_rate: int, factor: int = 1) -> int:
    """The `latency_samples` of sessions of a codec with audio at `sample_rate` Hz.

    Args:
        config: of the codec.
        sample_rate: in Hz.
        factor: the sample rate of the decoder's output over the codec's.
    """
    outside, inside = sample_rate, config.sample_rate
    if outside == inside:
        return config.latency_samples
    seconds = resampling_delay(outside, inside)
    if outside != factor * inside:
        seconds += resampling_delay(factor * inside, outside)
    return math.ceil(outside * (seconds + config.latency_samples / inside))


class _Session(ABC):
    """Base class of both directions: the state of a stream, and the input of its incomplete frame."""

    _side: Side
    _factor = 1  # sample rate of the engine's audio over the codec's
    _input: type  # of the values that wait for the rest of their frame
    _output: type

    def __init__(
        self, engine: Engine, batch: int | None = None, sample_rate: int | None = None, weight_hash: str = ""
    ) -> None:
        self._engine, self._batch, self._weight_hash = engine, batch, weight_hash
        self.config = engine.config
        self._rate = self._factor * self.config.sample_rate  # of the engine's audio
        self.sample_rate = check_sample_rate(self._rate if sample_rate is None else sample_rate, "the stream")
        self._frame_length, self._tokens = engine.config.frame_length, engine.config.quantizer.tokens_per_frame
        self._frame = self._frame_length if self._side == "encoder" else self._tokens  # values
        require(batch is None or batch > 0, f"the batch has {batch} streams, but must have at least one")
        self._nothing: NDArray[Any] = np.zeros((batch or 1, 0), self._input)
        self._block = max(1, round(BLOCK_SECONDS * engine.config.frame_rate))  # frames
        self._one_thread = OneThread()
        self._state: Any = None
        self._waiting = self._nothing
        self._samples = 0  # encoded or decoded since the start of the stream, at the codec's rate
        self._resampler: StreamResampler | None = None
        self._start()

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency of encoder and decoder together, in samples at this session's sample rate.

        If that is not the codec's rate, it is an upper bound that includes the resampling in both directions, which
        works in blocks of 30 ms and more. A decoder that extends to 48 kHz has none to resample at that rate; the
        encoder of audio at 48 kHz has.
        """
        return latency_at(self.config, self.sample_rate, self._factor)

    def reset(self) -> None:
        """Start a new stream."""
        with self._one_thread:
            self._start()

    def state_dict(self) -> dict[str, Any]:
        """The session's state at this point of its stream, to be stored, for example with `np.savez`.

        Returns:
            Copies of the arrays of the engine's state, with names that start with "engine."; "waiting", the input of
            the incomplete frame; "samples", how many were encoded or decoded since the start of the stream; of a
            decoder "last_frame", codes `[B, K]`, and "lost_in_row", the number of lost frames up to now, `[B]`; of a
            session that resamples "resampler_recent", the last samples before the resampler, `[B, S]`, and
            "resampler_counts", the numbers of samples before and after it; and what a session that loads it must have
            in common: "side", "model", "weights" (the hash of the weights, or "" if the session does not know it),
            "batch" (0 for one stream without a batch) and "sample_rate".
        """
        with self._one_thread:
            arrays = self._engine.to_arrays(self._state)
            counted = {"waiting": self._waiting.copy(), "samples": self._samples} | self._resampled()
            counted |= {name: array.copy() for name, array in self._kept().items()}
        return self._identity() | counted | {ENGINE + name: array for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the stream of the session whose `state_dict` this is.

        With the same engine the outputs are those of the uninterrupted stream, bit for bit. In a session that resamples
        between rates which are not in `spectok.resampling.PERIODS`, loading and copying take about half a millisecond
        for each second of the stream, and more above 48 kHz; they are refused after more than 24 hours.

        Args:
            state: from `state_dict`, or loaded by `np.load` from a file that `np.savez` wrote.

        Raises:
            InputError: the state is of another model, side, batch, sample rate or engine, or it is not complete, cannot
                be read from its file, or has values that no stream has. The session is then unchanged.
        """
        try:
            arrays = {name: np.asarray(value) for name, value in state.items()}
        except Exception as error:  # np.load reads an array when it is asked for; its errors have no common base class
            raise InputError(f"cannot read the kept session: {error}") from error
        kept = {name: array for name, array in arrays.items() if not name.startswith(ENGINE)}
        expected = self._identity()
        further = self._kept() | self._resampled()
        wanted = {*expected, "waiting", "samples", *further}
        names = f"a kept session has {', '.join(sorted(wanted))} and the engine's arrays"
        require(kept.keys() >= expected.keys(), names)
        for name, value in expected.items():
            given = _scalar(kept[name])
            is_same = given == value or (name == "weights" and "" in (given, value))
            require(is_same, f"the kept session has the {name.replace('_', ' ')} {given!s:.80}, not {value}")
        require(kept.keys() == wanted, names)
        waiting, samples = kept["waiting"], kept["samples"]
        require(
            waiting.ndim == 2
            and len(waiting) == len(self._nothing)
            and waiting.shape[1] < self._frame
            and waiting.dtype == self._input
            and samples.shape == ()
            and samples.dtype.kind == "i",
            "the kept session has waiting input or a counter of another shape or type",
        )
        require(int(samples) >= 0, f"the kept session has {int(samples)} samples")
        self._checked(waiting if self._batch else waiting[0])
        most = {"last_frame": self.config.quantizer.codebook_size - 1, "lost_in_row": 1 << 62}
        for name, array in further.items():
            fits = kept[name].shape == array.shape and kept[name].dtype == array.dtype
            require(fits, f"the kept session has {name.replace('_', ' ')} of another shape or type")
            in_range = np.isfinite(kept[name]).all() and (
                name not in most or -1 <= kept[name].min() <= kept[name].max() <= most[name]
            )
            require(in_range, f"the kept session has {name.replace('_', ' ')} out of range")
        engine = {name.removeprefix(ENGINE): array for name, array in arrays.items() if name.startswith(ENGINE)}
        with self._one_thread:
            loaded = self._engine.from_arrays(self._side, engine, len(self._nothing))
            self._try(loaded)
            if self._resampler is not None:
                self._resampler.continue_from(kept["resampler_recent"].copy(), kept["resampler_counts"])
            self._state = loaded
            self._waiting = waiting.copy()
            self._samples = int(samples)
            for name in self._kept():
                setattr(self, f"_{name}", kept[name].copy())

    def _try(self, state: Any) -> None:
        """Run a frame of zeros from a state; InputError if the engine cannot, or if a number is infinite or NaN."""
        try:
            output, after = self._step(np.zeros((len(self._nothing), self._frame), self._input), state)
            arrays = [output, *self._engine.to_arrays(state).values(), *self._engine.to_arrays(after).values()]
            is_good = all(np.isfinite(array).all() for array in arrays)
            if self._output is np.int64:
                is_good &= bool(0 <= output.min() <= output.max() < self.config.quantizer.codebook_size)
        except Exception:  # the engines' exceptions have no common base class
            is_good = False
        require(is_good, "the state has values that no stream has")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or pickle contains: all but the lock. States and input are never written to, so copies share."""
        with self._one_thread:
            state = {name: value for name, value in vars(self).items() if name != "_one_thread"}
            return state | {"_resampler": copy.copy(self._resampler)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _one_thread=OneThread())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that shares the engine, as `copy.copy` makes it."""
        return copy.copy(self)

    def _kept(self) -> dict[str, NDArray[Any]]:
        """Further arrays of the stream's state, by their names without the underscore."""
        return {}

    def _identity(self) -> dict[str, Any]:
        """What a session must have in common with one whose state it loads."""
        return {
            "side": self._side,
            "model": self.config.name,
            "weights": self._weight_hash,
            "batch": self._batch or 0,
            "sample_rate": self.sample_rate,
        }

    def _resampled(self) -> dict[str, NDArray[Any]]:
        """The arrays of the resampler, if there is one, by their names in a kept state."""
        arrays = {} if self._resampler is None else self._resampler.arrays()
        return {f"resampler_{name}": array for name, array in arrays.items()}

    def _start(self) -> None:
        """Start a new stream."""
        rows, side = self._batch or 1, self._side
        is_extended = side == "extended"
        self._state = self._engine.init_extended(rows) if is_extended else getattr(self._engine.init_state(rows), side)
        self._waiting, self._samples = self._nothing, 0

    def _rows(self, chunk: Any, what: str, axis: str) -> NDArray[Any]:
        """A chunk as rows `[B, *]`."""
        rows = np.asarray(chunk)
        if not self._batch and rows.ndim == 1:
            return rows[None]
        if not self._batch or rows.ndim != 2 or len(rows) != self._batch:
            expected = f"[{self._batch}, {axis}]" if self._batch else f"[{axis}]"
            raise InputError(f"{what} must have the shape {expected}, not {list(rows.shape)}")
        return rows

    def _push(self, chunk: Any) -> NDArray[Any]:
        with self._one_thread:
            return self._give(self._run(self._take(self._checked(chunk))))

    def _is_fading(self) -> bool:
        """Whether the frames before were lost, so that the next output is not the engine's alone."""
        return False

    @abstractmethod
    def _checked(self, chunk: Any) -> NDArray[Any]:
        """A chunk as rows `[B, *]`; raises an InputError if it is invalid."""

    def _take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Add input to the stream: returns all complete frames, and keeps the remaining input for the next call."""
        if self._waiting.shape[1]:
            rows = np.concatenate([self._waiting, rows], axis=1)
        whole = rows.shape[1] // self._frame * self._frame
        self._waiting = rows[:, whole:].copy() if whole < rows.shape[1] else self._nothing
        return rows[:, :whole]

    def _run(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The engine's output for complete frames, in steps of at most a block."""
        length, block = rows.shape[1], self._block * self._frame
        if 0 < length <= block:  # the quick path for the chunks of a live stream
            output, self._state = self._step(rows, self._state)
            return output
        outputs: list[NDArray[Any]] = [np.zeros((len(rows), 0), self._output)]
        for start in range(0, length, block):
            output, self._state = self._step(rows[:, start : start + block], self._state)
            outputs.append(output)
        return np.concatenate(outputs, axis=1)

    @abstractmethod
    def _step(self, rows: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        """A step of the engine."""

    def _give(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The engine's output as `push` returns it."""
        return rows if self._batch else rows[0]


def _scalar(array: NDArray[Any]) -> int | str | None:
    """The integer or text in an array without axes; None if it holds something else."""
    if array.shape != () or array.dtype.kind not in "iuU" or not array.dtype.isnative:
        return None
    if array.dtype.kind == "U" and np.frombuffer(array.tobytes(), np.uint32).max(initial=0) > sys.maxunicode:
        return None  # numpy would make a str of it that Python cannot handle
    value: int | str = array.item()
    return value


class StreamEncoder(_Session):
    """Encodes audio that arrives in chunks of any size, and returns codes as soon as a frame is complete.

    Args:
        engine: runs the codec.
        batch: None for one stream, with chunks `[T]`; or the number of parallel streams, with chunks `[B, T]`.
        sample_rate: of the audio, in Hz; by default the codec's own. Audio of another rate is resampled (soxr) as by
            `Tokenizer.encode`.
        weight_hash: of the engine's weights, which `state_dict` then contains.
    """

    _side, _input, _output = "encoder", np.float32, np.int64

    def _start(self) -> None:
        super()._start()
        if self.sample_rate != self.config.sample_rate:
            self._resampler = StreamResampler(self.sample_rate, self.config.sample_rate, self._batch or 1)

    def push(self, audio: NDArray[Any] | bytes | bytearray | memoryview) -> NDArray[np.int64]:
        """Add audio, and return the codes of all frames that are now complete.

        Args:
            audio: `[T]` (or `[B, T]` with a batch) at the session's sample rate, floats in [-1, 1] or int16; T may be
                0. One stream also accepts `[T, 1]`, `[1, T]`, and the bytes of little-endian int16 samples.

        Returns:
            Codes `[N]` (or `[B, N]`), N a multiple of tokens_per_frame, often 0.

        Raises:
            InputError: the shape or type is wrong, or a sample is not finite.
        """
        return self._push(audio)

    def flush(self) -> NDArray[np.int64]:
        """End the stream: return the last frames, padded with zeros so that every sample is encoded, and reset."""
        with self._one_thread:
            rows = self._nothing if self._resampler is None else self._resampler.flush()
            samples = self._samples + rows.shape[1]
            missing = self.config.padded_length(samples) - samples
            codes = self._run(super()._take(np.pad(rows, [(0, 0), (0, missing)])))
            self._start()
        return self._give(codes)

    def _checked(self, chunk: Any) -> NDArray[np.float32]:
        chunk = chunk if self._batch else _one_channel(chunk)
        return check_audio(self._rows(chunk, "audio", "T"), dims=(2,), allow_empty=True)

    def _take(self, rows: NDArray[Any]) -> NDArray[Any]:
        rows = rows if self._resampler is None else self._resampler.push(rows)
        self._samples += rows.shape[1]
        return super()._take(rows)

    def _step(self, rows: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        return self._engine.encode_step(rows, state)


def _one_channel(audio: Any) -> NDArray[Any]:
    """A chunk as `[T]`, from `[T, 1]` of a sound device, `[1, T]` of a library, or bytes of a pipe."""
    if isinstance(audio, (bytes, bytearray, memoryview)):
        size = memoryview(audio).nbytes
        require(size % 2 == 0, f"audio as bytes must be whole int16 samples, not {size} bytes")
        return np.frombuffer(audio, "<i2")
    chunk = np.asarray(audio)
    return chunk.reshape(-1) if chunk.ndim == 2 and 1 in chunk.shape else chunk


class StreamDecoder(_Session):
    """Decodes codes that arrive in chunks of any size, and returns audio as soon as a frame is complete.

    The decoder's first `synthesis_delay` samples, which precede the stream, are dropped, so that sample n of the output
    is sample n of the encoder's input.

    Args:
        engine: runs the codec.
        batch: None for one stream, with chunks `[N]`; or the number of parallel streams, with chunks `[B, N]`.
        sample_rate: of the audio, in Hz; by default the codec's own. For another rate the audio is resampled (soxr) as
            by `Tokenizer.decode`.
        weight_hash: of the engine's weights, which `state_dict` then contains. Codes that know their model
            (`spectok.codes.Codes`) are then refused if it is another one.
        extend: whether the model's extension adds the frequencies from 8 to 20 kHz. The audio then has three times the
            codec's sample rate by default, without a resampler, and no more delay.

    Raises:
        InputError: the model has no extension, or the sample rate is too low for one.
    """

    _side: Side = "decoder"
    _input, _output = np.int64, np.float32

    def __init__(
        self,
        engine: Engine,
        batch: int | None = None,
        sample_rate: int | None = None,
        weight_hash: str = "",
        extend: bool = False,
    ) -> None:
        if extend:
            check_extension(engine, sample_rate)
            self._side, self._factor = "extended", EXTENSION_FACTOR
        super().__init__(engine, batch, sample_rate, weight_hash)

    def _start(self) -> None:
        super()._start()
        self._last_frame = np.full((self._batch or 1, self._tokens), -1)  # -1 before the first frame
        self._lost_in_row = np.zeros(self._batch or 1, np.int64)
        if self.sample_rate != self._rate:
            self._resampler = StreamResampler(self._rate, self.sample_rate, self._batch or 1)

    def push(self, codes: NDArray[np.int64] | None, lost: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Add codes, and return the audio of all frames that are now complete.

        In place of a lost frame the one before is repeated, and the codec's concealment, if it has one
        (`CodecConfig.concealment_hidden`), predicts what to change in it. After 100 ms of lost frames the audio fades,
        and after 200 ms it is silent; the first frame that arrives brings it back.

        Args:
            codes: integers `[N]` (or `[B, N]` with a batch); N may be 0. Or whole frames `[F, K]` (or `[B, F, K]`), K
                the tokens per frame. None for one lost frame.
            lost: which of the frames are lost, `[F]` (or `[B, F]`); their codes are ignored. The codes must then be
                whole frames.

        Returns:
            Audio `[T]` (or `[B, T]`) at the session's sample rate.

        Raises:
            InputError: the shape is wrong, a code is not in the codebook, the codes know that another model made them,
                or a frame is lost before the one before it is complete.
        """
        with self._one_thread:
            mask = None
            if codes is not None and lost is None:
                frames = self._take(self._checked(codes))
            else:
                frames, mask = self._lossy(codes, lost)
            if not self._is_fading() and (mask is None or not mask.any()):
                self._note(frames)
                return self._give(self._run(frames))
            if mask is None:
                mask = np.zeros((len(frames), frames.shape[1] // self._tokens), bool)
            filled, levels = self._concealed(frames.reshape(*mask.shape, self._tokens), mask)
            return self._give(self._run_lossy(filled, mask) * levels.astype(np.float32))

    def _note(self, frames: NDArray[np.int64]) -> None:
        """Keep what is repeated if the next frame is lost, of complete frames `[B, N]` that are about to be run."""
        if frames.shape[1]:  # a copy, because the caller may use the array of the codes again
            self._last_frame = frames[:, -self._tokens :].copy()

    def _is_fading(self) -> bool:
        return bool(self._lost_in_row.any())

    def _lossy(self, codes: Any, lost: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Codes `[B, N]` of whole frames, zeros where they are lost, and which are, `[B, F]`."""
        rows = self._batch or 1
        require(self._waiting.shape[1] == 0, "frames can be lost only where the frame before is complete")
        if codes is None:
            return np.zeros((rows, self._tokens), np.int64), np.ones((rows, 1), bool)
        check_model(codes, self.config.name, self._weight_hash)
        array, mask = np.asarray(codes), np.atleast_2d(np.asarray(lost))
        fits = mask.dtype == bool and len(mask) == rows and array.size == mask.size * self._tokens
        require(fits, f"lost must have a boolean for each frame of {self._tokens} codes")
        kept = np.where(mask[:, :, None], 0, array.reshape(*mask.shape, self._tokens)).reshape(rows, -1)
        return self._checked(kept if self._batch else kept[0]), mask

    def _concealed(self, codes: NDArray[np.int64], lost: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Codes `[B, N]` with lost frames replaced, and the level of each sample of their audio, `[B, T]`.

        Args:
            codes: `[B, F, K]`.
            lost: `[B, F]`.
        """
        size = self._factor * self._frame_length
        ramp = np.arange(1, size + 1) / size
        frames, levels = [np.zeros((len(lost), 0), np.int64)], [np.zeros((len(lost), 0))]
        for frame, is_lost in zip(codes.swapaxes(0, 1), lost.T, strict=True):
            before = self._level()
            self._last_frame = np.where(is_lost[:, None], self._last_frame, frame)
            self._lost_in_row = np.where(is_lost, self._lost_in_row + 1, 0)
            is_empty = self._last_frame[:, 0] < 0  # nothing has arrived yet: silence
            before, after = np.where(is_empty, 0, before)[:, None], np.where(is_empty, 0, self._level())[:, None]
            frames.append(np.maximum(self._last_frame, 0))
            levels.append(before + (after - before) * ramp)
        return np.concatenate(frames, axis=1), np.concatenate(levels, axis=1)

    def _run_lossy(self, codes: NDArray[np.int64], lost: NDArray[np.bool_]) -> NDArray[Any]:
        """The engine's output for frames of which some are lost, in steps of at most a block."""
        outputs: list[NDArray[Any]] = [np.zeros((len(codes), 0), self._output)]
        for start in range(0, lost.shape[1], self._block):
            stop = start + self._block
            step = codes[:, start * self._tokens : stop * self._tokens]
            output, self._state = self._decode(step, self._state, lost[:, start:stop])
            outputs.append(output)
        return np.concatenate(outputs, axis=1)

    def _level(self) -> NDArray[np.float64]:
        """The level of each row after so many lost frames in a row."""
        return np.clip(1 - (self._lost_in_row - HOLD_FRAMES) / FADE_FRAMES, 0, 1)

    def _kept(self) -> dict[str, NDArray[Any]]:
        return {"last_frame": self._last_frame, "lost_in_row": self._lost_in_row}

    def flush(self) -> NDArray[np.float32]:
        """End the stream: return the audio that the resampler still holds (none at the codec's own rate), and reset.

        Raises:
            InputError: the codes ended within a frame.
        """
        with self._one_thread:
            left = self._waiting.shape[1]
            audio = self._nothing.astype(np.float32) if self._resampler is None else self._resampler.flush()
            self._start()
        require(left == 0, f"the codes end within a frame: {left} are left over, a frame has {self._tokens}")
        return super()._give(audio)

    def _checked(self, chunk: Any) -> NDArray[np.int64]:
        check_model(chunk, self.config.name, self._weight_hash)
        codes = np.asarray(chunk)
        if codes.ndim == (3 if self._batch else 2) and codes.shape[-1] == self._tokens:  # whole frames
            codes = codes.reshape(*codes.shape[:-2], -1)
        return check_codes(self._rows(codes, "codes", "N"), self.config.quantizer.codebook_size)

    def _step(self, rows: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        return self._decode(rows, state)

    def _decode(self, codes: NDArray[np.int64], state: Any, *lost: NDArray[np.bool_]) -> tuple[NDArray[Any], Any]:
        step = self._engine.extended_step if self._side == "extended" else self._engine.decode_step
        return step(codes, state, *lost)

    def _give(self, rows: NDArray[Any]) -> NDArray[Any]:
        audio = rows[:, self._factor * max(0, self.config.synthesis_delay - self._samples) :]
        self._samples += rows.shape[1] // self._factor
        return super()._give(audio if self._resampler is None else self._resampler.push(audio))


def check_extension(engine: Engine, sample_rate: int | None) -> None:
    """Check that an engine can extend audio to this sample rate in Hz; None is the rate of the extension.

    Raises:
        InputError: the model has no extension, or the rate has no room for further frequencies.
    """
    config = engine.config
    require(engine.can_extend, f"the model {config.name} has no extension to higher frequencies")
    lowest = config.sample_rate
    is_high = sample_rate is None or sample_rate > lowest
    require(is_high, f"an extension needs a sample rate of the output above {lowest} Hz, not {sample_rate}")
