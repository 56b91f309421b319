"""The thread that runs the codec: in each turn, the waiting input of all streams runs as one batch.

    loop, in its thread                              thread of the batcher
    batcher.put(stream, item)      -> inputs ->      takes at most `TURN_FRAMES` of each stream that waits
    stream.deliver(messages)      <- outputs <-      runs them together, models one after the other
    batcher.sent(stream)                             only then takes more of this stream

A stream has one turn at a time: the next is taken when the client has read the output of the one before. What a stream
holds is therefore bounded by what its connection puts, and a client that reads slowly delays itself only.
"""

import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError
from spectok.samples import to_int16
from spectok.serve.metrics import Metrics
from spectok.serve.protocol import FLUSHED, Flush, Lost, Mode, code_bytes
from spectok.tokenizer import Tokenizer

TURN_FRAMES = 5  # of one stream in a turn: 100 ms, so that nobody waits long for a client that sends a file
GATHER_SECONDS = 0.010  # from the start of one turn to that of the next, at least: larger batches cost less
VALUE_BYTES, ITEM_BYTES = 2, 64  # of a sample or a code in a message, and about what is kept for each message
logger = logging.getLogger(__name__)

Item = NDArray[Any] | Lost | Flush  # int16 samples or int64 codes, or what a text message said
Output = bytes | str  # a message for the client


