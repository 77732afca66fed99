"""The settings of the recipe that is running, for the identity of its runs."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, is_dataclass
from typing import Any

from worldcompass.settings import recorded
from worldcompass.training.config import Config

SETTINGS = "recipe_settings"
"""Their key in the identity of a run."""


@dataclass(frozen=True)
class Running:
    """The settings of a recipe, and whether changed ones are accepted."""

    settings: Mapping[str, object]
    accepted: bool


_CURRENT: ContextVar[Running | None] = ContextVar("running", default=None)


@contextmanager
def running(recipe: Any, accepted: bool = False) -> Generator[None]:
    """Store the recipe's settings in the checkpoints of all training inside the block, without its ``Config``."""
    without = "config" if has_config(recipe) else ""
    found = Running(recorded(recipe, without) if is_dataclass(recipe) else {}, accepted)
    token = _CURRENT.set(found)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def has_config(recipe: Any) -> bool:
    """Whether a recipe's settings of the training are a ``Config``, named ``config``."""
    return isinstance(getattr(recipe, "config", None), Config)


def current() -> dict[str, object]:
    """An entry ``SETTINGS``; empty outside of ``running``, as for training from Python."""
    found = _CURRENT.get()
    return {} if found is None else {SETTINGS: dict(found.settings)}


def accepted() -> bool:
    """Whether the command accepts changed settings, whatever the configuration says."""
    found = _CURRENT.get()
    return found is not None and found.accepted
