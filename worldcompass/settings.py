"""What groups of settings have in common: plain rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What must hold between settings."""

    fields: tuple[str, ...]
    """Names of the settings that it is about."""
    holds: bool
    text: str
    """The rule in words, for whom it does not hold."""


def enforce(values: Mapping[str, Any], rules: Iterable[Rule]) -> None:
    """Refuse settings that break a rule.

    Args:
        values: of the settings, by name.
        rules: in the order in which they are checked.

    Raises:
        ValueError: the first rule that is broken, with the values it is about.
    """
    for rule in rules:
        if not rule.holds:
            got = ", ".join(f"{name}={values[name]}" for name in rule.fields)
            raise ValueError(f"{rule.text}; got {got}")
