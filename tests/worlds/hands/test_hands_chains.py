"""Sub-goals in a row: the planner tidies up in the engine, and goes by pictures alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.hands.facts import THINGS, TOUCHES
from worldcompass.worlds.hands.place import Table
from worldcompass.worlds.hands.policies.chains import (
    BASE,
    ENGINE,
    PIXELS,
    PUT,
    Planner,
    SubGoal,
    by_pixels,
    draw_starts,
    in_engine,
    measure_chains,
)
from worldcompass.worlds.hands.scripts import Look
from worldcompass.worlds.hands.tasks import PICK


@pytest.fixture(scope="module")
def start(engine):
    """A scene with a cup and a block, in which the scripts succeed."""
    return draw_starts("heldout", 2)[1]


def test_in_the_engine_things_are_picked_up_and_put_into_the_other_half(start):
    table = Table()
    try:
        assert [in_engine(table, start, by_truth, most=4) for by_truth in (True, False)] == [4, 4]
    finally:
        table.close()


def test_the_first_sub_goal_that_pictures_do_not_show_ends_the_chain(start):
    """A world that never moves shows no thing that is lifted; the planner then rests."""
    planner, given = Planner(start), []
    while not planner.over:
        given.append(planner.controls(by_pixels))
        planner.see(given[-1], start.image_3hw)
    assert planner.length == 0 and planner.goal.verb == PICK
    assert 5 < len(given) < 50 and not given[-1].any() and not planner.controls(by_pixels).any()


def test_a_thing_is_put_once_it_stands_free_in_its_half():
    def look(x: float, z: float, held: bool) -> Look:
        poses = np.zeros((len(THINGS), 7))
        poses[0, :3] = x, 0, z
        return Look(
            np.zeros(4), poses, np.zeros((len(THINGS), len(TOUCHES)), bool), np.array([held, 0, 0, 0], bool)
        )

    put, pick = SubGoal(PUT, "cup", -1), SubGoal(PICK, "cup")
    assert put.done_in_truth(look(-0.1, 0, False)) and not pick.done_in_truth(look(-0.1, 0, False))
    assert pick.done_in_truth(look(-0.1, 0.1, True))
    for wrong in (look(0.1, 0, False), look(0.0, 0, False), look(-0.1, 0.1, False), look(-0.1, 0, True)):
        assert not put.done_in_truth(wrong)


def test_finished_sides_are_not_run_again_and_counts_are_those_of_the_scenes(start, tmp_path):
    name = start.scene.name
    for side, length in ((ENGINE, 8), (PIXELS, 3), (BASE, 1)):
        (tmp_path / f"{side}.json").write_text(json.dumps({"scenes": [name], "lengths": [length]}))
    worlds = {BASE: None}  # would fail if it were asked
    found = measure_chains(tmp_path, [start], worlds, 0)  # type: ignore[arg-type]
    assert found.mean(PIXELS).mean == 3 and found.reached(PIXELS, 3) == 1 and found.reached(PIXELS, 4) == 0
    (tmp_path / f"{BASE}.json").write_text(json.dumps({"scenes": ["another"], "lengths": [1]}))
    with pytest.raises(UserError, match="chains in other scenes"):
        measure_chains(tmp_path, [start], worlds, 0)  # type: ignore[arg-type]
