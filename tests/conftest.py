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
