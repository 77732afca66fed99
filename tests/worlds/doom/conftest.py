"""Recordings that several tests of the Doom world read."""

from pathlib import Path

import pytest

from worldcompass.worlds.doom.engine import collect


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """The smallest data set, of one map, collected by two processes with seed 3."""
    root = tmp_path_factory.mktemp("doom")
    return collect.collect(root, frames=2000, seed=3, workers=2, maps=["my_way_home"])
