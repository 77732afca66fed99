"""Rules between settings, and their enforcement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def enforce(values: Mapping[str, Any], rules: Iterable[Rule]) -> None:
    """Refuse settings that break a rule.

    Args:
        values: of the settings, by name.
        rules: in the order in which they are checked.

    Raises:
        ValueError: with the first broken rule and the values of its settings.
    """
    for rule in rules:
        if not rule.holds:
            got = ", ".join(f"{name}={values[name]}" for name in rule.fields)
            raise ValueError(f"{rule.text}; got {got}")
