"""Engines that the tests of Hands share; where nothing can be drawn, those that look at pictures are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.hands.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine that draws."""
    try:
        made = Engine()
    except UserError as why:
        pytest.skip(str(why))
    with made:
        yield made


@pytest.fixture(scope="session")
def blind() -> Iterator[Engine]:
    """An engine that tells the truth only."""
    with Engine(draw=False) as made:
        yield made
