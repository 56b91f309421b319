"""Groups of streams: one step of the engine serves the frames of all of them."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.engine import Engine
from spectok.errors import require
from spectok.sessions import OneThread, StreamDecoder, StreamEncoder


class StreamGroup:
    """Streams that run together: one step of the engine serves all complete frames of a push, which saves time.

    Streams join and leave at any time. The outputs are those of a session for each stream, up to rounding of the
    arithmetic.

        group = tokenizer.encoder_group()
        first, second = group.join(), group.join()
        codes = group.push({first: audio, second: other_audio})  # {first: codes, second: other_codes}
        last = group.leave(first)

    Args:
        kind: `StreamEncoder` or `StreamDecoder`.
        engine: runs the codec.
        sample_rate: of the audio of all streams, in Hz; by default that of a session.
        weight_hash: of the engine's weights, as for a session.
        options: further arguments of each session, such as `extend` of a `StreamDecoder`.

    Raises:
        InputError: no session can be started with these arguments.
    """

    def __init__(
        self,
        kind: type[StreamEncoder] | type[StreamDecoder],
        engine: Engine,
        sample_rate: int | None = None,
        weight_hash: str = "",
        **options: bool,
    ) -> None:
        self._engine, self._sample_rate = engine, sample_rate
        self._kind, self._weight_hash, self._options = kind, weight_hash, options
        self._output = self._new_session(sample_rate)._output  # a session that tells at once what it would refuse
        self._sessions: dict[int, StreamEncoder | StreamDecoder] = {}
        self._keys = itertools.count()
        self._one_thread = OneThread()

    def __len__(self) -> int:
        """The number of streams."""
        return len(self._sessions)

    def join(self, sample_rate: int | None = None) -> int:
        """Start a new stream in the group; returns its key, which is not used again.

        Args:
            sample_rate: of this stream's audio, in Hz; by default that of the group.

        Raises:
            InputError: the sample rate is out of range.
        """
        with self._one_thread:
            session = self._new_session(self._sample_rate if sample_rate is None else sample_rate)
            key = next(self._keys)
            self._sessions[key] = session
        return key

    def push(self, chunks: Mapping[int, Any]) -> dict[int, NDArray[Any]]:
        """Add a chunk to each of some streams of the group, and return the output of each.

        Streams with the same number of complete frames take the same steps. If the numbers differ, the streams with
        more frames go on without the others.

        Args:
            chunks: for each key what a session's `push` accepts, of any size.

        Raises:
            InputError: a key is not of a stream in the group, or a chunk is invalid. All streams are then unchanged.
        """
        with self._one_thread:
            sessions = {key: self._session(key) for key in chunks}
            checked = {key: session._checked(chunks[key]) for key, session in sessions.items()}
            fading = {key for key, session in sessions.items() if session._is_fading()}
            frames = {key: sessions[key]._take(checked[key]) for key in sessions if key not in fading}
            for key, session in sessions.items():
                if isinstance(session, StreamDecoder) and key in frames:
                    session._note(frames[key])
            outputs = self._run(frames)
            return {
                key: session.push(chunks[key]) if key in fading else session._give(outputs[key])
                for key, session in sessions.items()
            }

    def lose(self, key: int, frames: int) -> NDArray[np.float32]:
        """Tell a stream of a group of decoders that frames are lost; returns audio in their place.

        It takes a step for itself, as does the first push after it.

        Args:
            key: of the stream.
            frames: how many are lost.

        Raises:
            InputError: the group encodes, the key is not of a stream in the group, or the codes ended within a frame.
        """
        with self._one_thread:
            session = self._session(key)
            require(isinstance(session, StreamDecoder), "frames can only be lost before they are decoded")
            assert isinstance(session, StreamDecoder)
            return session.push(np.zeros(frames * session._tokens, np.int64), np.ones(frames, bool))

    def discard(self, key: int) -> None:
        """Remove a stream from the group without its last output.

        Raises:
            InputError: the key is not of a stream in the group.
        """
        with self._one_thread:
            self._session(key)
            del self._sessions[key]

    def leave(self, key: int) -> NDArray[Any]:
        """End a stream, as `flush` of a session does, and return its last output.

        Raises:
            InputError: the key is not of a stream in the group, or the codes ended within a frame; the stream has left
                the group then.
        """
        with self._one_thread:
            session = self._session(key)
            del self._sessions[key]
            return session.flush()

    def _new_session(self, sample_rate: int | None) -> StreamEncoder | StreamDecoder:
        return self._kind(self._engine, None, sample_rate, self._weight_hash, **self._options)

    def _session(self, key: int) -> StreamEncoder | StreamDecoder:
        require(key in self._sessions, f"no stream of the group has the key {key}")
        return self._sessions[key]

    def _run(self, frames: dict[int, NDArray[Any]]) -> dict[int, NDArray[Any]]:
        """The engine's output for the complete frames of each stream, in as few steps as there are different lengths.

        Long input takes a step for each block.
        """
        outputs = {key: [np.zeros((1, 0), self._output)] for key in frames}
        position = 0
        while keys := [key for key, rows in frames.items() if rows.shape[1] > position]:
            sessions = [self._sessions[key] for key in keys]
            end = min(position + sessions[0]._block * sessions[0]._frame, *(frames[key].shape[1] for key in keys))
            rows = np.concatenate([frames[key][:, position:end] for key in keys])
            output, state = sessions[0]._step(rows, self._engine.stack([session._state for session in sessions]))
            states = self._engine.split(state, len(keys))
            for row, (key, session) in enumerate(zip(keys, sessions, strict=True)):
                session._state = states[row]
                outputs[key].append(output[row : row + 1])
            position = end
        return {key: np.concatenate(parts, axis=1) for key, parts in outputs.items()}
