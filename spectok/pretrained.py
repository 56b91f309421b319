"""From a name or a folder to a configuration and weights.

A model is a folder with `config.json` and `model.safetensors`. Released ones are inside the package, listed in
`index.toml` with the SHA-256 of their weights; nothing is ever downloaded and nothing is unpickled.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from spectok.config import CodecConfig
from spectok.errors import InputError

PACKAGED = Path(__file__).parent / "_pretrained"  # in the wheel
CHECKOUT = Path(__file__).parent.parent / "pretrained"  # in a source tree
DEFAULT = "spectok-16k-4k"


@dataclass(frozen=True)
class Model:
    """A model on disk whose weights have been verified."""

    config: CodecConfig
    weights: Path  # model.safetensors
    sha256: str  # of the weights, 64 hexadecimal digits

    @property
    def weight_hash(self) -> str:
        """The first 16 hexadecimal digits of the hash: what a .spt file records."""
        return self.sha256[:16]


def root() -> Path:
    """The folder that holds the released models and their index."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def names() -> list[str]:
    """Names of the released models."""
    return sorted(_index())


def find(name_or_folder: str | Path = DEFAULT) -> Model:
    """Find a released model by name, or any model by its folder.

    Raises:
        InputError: there is no such model, a file is missing, or the weights are not the ones the index names.
    """
    index = _index()
    released = str(name_or_folder) in index
    folder = root() / str(name_or_folder) if released else Path(name_or_folder)
    if not folder.is_dir():
        raise InputError(
            f"there is no model '{name_or_folder}'; known are {', '.join(sorted(index))}, or give a folder"
        )
    config = CodecConfig.load(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the weights {weights}: {error.strerror}") from error
    if released and sha256 != index[str(name_or_folder)]:
        raise InputError(f"the weights {weights} are damaged: their SHA-256 is not the one that index.toml names")
    return Model(config, weights, sha256)


def _index() -> dict[str, str]:
    try:
        table = tomllib.loads((root() / "index.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: entry["sha256"] for name, entry in table.items()}
