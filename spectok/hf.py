"""The codec behind the interfaces of Hugging Face's packages Transformers and Datasets.

    from spectok.hf import SpectokProcessor

    processor = SpectokProcessor(model="spectok-16k-4k")
    inputs = processor(audio, sampling_rate=16000)
    codes, mask, lengths = processor.encode(**inputs)
    audio = processor.batch_decode(codes, mask, lengths)

It needs `pip install "spectok[hf]"`. Importing it registers both classes, so that `AutoProcessor` and
`AutoFeatureExtractor` find them. Nothing is downloaded, and no code from a folder is run.
"""

import io
import json
from numbers import Number
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from spectok import pretrained
from spectok.arrays import like, to_numpy
from spectok.audio import read_audio
from spectok.batching import EncodedBatch, masked_frames
from spectok.codes import Layout
from spectok.errors import InputError, require
from spectok.files import write_text
from spectok.resampling import resample
from spectok.samples import check_audio, check_sample_rate
from spectok.tokenizer import Tokenizer

try:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoProcessor,
        BatchFeature,
        PretrainedConfig,
        ProcessorMixin,
        SequenceFeatureExtractor,
    )
except ModuleNotFoundError as error:
    raise InputError(f"spectok.hf needs Transformers: pip install 'spectok[hf]' ({error})") from error

CODEC = "codec"  # the folder, in that of a saved processor, with the model
PROCESSOR_FILE = "processor_config.json"  # the file in which AutoProcessor looks for the name of the class


class SpectokConfig(PretrainedConfig):
    """Registers the name "spectok" with Transformers. The configuration of a codec is `spectok.config.CodecConfig`."""

    model_type = "spectok"


