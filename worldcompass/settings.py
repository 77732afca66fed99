"""Settings of dataclasses: their values by name, and rules between them."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

HARMLESS: Mapping[str, bool] = {"harmless": True}
"""Metadata of a field that changes no result, such as the address of a server."""


def named(*choices: Callable[..., object]) -> Mapping[str, Mapping[str, object]]:
    """Metadata of a field that holds one of some functions: ``--set`` takes their names."""
    return {"named": {_name(one): one for one in choices}}


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", type(function).__name__)


@dataclass(frozen=True)
class Rule:
    """A condition on settings."""

    fields: tuple[str, ...]
    """Names of the settings in the condition."""
    holds: bool
    text: str
    """The rule in words, for the error."""


def enforce(values: Mapping[str, object], rules: Iterable[Rule], unlimited: Collection[str] = ()) -> None:
    """Refuse settings that break a rule, and numbers that are not finite.

    Args:
        values: of the settings, by name.
        rules: in the order in which they are checked.
        unlimited: names of the settings that may be infinite, which means no limit.

    Raises:
        ValueError: with the first broken rule and the values of its settings.
    """
    for name, value in values.items():
        if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and name not in unlimited)):
            raise ValueError(f"{name} must be a finite number; got {name}={value}")
    for rule in rules:
        if not rule.holds:
            got = ", ".join(f"{name}={values[name]}" for name in rule.fields)
            raise ValueError(f"{rule.text}; got {got}")


def flattened(config: Any, prefix: str = "", lasting: bool = False) -> dict[str, object]:
    """Every setting of a dataclass with its value, nested ones as ``outer.inner``.

    Args:
        config: a dataclass.
        prefix: of all names.
        lasting: leave out fields with the metadata ``HARMLESS``.
    """
    flat: dict[str, object] = {}
    for field in dataclasses.fields(config):
        if lasting and field.metadata.get("harmless"):
            continue
        value, name = getattr(config, field.name), prefix + field.name
        inside = dataclasses.is_dataclass(value) and not isinstance(value, type)
        flat |= flattened(value, f"{name}.", lasting) if inside else {name: value}
    return flat


def recorded(config: Any, without: str = "") -> dict[str, object]:
    """The settings of a dataclass on which results depend, as JSON values that are the same in every process.

    Args:
        config: a dataclass.
        without: the name of a field to leave out.
    """
    found = flattened(config, lasting=True)
    return {name: _plain(v) for name, v in found.items() if not without or name.split(".")[0] != without}


def _plain(value: Any) -> Any:
    """A value as JSON; functions and classes by their full names, other objects as text without addresses."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(inner) for inner in cast("Sequence[Any]", value)]
    if (name := getattr(value, "__qualname__", None)) is not None:
        return f"{getattr(value, '__module__', '')}.{name}"
    nameless = type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__
    return type(value).__qualname__ if nameless or callable(value) else str(value)