class Stream:
    """What the batcher knows of one client.

    Args:
        codec: runs it, from `Batcher.codecs`.
        mode: "encode", "decode" or "transcode".
        sample_rate: of the PCM, in Hz.
        deliver: called in the loop with the messages of each turn, or with None if the codec has failed.
    """

    def __init__(
        self, codec: "ModelStreams", mode: Mode, sample_rate: int, deliver: Callable[[list[Output] | None], None]
    ) -> None:
        self.codec, self.mode, self.sample_rate, self.deliver = codec, mode, sample_rate, deliver
        self.inputs: deque[tuple[float, Item]] = deque()  # with the time of arrival
        self.waiting = 0  # bytes in `inputs`
        self.in_turn = False  # whether a turn is being computed, or its output sent
        self.keys: dict[str, int] = {}  # in the groups of the codec, by side; empty between streams
        self.owed = 0  # samples that came in and have not gone out yet, of a transcoded stream
        config = codec.tokenizer.config
        frame = config.quantizer.tokens_per_frame
        if mode != "decode":
            frame = -(-config.frame_length * sample_rate // config.sample_rate)
        self._most = TURN_FRAMES * frame  # values in a turn

    def take(self) -> tuple[float, Item]:
        """The oldest input, as much of it as belongs in one turn, and when it arrived."""
        arrived, item = self._pop()
        if isinstance(item, Lost):
            if item.frames > TURN_FRAMES:
                self._push_back(arrived, Lost(item.frames - TURN_FRAMES))
            return arrived, Lost(min(item.frames, TURN_FRAMES))
        if isinstance(item, Flush):
            return arrived, item
        parts, left, came = [item[: self._most]], self._most - len(item), arrived
        while left > 0 and self.inputs and isinstance(self.inputs[0][1], np.ndarray):
            came, item = self._pop()
            assert isinstance(item, np.ndarray)
            parts.append(item[:left])
            left -= len(item)
        if left < 0:
            self._push_back(came, item[left:])
        return arrived, parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pop(self) -> tuple[float, Item]:
        arrived, item = self.inputs.popleft()
        self.waiting -= _size(item)
        return arrived, item

    def _push_back(self, arrived: float, item: Item) -> None:
        self.inputs.appendleft((arrived, item))
        self.waiting += _size(item)


def _size(item: Item) -> int:
    return ITEM_BYTES + (VALUE_BYTES * len(item) if isinstance(item, np.ndarray) else 0)


class Turn(NamedTuple):
    """The part of one stream in a turn."""

    stream: Stream
    item: Item
    arrived: float  # time.monotonic()


class ModelStreams:
    """A model, and its streams of both sides as groups. Used by the thread of the batcher only.

    Args:
        tokenizer: the model.
        metrics: count the frames.
    """

    def __init__(self, tokenizer: Tokenizer, metrics: Metrics) -> None:
        self.tokenizer, self._metrics = tokenizer, metrics
        self._groups = {"encoder": tokenizer.encoder_group(), "decoder": tokenizer.decoder_group()}

    def warm_up(self) -> None:
        """Load both graphs, so that the first stream does not wait for them."""
        state, config = self.tokenizer.engine.init_state(1), self.tokenizer.config
        codes, _ = self.tokenizer.engine.encode_step(np.zeros((1, config.frame_length), np.float32), state.encoder)
        self.tokenizer.engine.decode_step(codes, state.decoder)

    def run(self, turns: list[Turn]) -> list[list[Output]]:
        """The messages for each of some streams, whose frames run together."""
        for turn in turns:
            self._join(turn.stream)
        encoded = self._encoded([turn for turn in turns if turn.stream.mode != "decode"])
        decoded = self._decoded([turn for turn in turns if turn.stream.mode != "encode"], encoded)
        outputs: list[list[Output]] = []
        for stream, item, _ in turns:
            is_coded = stream.mode == "encode"
            message = code_bytes(encoded[stream]) if is_coded else to_int16(decoded[stream]).astype("<i2").tobytes()
            outputs.append([message] if message else [])
            if isinstance(item, Flush):
                stream.keys, stream.owed = {}, 0
                outputs[-1].append(FLUSHED)
        return outputs

    def leave(self, stream: Stream) -> None:
        """Forget a stream."""
        for side, key in stream.keys.items():
            with suppress(InputError):  # after a failure of the codec a group may have lost it already
                self._groups[side].discard(key)
        stream.keys = {}

    def _join(self, stream: Stream) -> None:
        for side, other in (("encoder", "decode"), ("decoder", "encode")):
            if stream.mode != other and side not in stream.keys:
                stream.keys[side] = self._groups[side].join(stream.sample_rate)

    def _push(self, side: str, chunks: dict[Stream, NDArray[Any]]) -> dict[Stream, NDArray[Any]]:
        found = self._groups[side].push({stream.keys[side]: chunk for stream, chunk in chunks.items()})
        return dict(zip(chunks, found.values(), strict=True))

    def _leave(self, side: str, stream: Stream) -> NDArray[Any]:
        return self._groups[side].leave(stream.keys.pop(side))

    def _encoded(self, turns: list[Turn]) -> dict[Stream, NDArray[np.int64]]:
        codes = self._push("encoder", {t.stream: t.item for t in turns if isinstance(t.item, np.ndarray)})
        codes |= {turn.stream: self._leave("encoder", turn.stream) for turn in turns if isinstance(turn.item, Flush)}
        for stream, item, _ in turns:
            stream.owed += len(item) if isinstance(item, np.ndarray) else 0
        frames = sum(len(each) for each in codes.values()) // self.tokenizer.tokens_per_frame
        self._metrics.add("encoded", frames)
        return codes

    def _decoded(
        self, turns: list[Turn], encoded: Mapping[Stream, NDArray[np.int64]]
    ) -> dict[Stream, NDArray[np.float32]]:
        """Audio of the codes of the streams that decode, and of those that transcode, whose codes were just made."""
        group, frames = self._groups["decoder"], 0
        codes = {t.stream: encoded.get(t.stream, t.item) for t in turns if not isinstance(t.item, Lost)}
        chunks = {stream: each for stream, each in codes.items() if isinstance(each, np.ndarray)}
        audio = self._push("decoder", chunks)
        for stream, item, _ in turns:
            if isinstance(item, Lost):
                audio[stream] = group.lose(stream.keys["decoder"], item.frames)
                frames += item.frames
            if isinstance(item, Flush):
                last = self._leave("decoder", stream)
                audio[stream] = np.concatenate([audio[stream], last]) if stream in audio else last
            if stream.mode == "transcode":
                audio[stream] = audio[stream][: stream.owed]  # the last frame is longer than what was left to encode
                stream.owed -= len(audio[stream])
        frames += sum(len(each) for each in chunks.values()) // self.tokenizer.tokens_per_frame
        self._metrics.add("decoded", frames)
        return audio


class Batcher:
    """Runs the streams of all models in one thread.

    Args:
        models: by their names.
        metrics: count what is done.
    """

    def __init__(self, models: Mapping[str, Tokenizer], metrics: Metrics) -> None:
        self.codecs = {name: ModelStreams(tokenizer, metrics) for name, tokenizer in models.items()}
        self._metrics = metrics
        self._changed = threading.Condition()  # guards everything below, and what streams wait for
        self._ready: dict[Stream, None] = {}  # those that have input and no turn, in the order of arrival
        self._left: list[Stream] = []
        self._stopped = self._asleep = False
        self._loop: AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="spectok-batcher", daemon=True)

    def start(self, loop: AbstractEventLoop) -> None:
        """Load the models and start the thread, whose outputs are delivered in this loop."""
        for codec in self.codecs.values():
            codec.warm_up()
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after its turn."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def put(self, stream: Stream, item: Item) -> None:
        """Add input to a stream."""
        with self._changed:
            stream.inputs.append((time.monotonic(), item))
            stream.waiting += _size(item)
            self._metrics.add("waiting", _size(item))
            self._wake(stream)

    def sent(self, stream: Stream) -> None:
        """The client has got the output of the last turn; the stream may have the next one."""
        with self._changed:
            stream.in_turn = False
            self._wake(stream)

    def leave(self, stream: Stream) -> None:
        """Forget a stream, with what it waits for."""
        with self._changed:
            stream.inputs.clear()
            self._metrics.add("waiting", -stream.waiting)
            stream.waiting = 0
            self._ready.pop(stream, None)
            self._left.append(stream)
            self._rouse()

    def _wake(self, stream: Stream) -> None:
        if stream.inputs and not stream.in_turn:
            self._ready[stream] = None
            self._rouse()

    def _rouse(self) -> None:
        if self._asleep:
            self._changed.notify()

    def _work(self) -> None:
        began = 0.0
        while True:
            time.sleep(max(0.0, began + GATHER_SECONDS - time.monotonic()))
            with self._changed:
                while not (self._ready or self._left or self._stopped):
                    self._asleep = True
                    self._changed.wait()
                    self._asleep = False
                if self._stopped:
                    return
                turns, left = self._taken(), self._left
                self._left = []
            began = time.monotonic()
            for stream in left:
                stream.codec.leave(stream)
            if not turns:
                continue
            outputs = self._computed(turns)
            done = time.monotonic()
            self._metrics.add("batches")
            self._metrics.add("batched", len(turns))
            self._metrics.add("busy", done - began)
            for turn in turns:
                self._metrics.observe(done - turn.arrived)
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_deliver, outputs)

    def _taken(self) -> list[Turn]:
        turns = []
        for stream in self._ready:
            stream.in_turn = True
            before = stream.waiting
            arrived, item = stream.take()
            self._metrics.add("waiting", stream.waiting - before)
            turns.append(Turn(stream, item, arrived))
        self._ready = {}
        return turns

    def _computed(self, turns: list[Turn]) -> list[tuple[Stream, list[Output] | None]]:
        """The messages for each stream; None where the codec has failed."""
        outputs: list[tuple[Stream, list[Output] | None]] = []
        for codec in self.codecs.values():
            own = [turn for turn in turns if turn.stream.codec is codec]
            try:
                messages: list[Any] = codec.run(own) if own else []
            except Exception:  # a fault of the engine must not end the thread that all streams share
                logger.exception("the codec has failed")
                messages = [None] * len(own)
            outputs += zip((turn.stream for turn in own), messages, strict=True)
        return outputs


def _deliver(outputs: list[tuple[Stream, list[Output] | None]]) -> None:
    for stream, messages in outputs:
        stream.deliver(messages)
