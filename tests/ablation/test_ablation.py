"""Grids of recipes: what runs, on how many steps, what the report says, and what is refused."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import forked
import pytest
from finished_runs import make_run

from worldcompass import cli
from worldcompass.ablation import running
from worldcompass.ablation.comparison import compared, differences
from worldcompass.ablation.compute import Cost, cost_of, fair_steps
from worldcompass.ablation.grid import Grid, Row, cells_of
from worldcompass.ablation.page import page_of
from worldcompass.errors import UserError
from worldcompass.evaluate import pool
from worldcompass.report.tables import reduce_run
from worldcompass.runs.metrics import StepMetrics, write_metrics

FULL = Row("full", "rows.py:full")
GRID = Grid(
    FULL, (Row("good", "rows.py:good"), Row("bad", "rows.py:bad"), Row("same", "rows.py:same")), (0, 1)
)
LEVELS = {"full": 0.7, "good": 0.8, "bad": 0.55, "same": 0.7}

ROWS = """
import dataclasses, json, pathlib, sys, time
sys.path.insert(0, SUPPORT)
from finished_runs import make_run
from worldcompass.ablation.grid import Grid, Row
from worldcompass.runs.metrics import StepMetrics, write_metrics
from worldcompass.training.config import Config


@dataclasses.dataclass(frozen=True)
class Recipe:
    config: Config
    passes: float
    fails: bool = False

    def run(self, out, device, resume):
        if self.fails:
            raise ValueError("the loss is not finite")
        steps, pause = self.config.steps, self.config.keeping.save_every / 100
        done = []
        for step in range(1, steps + 1):
            done.append(StepMetrics(step, forward_passes=self.passes, seconds={"update": 1.0}))
            out.mkdir(parents=True, exist_ok=True)
            write_metrics(out / "metrics.jsonl", done)
            time.sleep(pause)
        make_run(out, self.config.seed, recipe="rows")


def full():
    return Recipe(Config(steps=8), 10.0)

def half():
    return Recipe(Config(steps=8).changed(save_every=25), 5.0)

def broken():
    return Recipe(Config(steps=8), 10.0, True)

VARIANTS = (Row("half", f"{__file__}:half"), Row("broken", f"{__file__}:broken"))
GRID = Grid(Row("full", f"{__file__}:full"), VARIANTS, (0, 1), 2)
"""


def finish(out, row, seed, steps=4, passes=10.0):
    """A finished cell whose scores lie around the row's level."""
    folder = make_run(out / row / f"seed{seed}", seed, recipe=row, trained=LEVELS.get(row, 0.7))
    rows = [StepMetrics(step, forward_passes=passes, seconds={"update": 2.0}) for step in range(1, steps + 1)]
    write_metrics(folder / "metrics.jsonl", rows)
    return folder


def test_rows_get_steps_for_equal_compute_and_hardly_different_costs_change_nothing():
    rollout = StepMetrics(1, forward_passes=40.0, update_passes=20.0, seconds={"imagine": 4.0, "update": 6.0})
    full = cost_of([rollout])
    assert full == Cost(passes=60.0, seconds=10.0)  # both kinds of passes count
    assert fair_steps(32, full, Cost(120.0, 10.0), "passes") == 16
    assert fair_steps(32, full, Cost(120.0, 5.0), "seconds") == 64
    assert fair_steps(32, full, Cost(58.0, 10.0), "passes") == 32
    assert fair_steps(32, full, Cost(6000.0, 1.0), "steps") == 32
    assert fair_steps(32, full, Cost(6000.0, 1.0), "passes") == 1


def test_seeds_come_whole_and_the_full_method_leads_each(tmp_path):
    found = [(cell.row.name, cell.seed) for cell in cells_of(GRID, tmp_path)]
    assert found[:4] == [("full", 0), ("good", 0), ("bad", 0), ("same", 0)] and found[4] == ("full", 1)


def test_a_row_is_judged_by_what_it_follows_less_or_more_than_the_full_method(tmp_path):
    for cell in cells_of(GRID, tmp_path):
        finish(tmp_path, cell.row.name, cell.seed)
    found = {row.row.name: row for row in compared(GRID, tmp_path)}
    assert {name: row.verdict for name, row in found.items()} == {
        "full": "better", "good": "better", "bad": "worse", "same": "no difference shown",
    }  # fmt: skip
    change = found["bad"].changes["combined"]["judge_accuracy"]
    assert change.mean == pytest.approx(-0.15, abs=0.02) and change.n == 12
    assert found["bad"].cost == Cost(40.0, 8.0) and found["bad"].steps == 4


def test_more_rows_make_every_interval_wider(tmp_path):
    for cell in cells_of(GRID, tmp_path):
        finish(tmp_path, cell.row.name, cell.seed)

    def width(grid):
        found = {row.row.name: row for row in compared(grid, tmp_path)}
        change = found["bad"].changes["combined"]["judge_accuracy"]
        return change.high - change.low

    assert width(GRID) > 1.1 * width(GRID.only(["bad"]))


def test_results_of_other_scenarios_than_the_fixed_ones_are_refused(tmp_path):
    for seed in (0, 1):
        finish(tmp_path, "full", seed)
    assert compared(replace(GRID, scenarios="5f3c"), tmp_path)[0].verdict == "better"
    with pytest.raises(
        UserError, match="full, seed 0, was evaluated on other scenarios than those that the grid"
    ):
        compared(replace(GRID, scenarios="aaaa"), tmp_path)


