"""Finds models by name or folder.

A model is a folder with `config.json`, the weights `model.safetensors` and, if `spectok export` has written them, the
graphs `encoder.onnx` and `decoder.onnx`, which refer to the weights in `model.safetensors`. `entropy.dat`, if there is
one, is the entropy model with which files of its codes are compressed (recipes/entropy.py). A folder inside it can hold
another encoder for the same codes: `robust/` has `config.json`, `model.safetensors` with those weights of the encoder
that differ from the model's, and `encoder.onnx`. Released models are inside the package, listed in `index.toml` with
the SHA-256 of these files. `extension.safetensors` and `extension.onnx`, if they exist, extend decoded speech to 20 kHz
(recipes/extension.py). Nothing is downloaded or unpickled.
"""

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spectok.config import EXTENSION_FACTOR, NAME, CodecConfig
from spectok.entropy import EntropyModel
from spectok.errors import InputError, require
from spectok.files import read_regular, write_text
from spectok.graphs import EXTENSION_WEIGHTS, WEIGHTS, check_graph

PACKAGED = Path(__file__).parent / "_pretrained"  # in the wheel
CHECKOUT = Path(__file__).parent.parent / "pretrained"  # in a source tree
DEFAULT = "spectok-16k-4k"
ENCODER = "[a-z]{1,32}"  # names of further encoders; the index lists them as <model>/<encoder>
EXTENSION_GRAPH = "extension.onnx"
# Files in the index:
FILES = ("config.json", WEIGHTS, "encoder.onnx", "decoder.onnx", "entropy.dat", EXTENSION_WEIGHTS, EXTENSION_GRAPH)
MAX_FILE_BYTES = 1_000_000_000  # of each of them
MAX_INDEX_BYTES, MAX_INDEX_LINE = 50_000, 200  # in bytes; the time to parse a line grows with the square of its dots


@dataclass(frozen=True)
class Model:
    """A model on disk."""

    config: CodecConfig
    folder: Path
    sha256: str  # of model.safetensors, 64 hexadecimal digits; empty before it is computed
    index: dict[str, str] = field(default_factory=dict)  # SHA-256 of each file; empty if the model is not released

    @property
    def weights(self) -> Path:
        """The path of the weights."""
        return self.folder / WEIGHTS

    @property
    def weight_hash(self) -> str:
        """The first 16 hexadecimal digits of the hash, which .spt files contain."""
        return self.sha256[:16]

    @property
    def has_graphs(self) -> bool:
        """Whether the folder has `encoder.onnx` and `decoder.onnx`."""
        return all(self.has_graph(side) for side in ("encoder", "decoder"))

    def has_graph(self, side: str) -> bool:
        """Whether the folder has the graph of one side, "encoder" or "decoder", or "extension"."""
        return (self.folder / f"{side}.onnx").is_file()

    @property
    def has_extension(self) -> bool:
        """Whether the folder has the weights of an extension to 20 kHz."""
        return (self.folder / EXTENSION_WEIGHTS).is_file()

    @property
    def entropy_id(self) -> str:
        """The id of the model's entropy model; empty if it has none."""
        if self.index:
            return self.index.get("entropy.dat", "")[:8]
        model = self.entropy_model()
        return model.id if model else ""

    def entropy_model(self) -> EntropyModel | None:
        """The model's entropy model, which files that name it can be read with from now on; None if it has none.

        Raises:
            InputError: as in `read`, or it is of another codebook.
        """
        path, quantizer = self.folder / "entropy.dat", self.config.quantizer
        if not path.is_file():
            return None
        content = self.read(path.name)
        try:
            model = EntropyModel.from_bytes(content, quantizer.tokens_per_frame)
        except InputError as error:
            raise InputError(f"cannot read {path}: {error}") from error
        require(model.codebook_size == quantizer.codebook_size, f"{path} is of another codebook")
        _entropy_models[model.id] = model
        return model

    def read(self, file: str) -> bytes:
        """The content of one of `FILES`.

        Raises:
            InputError: the file cannot be read, is not a regular file or has over 1 GB; its hash is not the one in the
                index; the weights have changed; or a graph has frames of another size than the configuration.
        """
        path = self.folder / file
        content = read_regular(path, MAX_FILE_BYTES)
        if self.index:
            is_named = hashlib.sha256(content).hexdigest() == self.index.get(file)
            require(is_named, f"the file {path} is damaged: its SHA-256 is not the one that index.toml names")
        elif path == self.weights and self.sha256:
            is_same = hashlib.sha256(content).hexdigest() == self.sha256
            require(is_same, f"the file {path} has changed since the model was found")
        if path.suffix == ".onnx":
            try:
                if file == EXTENSION_GRAPH:
                    check_graph(content, EXTENSION_FACTOR * self.config.spectrum.hop_length)
                else:
                    check_graph(content, self.config.frame_length, self.config.quantizer.tokens_per_frame)
            except ValueError as error:
                raise InputError(f"cannot read {path}: {error}") from error
        return content


