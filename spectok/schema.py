"""Builds dataclasses from plain data. An unknown key, a wrong type or an impossible value raises an `InputError`."""

import dataclasses
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from spectok.errors import InputError, require

T = TypeVar("T")


def read_recipe(path: str | Path, overrides: Sequence[str], further: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The table of a TOML file, with `key.path=value` overrides; a value that is not TOML is a string.

    Args:
        path: of the file.
        overrides: replace single values.
        further: more TOML files, whose values replace those of the files before, and are replaced by `overrides`.

    Raises:
        InputError: a file cannot be read, an override has no `=`, or it goes through a value as if that were a table.
    """
    data: dict[str, Any] = {}
    for file in (path, *further):
        try:
            _merge(data, tomllib.loads(Path(file).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the recipe {file}: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        require(bool(equals), f"--set takes key=value, not '{override}'")
        *parents, leaf = key.split(".")
        table: dict[str, Any] = data
        for parent in parents:
            table = table.setdefault(parent, {})
            require(isinstance(table, dict), f"--set {key}: '{parent}' is a value, not a table")
        try:
            table[leaf] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[leaf] = text
    return data


def _merge(data: dict[str, Any], other: dict[str, Any]) -> None:
    """Put the values of a table into another one; tables in both are merged."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build a (nested) dataclass from plain data, strictly.

    Args:
        cls: the dataclass.
        data: a mapping whose keys are fields; missing keys keep their defaults.
        where: what to call the data in an error.

    Raises:
        InputError: a key is unknown, a value has the wrong type, or the dataclass rejects it.
    """
    require(isinstance(data, dict), f"{where} must be a table of keys, not {data!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        require(key in fields, f"{where} has the unknown key '{key}'; known are {', '.join(sorted(fields))}")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin is Literal:
        require(value in args, f"{where} is {value!r}, but must be one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{where} is {value!r}, but must be a list")
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        require(len(inner) == len(value), f"{where} has {len(value)} values, but must have {len(inner)}")
        return tuple(_convert(kind, item, where) for kind, item in zip(inner, value, strict=True))
    if origin is dict:
        require(isinstance(value, dict), f"{where} must be a table of keys, not {value!r}")
        return {key: _convert(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        require(abs(value) < 10**300, f"{where} is too large a number")
        return float(value)
    require(type(value) is hint, f"{where} is {value!r}, but must be of type {hint.__name__}")
    require(hint is not int or abs(value) < 2**63, f"{where} is too large a number")
    return value
