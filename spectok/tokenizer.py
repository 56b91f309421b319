"""`Tokenizer`: converts audio to integer codes and back, for example for a speech language model.

    tokenizer = Tokenizer.from_pretrained("spectok-16k-4k")
    codes = tokenizer.encode("speech.wav")
    audio = tokenizer.decode(codes)

It runs the codec on files and batches, and handles sample rates and lengths. NumPy arrays give NumPy arrays, and
PyTorch tensors give tensors on the same device.
"""

from collections.abc import Sequence
from numbers import Number
from operator import index as as_int
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from spectok import audio as audio_files
from spectok import pretrained
from spectok.arrays import like, to_numpy
from spectok.batching import EncodedBatch, by_length, mask_of, masked_frames, padded
from spectok.codes import Codes, Layout, check_codes, check_layout_name, check_model, from_rows, other_model, to_rows
from spectok.config import CodecConfig
from spectok.container import Header, read_spt, write_spt
from spectok.engine import Engine, load_engine
from spectok.errors import InputError, require
from spectok.files import file_name
from spectok.groups import StreamGroup
from spectok.resampling import resample, restore
from spectok.samples import check_audio, check_sample_rate
from spectok.sessions import StreamDecoder, StreamEncoder, check_extension
from spectok.vocabulary import SPECIALS, Pattern, Vocabulary

if TYPE_CHECKING:
    import torch

Lengths = int | Sequence[int] | NDArray[np.integer[Any]]
_Audio = TypeVar("_Audio", bound=str | Path | BinaryIO | NDArray[Any])  # the items of a list, of one or several types
NO_AUDIO: dict[type, str] = {
    type(None): "None; it must be an array, a tensor, a path, or a list of those",
    dict: "a dict; pass its array and its sample rate one by one",
    list: "a list of numbers; make an array of it",
    **dict.fromkeys(
        (bytes, bytearray, memoryview), "bytes; make an array of them, or pass a file that is open for reading"
    ),
}
MOST_CHANNELS = 8  # a second axis that is at most this long and shorter than the first is taken for channels


class Recording(NamedTuple):
    """The content of a `.spt` file, in the order of the arguments of `Tokenizer.decode`."""

    codes: NDArray[np.int64]  # [N], `spectok.codes.Codes`
    length: int  # of the original, in samples at `sample_rate`
    sample_rate: int  # of the original, in Hz


