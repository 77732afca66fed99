"""What tests of several files ask for.

Nothing heavy is imported here: with ``-n`` a process that runs no test reads this file too.
"""

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TRACED = (TESTS, TESTS / "training", TESTS / "runs")
"""Folders with the tests of the modules whose line coverage is judged, see the Makefile."""
LONG = (
    "cost/test_plan.py",
    "worlds/doom/test_experiment.py",
    "worlds/hands/test_hands_experiment.py",
    "worlds/hands/test_hands_network.py",
    "worlds/hands/test_hands_world.py",
    "parallel/test_distributed.py",
    "parallel/test_kills.py",
    "worlds/worldplay/test_worldplay_sharded.py",
    "examples/test_pusht_tutorial.py",
    "rewards/test_ray_actors.py",
    "worlds/doom/test_pretraining.py",
    "worlds/doom/test_rooms.py",
    "worlds/small/test_small_pretraining.py",
    "player/test_browser.py",
)
"""Files with tests of many seconds, or with costly fixtures of a module."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long files first: at the end no process waits for another's long test.

    Processes also take tests from the ends of each other's lists, so that a file at the beginning stays with one
    process, which makes its fixtures once and starts the server of ``forked.py`` once.
    """
    long = [TESTS / name for name in LONG]
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Spare garbage collections the modules and tests that live to the end, which are most objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Trace lines in the core's own tests alone: tracing makes a test a quarter slower."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    coverage = getattr(plugin, "cov_controller", None)  # of pytest-cov, when --cov is given
    if coverage is None or item.path.parent in TRACED:
        return (yield)
    coverage.pause()
    try:
        return (yield)
    finally:
        coverage.resume()


@pytest.fixture(scope="session", autouse=True)
def quick_videos() -> Iterator[None]:
    """Videos are larger files that take a quarter of the time to write."""
    from worldcompass.media import video

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "PRESET", "ultrafast")
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are computed faster by one thread, and bit by bit alike on any machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