class SpectokFeatureExtractor(SequenceFeatureExtractor):
    """Pads recordings to a batch, as the feature extractors of EnCodec and DAC do.

    Args:
        feature_size: the number of channels, which is 1.
        sampling_rate: of the codec, in Hz.
        padding_value: what follows the shorter recordings.
        kwargs: further arguments of `SequenceFeatureExtractor`.
    """

    model_input_names = ("input_values", "padding_mask")

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(
        self,
        raw_audio: Any,
        padding: Any = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> Any:
        """Make a batch.

        Args:
            raw_audio: one recording `[T]` as array, tensor or list of numbers, or a list of those.
            padding: True or "longest", "max_length", or False for no padding.
            truncation: whether recordings longer than `max_length` are cut.
            max_length: in samples.
            return_tensors: "np", "pt", or None for numpy.
            sampling_rate: of the audio, in Hz; it must be that of the codec.

        Returns:
            A `BatchFeature` with "input_values", float32 `[B, 1, T]`, and "padding_mask", int32 `[B, T]`, 1 where
            there is audio. Without padding both are lists of one array per recording.

        Raises:
            InputError: the sample rate is not that of the codec, or a recording is empty, not finite or not `[T]`.
        """
        require(
            sampling_rate in (None, self.sampling_rate),
            f"the audio has a sample rate of {sampling_rate} Hz, but the codec of {self.sampling_rate} Hz; resample it",
        )
        items = raw_audio if isinstance(raw_audio, (list, tuple)) else [raw_audio]
        if items and isinstance(items[0], Number):
            items = [items]
        require(len(items) > 0, "the batch has no recordings")
        recordings = [check_audio(to_numpy(item), f"recording {number}") for number, item in enumerate(items)]
        batch = self.pad(
            BatchFeature({"input_values": recordings}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            return_attention_mask=True,
        )
        values = [np.asarray(row, np.float32)[None] for row in batch["input_values"]]
        masks = [np.asarray(row, np.int32) for row in batch["attention_mask"]]
        if len({row.shape for row in values}) == 1:
            return BatchFeature(
                {"input_values": np.stack(values), "padding_mask": np.stack(masks)}, tensor_type=return_tensors
            )
        require(return_tensors is None, "recordings of different lengths need padding to become tensors")
        return BatchFeature({"input_values": values, "padding_mask": masks})


class SpectokProcessor(ProcessorMixin):
    """A feature extractor together with the codec.

    Args:
        feature_extractor: by default one at the codec's sample rate.
        model: a name from `spectok.models()`, or the path of a model's folder.
        device: as in `Tokenizer.from_pretrained`.
        engine: as in `Tokenizer.from_pretrained`.
        threads: as in `Tokenizer.from_pretrained`.

    Raises:
        InputError: there is no such model, engine or device, or the feature extractor has another sample rate.
    """

    def __init__(
        self,
        feature_extractor: SpectokFeatureExtractor | None = None,
        model: str | Path = pretrained.DEFAULT,
        device: str = "cpu",
        engine: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = pretrained.find(model)
        self.codec = Tokenizer.from_pretrained(model, device, engine, threads)
        rate = self.codec.sample_rate
        super().__init__(feature_extractor or SpectokFeatureExtractor(sampling_rate=rate))  # type: ignore[no-untyped-call]
        ours = self.feature_extractor.sampling_rate
        require(ours == rate, f"the feature extractor has a sample rate of {ours} Hz, but the codec of {rate} Hz")

    def __call__(self, audio: Any, **kwargs: Any) -> Any:
        """Make a batch, as `SpectokFeatureExtractor` does, with its arguments and results."""
        return self.feature_extractor(audio, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.codec.config.name} with {self.feature_extractor}"

    def encode(
        self, input_values: Any, padding_mask: Any = None, layout: Layout = "codebooks_first"
    ) -> EncodedBatch[Any, Any]:
        """Encode a batch.

        Args:
            input_values: `[B, 1, T]` or `[B, T]`, as array or tensor; or a list of `[1, T]` or `[T]`.
            padding_mask: 1 or True where there is audio, from the start of each row; by default everywhere.
            layout: of the codes, as in `Tokenizer.encode`; by default `[B, K, F]`.

        Returns:
            Codes, mask and lengths, as `Tokenizer.encode_batch` returns them.

        Raises:
            InputError: a shape is wrong, or the padding is not at the end of a row.
        """
        masks = [None] * len(input_values) if padding_mask is None else padding_mask
        require(len(masks) == len(input_values), f"there are {len(masks)} masks for {len(input_values)} recordings")
        recordings = []
        for number, (values, mask) in enumerate(zip(input_values, masks, strict=True)):
            samples = to_numpy(values)
            samples = samples[0] if samples.ndim == 2 and len(samples) == 1 else samples
            if mask is not None:
                kept = to_numpy(mask).astype(bool)
                length = int(kept.sum())
                fits = kept.shape == samples.shape and bool(kept[:length].all())
                require(fits, f"the padding of recording {number} is not at its end, or its mask has another shape")
                samples = samples[:length]
            recordings.append(like(values, samples))
        found: Any = self.codec.encode_batch(recordings, layout=layout)
        return cast("EncodedBatch[Any, Any]", found)

    def batch_decode(
        self, codes: Any, mask: Any = None, lengths: Any = None, layout: Layout = "codebooks_first"
    ) -> list[NDArray[np.float32]]:
        """Decode a batch.

        Args:
            codes: from `encode`, in the same layout, as array or tensor.
            mask: from `encode`; by default all codes are of recordings.
            lengths: the numbers of samples to return, from `encode`; by default all samples of the codes.
            layout: of the codes.

        Returns:
            A float32 array `[T]` for each recording.

        Raises:
            InputError: the arguments do not fit each other, or the codes are not of this codec.
        """
        first: Layout = "flat" if layout == "flat" else "frames"
        array = np.asanyarray(codes) if isinstance(codes, np.ndarray) else to_numpy(codes)
        require(array.ndim == (2 if layout == "flat" else 3), f"codes must be a batch, not {list(array.shape)}")
        rows = array.swapaxes(1, 2) if layout == "codebooks_first" else array
        if mask is None:
            counts = [rows.shape[1]] * len(rows)
        else:  # for each row of `rows`: a code if they are flat, else a frame
            counts = masked_frames(to_numpy(mask), len(rows), rows.shape[1], 1).tolist()
        items: Any = [row[:count] for row, count in zip(rows, counts, strict=True)]
        wanted = None if lengths is None else to_numpy(lengths).tolist()
        heard: list[NDArray[np.float32]] = self.codec.decode(items, wanted, layout=first)
        return heard

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the processor and its model into a folder that needs nothing else.

        Args:
            save_directory: the folder, which is made if it does not exist.
            push_to_hub: not supported; upload the folder.
            kwargs: not used.

        Returns:
            The paths of the files.

        Raises:
            InputError: the files of the model cannot be read, or `push_to_hub` is true.
        """
        require(not push_to_hub, "spectok uploads nothing; upload the folder that save_pretrained writes")
        names = [name for name in pretrained.FILES if (self.model.folder / name).is_file()]
        contents = {name: self.model.read(name) for name in names}
        folder = Path(save_directory)
        (folder / CODEC).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / CODEC / name).write_bytes(content)
        written = self.feature_extractor.save_pretrained(folder)
        write_text(folder / PROCESSOR_FILE, json.dumps({"processor_class": type(self).__name__}, indent=2) + "\n")
        return [*written, str(folder / PROCESSOR_FILE), *(str(folder / CODEC / name) for name in contents)]

    @classmethod
    def from_pretrained(  # type: ignore[override]  # nothing is downloaded, so that most arguments mean nothing
        cls,
        pretrained_model_name_or_path: str | Path,
        device: str = "cpu",
        engine: str | None = None,
        threads: int | None = None,
        **kwargs: Any,
    ) -> "SpectokProcessor":
        """Load a processor from the folder of `save_pretrained`, or make one for a released model.

        Args:
            pretrained_model_name_or_path: the folder, or a name from `spectok.models()`.
            device: as in `Tokenizer.from_pretrained`.
            engine: as in `Tokenizer.from_pretrained`.
            threads: as in `Tokenizer.from_pretrained`.
            kwargs: what `AutoProcessor` passes, which is not used: nothing is downloaded.

        Raises:
            InputError: there is no such folder or model, or a file is damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / CODEC).is_dir():
            return cls(None, pretrained_model_name_or_path, device, engine, threads)
        extractor = SpectokFeatureExtractor.from_pretrained(folder, local_files_only=True)
        return cls(extractor, folder / CODEC, device, engine, threads)


class TokenizeAudio:
    """A function for `datasets.Dataset.map` that adds a column of codes, with `batched=True` and without.

        dataset = dataset.map(TokenizeAudio(tokenizer), batched=True, batch_size=16, remove_columns="audio")

    Datasets finds its result in the cache again when the model and the arguments are the same.

    Args:
        tokenizer: the codec.
        column: with the audio: decoded by Datasets, or as its bytes or path (`Audio(decode=False)`), or the path of a
            file, or samples as a list of numbers.
        codes_column: to add.
        sampling_rate: of samples that come without one, in Hz; by default the codec's own.
        layout: of the codes of a recording: "flat" for `[N]`, "frames" for `[F, K]`, "codebooks_first" for `[K, F]`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        column: str = "audio",
        codes_column: str = "codes",
        sampling_rate: int | None = None,
        layout: Layout = "flat",
    ) -> None:
        self.tokenizer, self.column, self.codes_column = tokenizer, column, codes_column
        self.sampling_rate, self.layout = sampling_rate, layout

    def __call__(self, examples: Any) -> dict[str, Any]:
        """The codes of an example, or of a batch of examples.

        Raises:
            InputError: there is no such column, or a recording cannot be read or encoded.
        """
        require(self.column in examples, f"the dataset has no column {self.column!r}")
        value = examples[self.column]
        is_batch = isinstance(value, list) and not (value and isinstance(value[0], Number))
        items = value if is_batch else [value]
        if not items:
            return {self.codes_column: []}
        audio = [self._samples(item) for item in items]
        found = self.tokenizer.encode_batch(audio, padding=False, layout=self.layout)
        codes = [np.asarray(row) for row in found.codes]
        return {self.codes_column: codes if is_batch else codes[0]}

    def _samples(self, value: Any) -> NDArray[np.float32]:
        """Float32 `[T]` at the codec's sample rate."""
        ours = self.tokenizer.sample_rate
        rate = ours if self.sampling_rate is None else self.sampling_rate
        if hasattr(value, "get_all_samples"):  # the decoder of an audio file, from Datasets 4 on
            decoded = value.get_all_samples()
            value, rate = to_numpy(decoded.data).mean(axis=0), decoded.sample_rate
        elif isinstance(value, dict) and value.get("array") is not None:
            value, rate = value["array"], value.get("sampling_rate") or rate
        elif isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            require(content is not None or path is not None, "a recording has neither samples, bytes nor a path")
            value = path if content is None else io.BytesIO(content)
        if isinstance(value, (str, Path)) or hasattr(value, "read"):
            return read_audio(value, ours)[0]
        return resample(check_audio(to_numpy(value), "a recording"), check_sample_rate(rate), ours)


AutoConfig.register(SpectokConfig.model_type, SpectokConfig, exist_ok=True)
AutoFeatureExtractor.register(SpectokConfig, SpectokFeatureExtractor, exist_ok=True)
AutoProcessor.register(SpectokConfig, SpectokProcessor, exist_ok=True)