def test_videos_of_one_scenario_count_as_one(tmp_path):
    for cell in cells_of(GRID, tmp_path):
        finish(tmp_path, cell.row.name, cell.seed)
    once = [(reduce_run(tmp_path / "bad" / f"seed{s}").trained, reduce_run(tmp_path / "full" / f"seed{s}").trained)
            for s in (0, 1)]  # fmt: skip
    twice = [(pool([a, a]), pool([b, b])) for a, b in once]
    for kind in ("basic", "combined"):
        one, two = (differences(pairs, kind, 0.95)["judge_accuracy"] for pairs in (once, twice))
        assert (two.mean, two.low, two.high) == pytest.approx((one.mean, one.low, one.high))


def test_a_row_that_does_not_train_keeps_its_own_steps(tmp_path, monkeypatch):
    grid = Grid(FULL, (Row("guided", "rows.py:guided", trains=False),), (0, 1))
    asked = []
    monkeypatch.setattr(
        running, "_train", lambda cell, settings, steps: asked.append((cell.row.name, steps)) or ""
    )
    list(running.run_grid(grid, "passes", [], tmp_path, print))
    assert asked == [("full", None), ("guided", None)] * 2


def test_cells_without_results_are_named_and_do_not_count(tmp_path):
    finish(tmp_path, "full", 0)
    finish(tmp_path, "bad", 0)
    rows = compared(GRID, tmp_path)
    by_name = {row.row.name: row for row in rows}
    assert (
        by_name["bad"].seeds == (0,) and by_name["bad"].missing == (1,) and by_name["bad"].verdict == "worse"
    )
    assert by_name["good"].verdict == "unfinished"
    page = page_of(GRID, "passes", rows)
    assert "Missing: full (seeds 1); good (seeds 0, 1); bad (seeds 1); same (seeds 0, 1)." in page


@pytest.fixture
def grid_file(tmp_path, request):
    file = tmp_path / "rows.py"
    file.write_text(ROWS.replace("SUPPORT", repr(str(request.path.parents[1] / "support"))))
    return file


def test_the_command_runs_what_is_missing_on_equal_compute_and_names_what_fails(
    grid_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(running, "subprocess", forked.as_subprocess)
    out = tmp_path / "grid"
    for seed in (0, 1):
        folder = finish(out, "full", seed, steps=8)
        (folder / "config.json").write_text(
            json.dumps({"version": 2, "steps": 8, "seed": seed, "recipe": "full"})
        )
    words = ["ablate", str(grid_file), "--out", str(out), "--set", "config.keeping.probe_every=0"]
    assert cli.main(words) == 1  # a row fails
    told = capsys.readouterr().out
    assert "half: 16 steps cost what 8 of full do" in told
    assert "broken, seed 0:" in told and "the loss is not finite" in told
    assert [len((out / "half" / f"seed{s}" / "metrics.jsonl").read_text().splitlines()) for s in (0, 1)] == [
        16,
        16,
    ]
    report = json.loads((out / "report.json").read_text())
    assert {row["row"]: row["missing"] for row in report["rows"]} == {
        "full": [],
        "half": [],
        "broken": [0, 1],
    }
    monkeypatch.setattr(running, "subprocess", None)  # nothing runs again
    assert cli.main([*words, "--rows", "half"]) == 0
    capsys.readouterr()
    assert cli.main([*words, "--equal", "steps"]) == 2
    assert "holds a grid with equal 'passes', not 'steps': choose another --out" in capsys.readouterr().err


def test_a_killed_grid_takes_its_run_with_it_and_goes_on(grid_file, tmp_path, monkeypatch):
    out = tmp_path / "grid"
    for seed in (0, 1):
        folder = finish(out, "full", seed, steps=8)
        (folder / "config.json").write_text(
            json.dumps({"version": 2, "steps": 8, "seed": seed, "recipe": "full"})
        )
    words = ["ablate", str(grid_file), "--out", str(out), "--rows", "half", "--equal", "steps"]
    process = forked.ForkedGrid([sys.executable, "-m", "worldcompass", *words], stdout=subprocess.DEVNULL)
    metrics, until = out / "half" / "seed0" / "metrics.jsonl", time.monotonic() + 300
    while not metrics.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(1.0)
    before = metrics.read_text()
    time.sleep(1.5)
    assert metrics.read_text() == before  # its run has ended too
    monkeypatch.setattr(running, "subprocess", forked.as_subprocess)
    assert cli.main(words) == 0


def test_what_is_no_grid_is_refused(grid_file, tmp_path, capsys):
    assert cli.main(["ablate", "hands_demo"]) == 2
    assert "hands_demo has no grid: expected a variable GRID" in capsys.readouterr().err
    assert cli.main(["ablate", str(grid_file), "--rows", "quarter"]) == 2
    assert "there is no row 'quarter': this grid has half, broken" in capsys.readouterr().err
    assert cli.main(["ablate", str(grid_file), "--seeds", "0"]) == 2
    assert "expected 2 or more different ones" in capsys.readouterr().err
    assert cli.main(["ablate", str(grid_file), "--set", "config.stepz=3"]) == 2
    assert "stepz" in capsys.readouterr().err
    with pytest.raises(UserError, match="no row"):
        GRID.only(["other"])
    with pytest.raises(ValueError, match="share a name"):
        Grid(FULL, (FULL,))
