"""Recordings that several tests of the Doom world read."""

from pathlib import Path

import pytest

from worldcompass.worlds.doom.engine import collect

EPISODES = 2  # of a shard


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """The smallest data set, of one map, collected with seed 3; see ``short_shards``."""
    root = tmp_path_factory.mktemp("doom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "EPISODES_PER_SHARD", EPISODES)
        return collect.collect(root, frames=2000, seed=3, workers=1, maps=["my_way_home"])


@pytest.fixture
def short_shards(monkeypatch) -> None:
    """As many episodes in a shard as in those of ``dataset``."""
    monkeypatch.setattr(collect, "EPISODES_PER_SHARD", EPISODES)
