"""Strict reading and changing of nested dataclasses of plain values: configs, manifests, records.

An unknown path, a missing one or a value of another type is an error that names the path. Files of
earlier versions are read too: `from_stored` applies the changes since their format.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mindeye_dist.errors import InputError

C = TypeVar("C")


def check(holds: bool, path: str, got: object, expected: str) -> None:
    """Raise an InputError that names path, given value and expected value, unless `holds`."""
    if not holds:
        raise InputError(f"{path}: got {got!r}, expected {expected}")


def check_counts(section: str, values: object, *names: str) -> None:
    """Raise an InputError unless these settings of a section are at least 1."""
    for name in names:
        check(getattr(values, name) >= 1, f"{section}.{name}", getattr(values, name), "at least 1")


def check_fractions(section: str, values: object, *names: str) -> None:
    """Raise an InputError unless these settings of a section are from 0 to 1."""
    for name in names:
        check(0 <= getattr(values, name) <= 1, f"{section}.{name}", getattr(values, name), "0..1")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested dicts of plain values."""
    return dataclasses.asdict(config)


def from_dict(
    cls: type[C], values: Mapping[str, Any], path: str = "", *, partial: bool = False
) -> C:
    """Rebuild a dataclass from `to_dict`'s output.

    Args:
        cls: the dataclass.
        values: its fields by name.
        path: dotted path of the dataclass, for messages.
        partial: take the default of a field that is missing, if the field has one.

    Raises:
        InputError: a key is unknown, missing, or its value has another type; names the path.
    """
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise InputError(f"unknown config keys: {', '.join(path + key for key in unknown)}")
    optional = {f.name for f in dataclasses.fields(cls) if _has_default(f)} if partial else set()  # type: ignore[arg-type]
    if missing := sorted(set(hints) - set(values) - optional):
        raise InputError(f"missing config keys: {', '.join(path + key for key in missing)}")
    return cls(
        **{key: _typed(hints[key], value, path + key, partial) for key, value in values.items()}
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of the settings in a kind of stored file, by dotted path.

    Attributes:
        format: format number from which the change holds; files without a number have format 0.
        renamed: new path of each renamed setting.
        removed: value of each removed setting at which nothing is lost with it.
        added: value of each new setting that keeps the behaviour before the change, if the
            setting's default does not.
    """

    format: int
    renamed: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)


def to_stored(config: Any, changes: Sequence[Change]) -> dict[str, Any]:
    """Return `to_dict`'s output with the newest format number, to be read by `from_stored`."""
    return {"format": _newest(changes), **to_dict(config)}


def from_stored(
    cls: type[C], values: Mapping[str, Any], changes: Sequence[Change], *, drop: bool = False
) -> C:
    """Rebuild a dataclass from `to_stored`'s output of this version or an earlier one.

    A setting that is newer than the file takes its default, or the value in `Change.added`.

    Args:
        cls: the dataclass.
        values: the stored file.
        changes: all changes since format 0, in order.
        drop: leave out removed settings that were in use, instead of raising.

    Raises:
        InputError: as `from_dict`; the format is newer than this version; or a removed setting was
            in use.
    """
    newest, stored = _newest(changes), values.get("format", 0)
    known = type(stored) is int and 0 <= stored <= newest
    check(known, "format", stored, f"at most {newest}; a newer version wrote the file")
    lost = removed_in_use(values, changes)
    if lost and not drop:
        raise InputError(
            f"this version no longer has {', '.join(f'{k} (was {v!r})' for k, v in lost.items())}"
        )
    tree = copy.deepcopy(dict(values))
    tree.pop("format", None)
    for change in (change for change in changes if change.format > stored):
        for old, new in change.renamed.items():
            _put(tree, new, _take(tree, old))
        for path in change.removed:
            _take(tree, path)
        for path, value in change.added.items():
            _put(tree, path, value)
    return from_dict(cls, tree, partial=True)


def removed_in_use(values: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """Return the settings of a stored file that were removed since but had an effect, by path."""
    flat, stored = paths(dict(values)), values.get("format", 0)
    return {
        path: flat[path]
        for change in changes
        if change.format > stored
        for path, neutral in change.removed.items()
        if path in flat and flat[path] != neutral
    }


def _newest(changes: Sequence[Change]) -> int:
    return max((change.format for change in changes), default=0)


_MISSING = object()


def _take(tree: dict[str, Any], path: str) -> Any:
    """Remove and return the value at a dotted path, _MISSING if there is none."""
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.get(section, {})
    return tree.pop(key, _MISSING)


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path, making its sections; not if the value is _MISSING."""
    *sections, key = path.split(".")
    if value is not _MISSING:
        for section in sections:
            tree = tree.setdefault(section, {})
        tree.setdefault(key, value)


def _has_default(each: dataclasses.Field[Any]) -> bool:
    return each.default is not dataclasses.MISSING or (
        each.default_factory is not dataclasses.MISSING
    )


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


def _typed(hint: Any, value: Any, path: str, partial: bool) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{path}: got {value!r}, expected a section")
        return from_dict(hint, value, f"{path}.", partial=partial)
    if get_origin(hint) is dict:
        check(isinstance(value, Mapping), path, value, "a mapping")
        return {
            key: _typed(get_args(hint)[1], item, f"{path}.{key}", partial)
            for key, item in value.items()
        }
    if get_origin(hint) is tuple:
        check(isinstance(value, list | tuple), path, value, "a list")
        return tuple(
            _typed(get_args(hint)[0], item, f"{path}[{i}]", partial) for i, item in enumerate(value)
        )
    if get_origin(hint) is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in get_args(hint))
        check(fits, path, value, f"one of {get_args(hint)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(type(value) is hint, path, value, hint.__name__)
    return value
