"""Rules between settings, and their enforcement."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A condition on settings."""

    fields: tuple[str, ...]
    """Names of the settings in the condition."""
    holds: bool
    text: str
    """The rule in words, for the error."""


def enforce(values: Mapping[str, Any], rules: Iterable[Rule], unlimited: Collection[str] = ()) -> None:
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
