"""Strict reading and changing of nested dataclasses of plain values: configs, manifests, states.

An unknown path, a missing one or a value of another type is an error that names the path.
"""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mindeye_dist.errors import InputError

C = TypeVar("C")


def check(holds: bool, path: str, got: object, expected: str) -> None:
    """Raise a ValueError that names the path, what was given and what was expected."""
    if not holds:
        raise InputError(f"{path}: got {got!r}, expected {expected}")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested dicts of plain values."""
    return dataclasses.asdict(config)


def from_dict(cls: type[C], values: Mapping[str, Any], path: str = "") -> C:
    """Rebuild a config from `to_dict`'s output.

    Raises:
        InputError: a key is unknown, missing, or its value has another type; the message names the
            path.
    """
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise InputError(f"unknown config keys: {', '.join(path + key for key in unknown)}")
    if missing := sorted(set(hints) - set(values)):
        raise InputError(f"missing config keys: {', '.join(path + key for key in missing)}")
    return cls(**{key: _typed(hints[key], value, path + key) for key, value in values.items()})


def override(config: C, changes: Mapping[str, Any]) -> C:
    """Return the config with values replaced by dotted path, e.g. `{"optimizer.max_lr": 1e-3}`.

    Raises:
        InputError: a path does not exist or a value has the wrong type.
    """
    values = to_dict(config)
    for path, value in changes.items():
        *sections, key = path.split(".")
        node = values
        for section in sections:
            node = node.get(section, {})
            if not isinstance(node, dict):
                node = {}
        if key not in node or isinstance(node[key], dict):
            near = get_close_matches(path, paths(config), n=1)
            hint = f"; there is {near[0]}" if near else ""
            raise InputError(f"{path}: no such setting{hint}")
        node[key] = value
    return from_dict(type(config), values)


def paths(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting as a flat dict from dotted path to value."""
    flat: dict[str, Any] = {}
    for key, value in to_dict(config).items() if not isinstance(config, dict) else config.items():
        if isinstance(value, dict):
            flat |= paths(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _typed(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{path}: got {value!r}, expected a section")
        return from_dict(hint, value, f"{path}.")
    if get_origin(hint) is dict:
        check(isinstance(value, Mapping), path, value, "a mapping")
        return {
            key: _typed(get_args(hint)[1], item, f"{path}.{key}") for key, item in value.items()
        }
    if get_origin(hint) is tuple:
        check(isinstance(value, list | tuple), path, value, "a list")
        return tuple(
            _typed(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value)
        )
    if get_origin(hint) is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in get_args(hint))
        check(fits, path, value, f"one of {get_args(hint)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(type(value) is hint, path, value, hint.__name__)
    return value
