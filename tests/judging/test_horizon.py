"""Where a world breaks down: by the rule, with intervals, in a file that is read back, and in a table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, Measured
from worldcompass.judging.horizon import (
    BASE,
    CHANCE,
    ENGINE,
    TRAINED,
    Breakdown,
    Horizon,
    breakdown,
    read_horizon,
    write_horizon,
)
from worldcompass.report.horizon import table_of
from worldcompass.statistics import resamples

VIDEOS, WINDOWS = 6, 5
ENGINE_LEVEL, CHANCE_LEVEL = 0.9, 0.1
ROWS = resamples([f"s{i}" for i in range(VIDEOS)])


def level(*by_window: float) -> np.ndarray:
    """The same in every video, (V, D)."""
    return np.tile(by_window, (VIDEOS, 1)).astype(float)


def broke(model_VD, engine_VD=None, chance_VD=None) -> Breakdown:
    engine_VD = level(*[ENGINE_LEVEL] * WINDOWS) if engine_VD is None else engine_VD
    chance_VD = level(*[CHANCE_LEVEL] * WINDOWS) if chance_VD is None else chance_VD
    return breakdown(model_VD, engine_VD, chance_VD, ROWS, 100)


def test_a_world_breaks_down_in_the_first_window_below_half_way():
    assert broke(level(0.9, 0.51, 0.49, 0.8, 0.1)) == Breakdown(200, 200, 200)
    assert broke(level(0.4, 0.9, 0.9, 0.9, 0.9)).frame == 0
    assert broke(level(*[0.51] * WINDOWS)) == Breakdown(None, None, None)


def test_half_way_follows_the_levels_of_the_window():
    """A model as good as the engine never breaks down, and a window in which chance is as good says nothing."""
    engine = level(0.9, 0.6, 0.3, 0.2, 0.9)
    assert broke(engine, engine, level(*[CHANCE_LEVEL] * WINDOWS)).frame is None
    assert broke(level(0.9, 0.9, 0.0, 0.9, 0.9), engine, level(0.1, 0.1, 0.3, 0.1, 0.1)).frame is None


def test_the_interval_is_over_scenarios_and_open_where_some_hold_to_the_end():
    """Half of the videos break in the second window, half in the fourth or never."""
    early, late = level(0.9, 0, 0, 0, 0), level(0.9, 0.9, 0.9, 0, 0)
    half = np.arange(VIDEOS)[:, None] < VIDEOS / 2
    mixed = broke(np.where(half, early, late))
    assert (mixed.low, mixed.high) == (100, 300) and mixed.low <= mixed.frame <= mixed.high
    never = broke(np.where(half, early, level(*[0.9] * WINDOWS)))
    assert never.high is None and never.low == 100
    assert never.text(500) == f"{'>500' if never.frame is None else never.frame} [100, >500]"


def horizon(trained: bool = True) -> Horizon:
    def measured(values_VD: np.ndarray) -> Measured:
        names = tuple(f"heldout/s{i}" for i in range(VIDEOS))
        nothing = np.zeros((VIDEOS, 0), int)
        values = {FOLLOWED: values_VD, "permanence": np.ones_like(values_VD), "quality": -values_VD}
        return Measured(names, ("basic",) * VIDEOS, values, nothing, nothing)

    sides = {
        ENGINE: measured(level(*[ENGINE_LEVEL] * WINDOWS)),
        CHANCE: measured(level(*[CHANCE_LEVEL] * WINDOWS)),
        BASE: measured(level(0.8, 0.6, 0.4, 0.2, 0.2)),
        TRAINED: measured(level(0.8, 0.8, 0.8, 0.8, 0.3)),
    }
    if not trained:
        del sides[TRAINED]
    return Horizon(
        "toy", 500, 100, 0, "abc", {BASE: "0123"}, (FOLLOWED,), sides, "0.1.0", "worldcompass horizon"
    )


def test_the_file_says_what_was_measured_and_another_is_refused_in_a_sentence(tmp_path):
    path, found = tmp_path / "horizon_toy.json", horizon()
    write_horizon(path, found)
    again = read_horizon(path)
    assert again.to_json() == found.to_json() and again.broke_down(TRAINED) == 400
    whole = json.loads(path.read_text())
    assert whole["breakdowns"][BASE][FOLLOWED] == {"frame": 200, "low": 200, "high": 200}
    other = replace(found.sides[CHANCE], scenarios=("x",) * VIDEOS).to_json()
    lacking = {**whole["sides"], BASE: {**whole["sides"][BASE], "values": {}}}
    for change, words in (
        ({"schema": 9}, "it has schema 9"),
        ({"frames": "many"}, "frames is missing or malformed"),
        ({"sides": {}}, "sides lacks base, chance, engine"),
        ({"sides": {**whole["sides"], CHANCE: other}}, "sides.chance has other scenarios"),
        ({"sides": lacking}, f"sides.base lacks {FOLLOWED}"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(UserError, match=words):
            read_horizon(path)


def test_a_table_shows_every_side_and_pages_are_rewritten_from_the_file(tmp_path, capsys):
    lines = table_of(horizon()).splitlines()
    assert lines[0] == "| measure | side | to 100 | to 200 | to 300 | to 500 | breaks down at |"
    assert lines[2].startswith("| commands followed | engine | 90% | 90% | 90% | 90% |  |")
    assert lines[3].endswith("| 40% [40, 40] | 20% [20, 20] | 200 [200, 200] |")
    assert "|  | trained − base | +0 [0, 0] | +20 [20, 20] | +40 [40, 40] | +10 [10, 10] |  |" in lines
    assert not any("trained" in line for line in table_of(horizon(trained=False)).splitlines())
    write_horizon(tmp_path / "horizon_toy.json", horizon())
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- horizon: toy -->\nold\n<!-- /horizon -->\nafter\n")
    arguments = [str(page), "--results", str(tmp_path)]
    assert cli.main(["tables", "--check", *arguments]) == 1
    assert cli.main(["tables", "--write", *arguments]) == 0
    assert lines[3] in page.read_text() and "old" not in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    assert cli.main(["tables", "--check", *arguments]) == 0
    (tmp_path / "horizon_toy.json").unlink()
    assert cli.main(["tables", "--check", *arguments]) == 2
    assert "there are no measures of long videos at" in capsys.readouterr().err