_entropy_models: dict[str, EntropyModel] = {}  # those that were read, by their ids


def entropy_model(entropy_id: str, weight_hash: str) -> EntropyModel | None:
    """The entropy model with this id: that of a model that was found before, or of the released one of these weights.

    Args:
        entropy_id: `EntropyModel.id`.
        weight_hash: 16 hexadecimal digits.
    """
    if entropy_id not in _entropy_models and (name := named(weight_hash)):
        find(name).entropy_model()
    return _entropy_models.get(entropy_id)


def root() -> Path:
    """The folder that holds the released models and their index."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def models() -> list[str]:
    """Names of the released models."""
    return sorted(name for name in read_index(root()) if "/" not in name)


def named(weight_hash: str) -> str | None:
    """The name of the released model whose weights have this hash, 16 hexadecimal digits; None if there is none."""
    index = read_index(root())
    return next((name for name in models() if index[name].get(WEIGHTS, "").startswith(weight_hash)), None)


def find(name_or_folder: str | Path = DEFAULT) -> Model:
    """Find a released model by name, or any model by its folder.

    Raises:
        InputError: there is no such model, a file is missing, or the hash of the configuration is not the one in the
            index. The hash of the weights is checked when an engine reads them.
    """
    index = read_index(root())
    released = str(name_or_folder) in models()
    folder = root() / str(name_or_folder) if released else Path(name_or_folder)
    if not os.path.isdir(folder):  # unlike Path.is_dir, also False for names that are too long
        raise InputError(f"there is no model '{name_or_folder}'; known are {', '.join(models())}, or give a folder")
    return _found(folder, index[str(name_or_folder)] if released else {})


def find_encoder(model: Model, name: str) -> Model:
    """Find another encoder for the codes of a model: the folder of this name inside the model's.

    Raises:
        InputError: there is no such encoder, it is of another codec, or as in `find`.
    """
    folder, known = model.folder / name, encoders(model)
    if name not in known:
        others = f"it has {', '.join(map(repr, known))}" if known else "it has none but its own"
        raise InputError(f"the model {model.config.name} has no encoder {name!r:.50}; {others}")
    index = read_index(model.folder.parent)[f"{model.folder.name}/{name}"] if model.index else {}
    encoder = _found(folder, index)
    own = {name: getattr(model.config, name) for name in ("leveller", "denoiser_hidden")}
    is_same = replace(encoder.config, **own) == model.config
    require(is_same, f"the encoder {folder} is of another codec than {model.folder}")
    return encoder


def encoders(model: Model) -> list[str]:
    """Names of the further encoders of a model."""
    if model.index:
        known = [name.partition("/") for name in read_index(model.folder.parent)]
        return sorted(encoder for name, _, encoder in known if encoder and name == model.folder.name)
    folders = (path.parent.name for path in model.folder.glob("*/config.json"))
    return sorted(name for name in folders if re.fullmatch(ENCODER, name))


def _found(folder: Path, index: dict[str, str]) -> Model:
    """The model, or further encoder, in a folder, with the hashes that the index has of it."""
    model = Model(CodecConfig.load(folder / "config.json"), folder, "", index)
    model.read("config.json")  # checks its hash
    return replace(model, sha256=model.index.get(WEIGHTS) or hashlib.sha256(model.read(WEIGHTS)).hexdigest())


def read_index(folder: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of the files of each released model and encoder in a folder; empty if there is no index.

    Raises:
        InputError: the index cannot be read, is not a regular file, has over 50 kB or a line of over 200 bytes, or
            holds anything but such hashes.
    """
    path = folder / "index.toml"
    if not path.exists():
        return {}
    try:
        content = read_regular(path, MAX_INDEX_BYTES)
        longest = max(map(len, content.splitlines()), default=0)
        require(longest <= MAX_INDEX_LINE, f"{path} has a line of {longest} bytes, over {MAX_INDEX_LINE}")
        index: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    for name, hashes in index.items():
        are_hashes = isinstance(hashes, dict) and all(
            file in FILES and isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
            for file, sha256 in hashes.items()
        )
        is_name = re.fullmatch(f"{NAME}(/{ENCODER})?", name) is not None
        require(is_name and are_hashes, f"{path} has no SHA-256 of files for {name!r:.80}")
    return index


def write_index(folder: Path, name: str) -> None:
    """Update the hashes of one model, or further encoder, in the index."""
    index = read_index(folder)
    paths = [path for path in (folder / name / file for file in FILES) if path.is_file()]
    index[name] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    lines = []
    for model, hashes in sorted(index.items()):
        lines += [f'["{model}"]', *(f'"{file}" = "{sha256}"' for file, sha256 in hashes.items()), ""]
    write_text(folder / "index.toml", "\n".join(lines))
