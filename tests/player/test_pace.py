"""When steps begin and pictures are shown."""

import asyncio
import contextlib
import itertools
import time
from unittest.mock import AsyncMock

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import Browser, running, toy_shared, toy_starts

from worldcompass.player import pace, session
from worldcompass.player.messages import Begin
from worldcompass.player.panes import WorldPane
from worldcompass.toy import ToyWorld


def test_frames_never_come_faster_than_the_pace():
    """In the long run: what was late is caught up, within a frame."""
    with running(toy_shared(fps=20.0)) as port, Browser(port) as browser:
        browser.say(type="start", start="toy/0", seed=0, path="w-10")
        arrived = []
        while len(arrived) < 21:
            if isinstance(browser.hear(), tuple):
                arrived.append(time.monotonic())
        assert arrived[-1] - arrived[1] > (19 - pace.MAX_LATE) / 20


def shown(lateness, fps=20.0, count=4):
    """When the pictures of steps are shown that are ready so much later than the one before has been shown."""
    clock, last, times = pace.Pace(fps), 0.0, []
    clock.place(100.0, 0)
    for late in lateness:
        ready = clock.due + late
        for wanted in clock.place(ready, count):
            last = max(clock.after(last, wanted), ready)
            times.append(last)
    return times


def test_a_step_that_is_a_little_late_is_caught_up_without_a_hurry():
    late = shown([-0.05, 0.04, -0.05, 0.03, 0.01])
    assert late[4] == pytest.approx(100 + 4 / 20 + 0.04)  # shown as soon as it is ready
    assert late[8] == pytest.approx(100 + 8 / 20)  # and on the grid again four pictures later
    assert late[-1] == pytest.approx(100 + 19 / 20)  # so that the pace holds on average
    assert min(b - a for a, b in itertools.pairwise(late)) >= 0.75 / 20 - 1e-9


def test_a_step_that_is_very_late_moves_all_that_follow():
    late = shown([-0.05, 0.2, -0.05])
    assert late[4] == pytest.approx(100 + 4 / 20 + 0.2)
    assert np.diff(late[4:]) == pytest.approx(1 / 20)


def test_a_step_is_begun_as_late_as_the_usual_cost_allows():
    """One slow step in many does not make every key wait, a step that got slower for good does."""
    costs = pace.Costs()
    assert costs.ahead < 0.01  # nothing is known yet
    for index in range(30):
        costs.add(0.5 if index % 10 == 0 else 0.1)
    assert costs.ahead == pytest.approx(0.1 + pace.WAKING)
    for _ in range(8):
        costs.add(0.13)
    assert costs.ahead == pytest.approx(0.13 + pace.WAKING)


def test_pictures_do_not_wait_for_the_world_to_remember_them():
    """A step shows its pictures first, and what only the next one needs comes after."""
    world, remembered = ToyWorld(0), []
    remember = world.remember
    world.remember = lambda *arguments: remembered.append(1) or remember(*arguments)
    here = WorldPane("World", world, 2).begin(toy_starts().all()[0], 0)
    remembered.clear()
    seen = here.step(9)
    assert not remembered and seen.composites_M == (0, 9)
    settled = seen.settle()
    assert len(remembered) == 1 and settled.frames_F3hw.equal(seen.frames_F3hw)
    assert settled.settle().step(1).frames_F3hw.equal(seen.step(1).frames_F3hw)  # and it is never forgotten
    assert len(remembered) == 2


def test_a_browser_that_takes_nothing_stops_its_own_walk():
    """Backpressure: a step waits while the one before it is not taken, so nothing piles up."""

    async def walk():
        walker, taken = session.Session(toy_shared(fps=1000.0)), 0

        async def take_one_step(_):
            nonlocal taken
            taken += 1
            if taken > 2:
                await asyncio.Event().wait()

        walker.hear(Begin(type="start", start="toy/0", path="w-100"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(walker.run(session.Send(AsyncMock(), take_one_step)), 1.0)
        return len(walker.moments[-1].composites_M)

    assert asyncio.run(walk()) <= 5