class Tokenizer:
    """A codec with its weights.

    Args:
        engine: runs the codec.
        weight_hash: 16 hexadecimal digits that identify the weights in .spt files.
        entropy_id: 8 hexadecimal digits of the entropy model with which `save` compresses; empty: it does not.
    """

    def __init__(self, engine: Engine, weight_hash: str, entropy_id: str = "") -> None:
        self.engine, self.weight_hash, self.entropy_id = engine, weight_hash, entropy_id

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = pretrained.DEFAULT,
        device: str = "cpu",
        engine: str | None = None,
        threads: int | None = None,
        encoder: str | None = None,
    ) -> "Tokenizer":
        """Load a released model by name, or any model from its folder.

        Args:
            name_or_folder: a name from `spectok.models()`, or the path of a folder.
            device: "cpu", or with PyTorch "cuda" or "cuda:1".
            engine: "onnx" or "torch"; by default onnx, but torch on a device other than the CPU, or if the folder has
                no graphs.
            threads: CPU threads; by default 1 for onnx, and PyTorch's own default for torch.
            encoder: "robust" for the encoder that ignores noise, reverberation and loudness. Its codes are decoded like
                all others, to speech without noise at one level; by default the model's own encoder.

        Raises:
            InputError: there is no such model, engine, device or encoder, or the weights are damaged.
        """
        model = pretrained.find(name_or_folder)
        other = None if encoder is None else pretrained.find_encoder(model, encoder)
        return cls(load_engine(model, engine, device, threads, other), model.weight_hash, model.entropy_id)

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""
        return self.engine.config

    @property
    def sample_rate(self) -> int:
        """The codec's own sample rate in Hz."""
        return self.config.sample_rate

    @property
    def codebook_size(self) -> int:
        """The number of different codes, which are from 0 to `codebook_size - 1`."""
        return self.config.quantizer.codebook_size

    @property
    def tokens_per_frame(self) -> int:
        """Number of codes per frame, K."""
        return self.config.quantizer.tokens_per_frame

    @property
    def frame_length(self) -> int:
        """Samples per frame, at `sample_rate`."""
        return self.config.frame_length

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def token_rate(self) -> float:
        """Codes per second."""
        return self.config.token_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes."""
        return self.config.bitrate

    @property
    def can_extend(self) -> bool:
        """Whether the model has an extension, which `decode` and `stream_decoder` use with `extend`."""
        return self.engine.can_extend

    def vocabulary(
        self,
        offset: int = 0,
        specials: Sequence[str] = SPECIALS,
        pattern: Pattern = "flat",
        separate: bool = False,
    ) -> Vocabulary:
        """Ids for the codes and for special tokens in a language model.

        Args:
            offset: the first id: the number of ids that the language model has already.
            specials: names of special tokens, which have the ids after those of the codes, in this order.
            pattern: "flat" for ids frame after frame; "delay" for the delay pattern of MusicGen, a row for each of the
                K codes of a frame.
            separate: whether each of the K codes of a frame has ids of its own. By default they share the ids, because
                they are from one codebook.

        Raises:
            InputError: an argument is not one that `Vocabulary` accepts.
        """
        return Vocabulary(
            self.codebook_size, self.tokens_per_frame, offset, specials, pattern, separate, self.weight_hash
        )

    def code_vectors(self, codes: Any = None) -> NDArray[np.float32]:
        """The vectors that the quantizer has for codes, for example to initialise the embedding of a language model.

        Codes of similar sounds have similar vectors. For the kind "fsq" they are the points of a grid, from -1 to 1 in
        each dimension; for "vq" the learned entries of the codebook. The decoder begins with a projection of them.

        Args:
            codes: integers of any shape, as array, tensor or list; by default all codes, from 0 to `codebook_size - 1`.

        Returns:
            Float32 `[..., D]`, D = `config.quantizer.codebook_dim`: an array, for every kind of codes.

        Raises:
            InputError: the codes are not integers or not in the codebook, or know that another model made them.
        """
        vectors = self.engine.code_vectors()
        if codes is None:
            return vectors
        check_model(codes, self.config.name, self.weight_hash)
        return vectors[check_codes(to_numpy(codes), self.codebook_size)]

    def stream_encoder(self, sample_rate: int | None = None) -> StreamEncoder:
        """A new session that encodes one stream of audio at `sample_rate` Hz, by default the codec's own."""
        return StreamEncoder(self.engine, None, sample_rate, self.weight_hash)

    def stream_decoder(self, sample_rate: int | None = None, extend: bool = False) -> StreamDecoder:
        """A new session that decodes one stream to audio at `sample_rate` Hz, by default the codec's own.

        Args:
            sample_rate: in Hz.
            extend: whether the model's extension adds the frequencies from 8 to 20 kHz. The default sample rate is then
                three times the codec's.

        Raises:
            InputError: the model has no extension, or the sample rate is too low for one.
        """
        return StreamDecoder(self.engine, None, sample_rate, self.weight_hash, extend)

    def encoder_group(self, sample_rate: int | None = None) -> StreamGroup:
        """A new group of streams that are encoded together, from audio at `sample_rate` Hz."""
        return StreamGroup(StreamEncoder, self.engine, sample_rate, self.weight_hash)

    def decoder_group(self, sample_rate: int | None = None, extend: bool = False) -> StreamGroup:
        """A new group of streams that are decoded together, to audio at `sample_rate` Hz; `extend` as for a session."""
        return StreamGroup(StreamDecoder, self.engine, sample_rate, self.weight_hash, extend=extend)

    @overload
    def encode(
        self, audio: str | Path | BinaryIO | NDArray[Any], sample_rate: int | None = None, layout: Layout = "flat"
    ) -> NDArray[np.int64]: ...
    @overload
    def encode(
        self, audio: list[_Audio], sample_rate: int | None = None, layout: Layout = "flat"
    ) -> list[NDArray[np.int64]]: ...
    @overload
    def encode(
        self, audio: "torch.Tensor", sample_rate: int | None = None, layout: Layout = "flat"
    ) -> "torch.Tensor": ...
    @overload
    def encode(
        self, audio: "list[torch.Tensor]", sample_rate: int | None = None, layout: Layout = "flat"
    ) -> "list[torch.Tensor]": ...
    def encode(self, audio: Any, sample_rate: int | None = None, layout: Layout = "flat") -> Any:
        """Encode audio.

        Args:
            audio: `[T]` or a batch `[B, T]` or `[B, 1, T]` as array or tensor, floats in [-1, 1] or integers; the path
                of a file, or a file open for reading in binary, whose channels are mixed; or a list of those, whose
                items are encoded one by one. An array with two axes of at most 8 columns and more rows is an error: it
                looks like `[T, C]` channels.
            sample_rate: of arrays and tensors, in Hz; by default the codec's own. Ignored for files.
            layout: "flat" for codes `[N]` or `[B, N]`, N = F * K; "frames" for `[F, K]` or `[B, F, K]`, where F is the
                number of frames and K the number of tokens per frame; "codebooks_first" for `[K, F]` or `[B, K, F]`.

        Returns:
            int64 codes: a tensor on the same device for a tensor, a list for a list, otherwise an array, which knows
            its model (`spectok.codes.Codes`).

        Raises:
            InputError: a file cannot be read, or the audio is empty, not finite, or has a wrong shape or type.
        """
        if isinstance(audio, list) and not (audio and isinstance(audio[0], Number)):
            return [self.encode(item, sample_rate, layout) for item in audio]
        if isinstance(audio, (str, Path)) or hasattr(audio, "read"):
            return self.encode(audio_files.read_audio(audio, self.sample_rate)[0], None, layout)
        check_layout_name(layout)
        samples = _samples(audio)
        rows = np.atleast_2d(samples)
        session = StreamEncoder(self.engine, len(rows), sample_rate)
        codes = np.concatenate([session.push(rows), session.flush()], axis=1)
        codes = from_rows(codes, self.tokens_per_frame, layout)
        return like(audio, Codes(codes if samples.ndim == 2 else codes[0], self.weight_hash))

    @overload
    def encode_batch(
        self,
        audio: list[_Audio],
        sample_rate: int | None = None,
        padding: Literal[True] = True,
        layout: Layout = "flat",
        batch_size: int = 16,
        pad: int = 0,
    ) -> EncodedBatch[NDArray[np.int64], NDArray[Any]]: ...
    @overload
    def encode_batch(
        self,
        audio: list[_Audio],
        sample_rate: int | None = None,
        *,
        padding: Literal[False],
        layout: Layout = "flat",
        batch_size: int = 16,
        pad: int = 0,
    ) -> EncodedBatch[list[NDArray[np.int64]], NDArray[Any]]: ...
    @overload
    def encode_batch(
        self,
        audio: "list[torch.Tensor]",
        sample_rate: int | None = None,
        padding: Literal[True] = True,
        layout: Layout = "flat",
        batch_size: int = 16,
        pad: int = 0,
    ) -> "EncodedBatch[torch.Tensor, torch.Tensor]": ...
    @overload
    def encode_batch(
        self,
        audio: "list[torch.Tensor]",
        sample_rate: int | None = None,
        *,
        padding: Literal[False],
        layout: Layout = "flat",
        batch_size: int = 16,
        pad: int = 0,
    ) -> "EncodedBatch[list[torch.Tensor], torch.Tensor]": ...
    def encode_batch(
        self,
        audio: Any,
        sample_rate: int | None = None,
        padding: bool = True,
        layout: Layout = "flat",
        batch_size: int = 16,
        pad: int = 0,
    ) -> Any:
        """Encode recordings of different lengths to one padded batch.

        They are computed in groups of similar length, so that little of the time is spent on padding, and returned in
        the given order. All of them are in memory at once. On one core of a processor, ONNX Runtime encodes recordings
        one by one at least as fast (benchmarks/README.md).

        Args:
            audio: a list of recordings: each an array or a tensor `[T]`, floats in [-1, 1] or integers; the path of a
                file; or a file open for reading in binary.
            sample_rate: of arrays and tensors, in Hz; by default the codec's own. Ignored for files.
            padding: whether the codes are one array, in which `pad` follows the codes of the shorter recordings, or a
                list of the codes of each.
            layout: of the codes, as for `encode`.
            batch_size: the largest number of recordings that are computed at once.
            pad: what is in the codes where the mask is False.

        Returns:
            Codes, mask and lengths; tensors on the device of the first recording if that is a tensor.

        Raises:
            InputError: there are no recordings, or `encode` refuses one of them.
        """
        require(isinstance(audio, (list, tuple)) and len(audio) > 0, "a batch must be a list of at least one recording")
        require(batch_size > 0, f"the batch size is {batch_size}, but must be positive")
        check_layout_name(layout)
        recordings = [self._recording(item, sample_rate, number) for number, item in enumerate(audio)]
        lengths = [len(recording) for recording in recordings]
        frames = [self.config.num_frames(length) for length in lengths]
        codes = [np.zeros((0, self.tokens_per_frame), np.int64)] * len(audio)
        for group in by_length(lengths, batch_size):
            rows = self.encode(padded([recordings[number] for number in group])[:, None], layout="frames")
            for number, row in zip(group, rows, strict=True):
                codes[number] = np.asarray(row[: frames[number]])
        mask = mask_of([count * (self.tokens_per_frame if layout == "flat" else 1) for count in frames])
        shaped = [
            Codes(from_rows(array.reshape(*array.shape[:-2], -1), self.tokens_per_frame, layout), self.weight_hash)
            for array in ([padded(codes, pad)] if padding else codes)
        ]
        found = [like(audio[0], array) for array in shaped]
        return EncodedBatch(
            found[0] if padding else found, like(audio[0], mask), like(audio[0], np.array(lengths, np.int64))
        )

    def _recording(self, audio: Any, sample_rate: int | None, number: int) -> NDArray[np.float32]:
        """One recording of a batch as float32 `[T]` at the codec's own sample rate."""
        if isinstance(audio, (str, Path)) or hasattr(audio, "read"):
            return audio_files.read_audio(audio, self.sample_rate)[0]
        try:
            samples = _samples(audio)
            require(samples.ndim == 1, f"it has shape {list(samples.shape)}, but must be [T]")
        except InputError as error:
            raise InputError(f"recording {number} of the batch: {error}") from error
        rate = check_sample_rate(self.sample_rate if sample_rate is None else sample_rate)
        return resample(samples, rate, self.sample_rate)

    @overload
    def decode(
        self,
        codes: NDArray[Any] | list[int],
        length: Lengths | None = None,
        sample_rate: int | None = None,
        layout: Layout | None = None,
        mask: Any = None,
        context: int = 0,
        extend: bool = False,
    ) -> NDArray[np.float32]: ...
    @overload
    def decode(
        self,
        codes: list[NDArray[Any]] | list[list[int]],
        length: Lengths | None = None,
        sample_rate: int | None = None,
        layout: Layout | None = None,
        mask: Any = None,
        context: int = 0,
        extend: bool = False,
    ) -> list[NDArray[np.float32]]: ...
    @overload
    def decode(
        self,
        codes: "torch.Tensor",
        length: "Lengths | torch.Tensor | None" = None,
        sample_rate: int | None = None,
        layout: Layout | None = None,
        mask: Any = None,
        context: int = 0,
        extend: bool = False,
    ) -> "torch.Tensor": ...
    @overload
    def decode(
        self,
        codes: "list[torch.Tensor]",
        length: Lengths | None = None,
        sample_rate: int | None = None,
        layout: Layout | None = None,
        mask: Any = None,
        context: int = 0,
        extend: bool = False,
    ) -> "list[torch.Tensor]": ...
    def decode(
        self,
        codes: Any,
        length: Any = None,
        sample_rate: int | None = None,
        layout: Layout | None = None,
        mask: Any = None,
        context: int = 0,
        extend: bool = False,
    ) -> Any:
        """Decode codes.

        Args:
            codes: integers `[N]` or a batch `[B, N]`, or by frames `[F, K]` or `[B, F, K]`, as array or tensor; a list
                of integers; or a list of those, which are decoded one by one. N is a multiple of K, the tokens per
                frame.
            length: number of samples to return, at `sample_rate`; for a list of codes and with a mask it may be a
                sequence of numbers. By default all samples of the codes, which are a few more than were encoded.
            sample_rate: to resample to, in Hz; by default the codec's own, or with `extend` three times that.
            layout: "flat", "frames" or "codebooks_first", as in `encode`. Codes with the frames on their last axis
                always need the last. Otherwise it is needed only for two axes of which the second has length K: these
                can be a batch of single frames, or the frames of one recording.
            mask: of a padded batch, from `encode_batch`: bool `[B, N]` or `[B, F]`. Codes where it is False are
                ignored, and have no audio.
            context: the first frames of the codes that only prepare the decoder, and have no audio. `codes` are then
                frames a - context to b of a recording, and the result is about the samples from
                `a * frame_length - synthesis_delay` on, (b - a) frames of them, of the decoded whole.
            extend: whether the model's extension adds the frequencies from 8 to 20 kHz, of which the codes know
                nothing: they are estimated from those below. Needs a model with `can_extend`.

        Returns:
            float32 audio `[T]` or `[B, T]`: a tensor on the same device for a tensor, a list for a list, otherwise an
            array. With a mask, zeros follow the audio of the shorter rows.

        Raises:
            InputError: the codes end within a frame, are not in the codebook, have a wrong or ambiguous shape, hold
                fewer than `length` samples, or know that another model made them; or `length` is not a whole number.
                The mask has padding elsewhere than at the end of rows, or there are fewer frames than `context`. The
                model has no extension, or `sample_rate` is too low for one.
        """
        if isinstance(codes, list) and not (codes and isinstance(codes[0], Number)):
            lengths = _lengths(length, len(codes))
            require(mask is None, "a mask belongs to a padded batch, not to a list")
            pairs = zip(codes, lengths, strict=True)
            return [self.decode(item, n, sample_rate, layout, context=context, extend=extend) for item, n in pairs]
        check_model(codes, self.config.name, self.weight_hash)
        rows, is_batch = to_rows(to_numpy(codes), self.tokens_per_frame, layout)
        frames = -(-rows.shape[1] // self.tokens_per_frame)
        counts = np.full(len(rows), frames)
        if mask is not None:
            require(is_batch and context == 0, "a mask belongs to a padded batch, without context")
            counts = masked_frames(to_numpy(mask), len(rows), frames, self.tokens_per_frame)
            rows = np.where(np.arange(rows.shape[1]) < counts[:, None] * self.tokens_per_frame, rows, 0)
        if extend:
            check_extension(self.engine, sample_rate)
        session = StreamDecoder(self.engine, len(rows), extend=extend)
        audio = session.push(rows)
        session.flush()
        decoded, factor = session.sample_rate, session.sample_rate // self.sample_rate
        rate = decoded if sample_rate is None else check_sample_rate(sample_rate)
        audio = audio[:, factor * self._start(context, frames) :]
        ends = [
            factor * self.config.num_samples(int(count)) if mask is not None else audio.shape[1] for count in counts
        ]
        held = [-(-end * rate // decoded) for end in ends]
        lengths = _lengths(length, len(rows)) if mask is not None else [length] * len(rows)
        samples = [most if n is None else _length(n) for n, most in zip(lengths, held, strict=True)]
        for n, most in zip(samples, held, strict=True):
            require(0 <= n <= most, f"the codes hold {most} samples, not {n}")
        heard = [restore(row[:end], decoded, rate, n) for row, end, n in zip(audio, ends, samples, strict=True)]
        return like(codes, padded(heard) if is_batch else heard[0])

    def _start(self, context: int, frames: int) -> int:
        """The sample of decoded audio at which frames after a context begin.

        Raises:
            InputError: the context is not a whole number of frames from 0 to `frames`, or too few for the overlap.
        """
        if context == 0:
            return 0
        delay, size = self.config.synthesis_delay, self.frame_length
        is_whole = isinstance(context, (int, np.integer)) and 0 < context <= frames
        require(is_whole, f"the context is {context} frames, but must be from 0 to the {frames} of the codes")
        least = -(-delay // size)
        require(context >= least, f"the context is {context} frames, but must be 0 or at least {least}")
        return int(context) * size - delay

    def save(
        self,
        path: str | Path | BinaryIO,
        codes: Any,
        length: int | None = None,
        sample_rate: int | None = None,
        entropy_coding: bool = True,
    ) -> None:
        """Write the codes of one recording to a `.spt` file. If writing fails, a path keeps its earlier content.

        Args:
            path: of the file, or a binary stream.
            codes: integers `[N]` or `[F, K]`.
            length: of the original, in samples at `sample_rate`; by default all samples of the codes.
            sample_rate: of the original, in Hz; by default the codec's own.
            entropy_coding: whether the codes are compressed, if the model has an entropy model, as the released ones
                do. If not, every code takes the same number of bits.

        Raises:
            InputError: the codes do not fit this codec or `length`, or know that another model made them; or the file
                cannot be written.
        """
        check_model(codes, self.config.name, self.weight_hash)
        array = to_numpy(codes)
        require(
            array.ndim == 1 or (array.ndim == 2 and array.shape[1] == self.tokens_per_frame),
            f"a file holds the codes of one recording, [N] or [F, {self.tokens_per_frame}], not {list(array.shape)}",
        )
        rate = self.sample_rate if sample_rate is None else check_sample_rate(sample_rate)
        frames, left = divmod(array.size, self.tokens_per_frame)
        require(left == 0, f"the codes end within a frame: {left} are left over, a frame has {self.tokens_per_frame}")
        held = self.config.num_samples(frames)
        samples = held * rate // self.sample_rate if length is None else _length(length)
        header = self.header(rate, samples, entropy_coding)
        self.check_header(header, frames)
        write_spt(path, header, array.reshape(-1))

    def load(self, path: str | Path | BinaryIO) -> "Recording":
        """Read a `.spt` file with codes of this codec; `tokenizer.decode(*tokenizer.load(path))` decodes it.

        Args:
            path: of the file, or a binary stream.

        Raises:
            InputError: the file cannot be read, is damaged, or has codes of another codec or a wrong number of them.
        """
        header, codes = read_spt(path, self.check_codes)
        self.check_header(header, len(codes) // header.tokens_per_frame, file_name(path))
        assert header.num_samples is not None  # `read_spt` refuses unfinished files
        return Recording(Codes(codes, self.weight_hash), header.num_samples, header.sample_rate)

    def header(self, sample_rate: int, num_samples: int | None, entropy_coding: bool = True) -> Header:
        """The header for a .spt file with codes of this codec. It names the model only if it is not a released one.

        Args:
            sample_rate: of the original audio, in Hz.
            num_samples: of the original audio; None while it is not known.
            entropy_coding: as in `save`.
        """
        is_coded = entropy_coding and self.entropy_id and pretrained.entropy_model(self.entropy_id, self.weight_hash)
        return Header(
            model="" if pretrained.named(self.weight_hash) else self.config.name,
            weight_hash=self.weight_hash,
            sample_rate=sample_rate,
            num_samples=num_samples,
            codebook_size=self.codebook_size,
            tokens_per_frame=self.tokens_per_frame,
            entropy_id=self.entropy_id if is_coded else "",
        )

    def check_codes(self, header: Header) -> None:
        """Check that a file's codes were made by this codec.

        Args:
            header: of the file.

        Raises:
            InputError: the codes were made by another model or other weights, or have another size.
        """
        ours = self.config.name
        theirs = header.model or pretrained.named(header.weight_hash)
        if header.weight_hash != self.weight_hash or header.model not in ("", ours):
            raise InputError(other_model(theirs, header.weight_hash, ours, self.weight_hash))
        check_layout(header, self.config)

    def check_header(self, header: Header, num_frames: int, what: str = "the recording") -> None:
        """Check that a file's codes were made by this codec, and that their number fits the number of samples.

        Args:
            header: of the file, with its num_samples.
            num_frames: number of frames in the file.
            what: what to call the file in a message about the number of frames.

        Raises:
            InputError: as for `check_codes`, or the number of frames is wrong.
        """
        self.check_codes(header)
        samples = header.num_samples or 0
        expected = self.config.num_frames(-(-samples * self.sample_rate // header.sample_rate))
        require(num_frames == expected, f"{what} holds {num_frames} frames, but its {samples} samples need {expected}")


def check_layout(header: Header, config: CodecConfig) -> None:
    """Check that a file's codes have the codebook size and the number per frame of a codec.

    Raises:
        InputError: they have others.
    """
    tokens, size = config.quantizer.tokens_per_frame, config.quantizer.codebook_size
    if (header.codebook_size, header.tokens_per_frame) != (size, tokens):
        raise InputError(
            f"the codes are {header.tokens_per_frame} a frame from a codebook of {header.codebook_size}, "
            f"but those of {config.name} are {tokens} from one of {size}"
        )


def _samples(audio: Any) -> NDArray[Any]:
    """Audio `[T]`, or `[B, T]` for `[B, T]` or `[B, 1, T]`, as an array; InputError if it is not audio."""
    for kind, sentence in NO_AUDIO.items():
        require(not isinstance(audio, kind), f"the audio is {sentence}")
    given = to_numpy(audio)
    samples = given[:, 0] if given.ndim == 3 and given.shape[1] == 1 else given
    check_audio(samples, dims=(1, 2))
    require(
        given.ndim != 2 or samples.shape[1] > MOST_CHANNELS or samples.shape[1] >= samples.shape[0],
        f"the audio has shape {list(samples.shape)}; a batch is [B, T], and channels, the second axis of [T, C], "
        "are mixed with spectok.audio.to_mono",
    )
    return samples


def _length(length: Any) -> int:
    try:
        return as_int(length)
    except TypeError as error:
        shown = " ".join(str(length).split())[:40]
        raise InputError(f"the length must be one whole number of samples, not {shown}") from error


def _lengths(length: Any, items: int) -> list[Any]:
    """One length for each of some items, from one for all or a sequence."""
    try:
        lengths = list(length)
    except TypeError:
        return [length] * items
    require(len(lengths) == items, f"there are {len(lengths)} lengths for {items} lists of codes")
    return lengths
