"""The shipped grids: recipes that fit together, predictions for every row, and scenarios that are fixed."""

import json
from pathlib import Path

import pytest

from worldcompass.evaluate import scenarios_hash
from worldcompass.recipes import doom_ablation, hands_ablation
from worldcompass.recipes.load import load_recipe
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.evaluation import fixed_scenarios

ROOT = Path(__file__).parents[2]
GRIDS = pytest.mark.parametrize("module", [hands_ablation, doom_ablation], ids=["hands", "doom"])


@GRIDS
def test_every_row_changes_something_and_says_what(module):
    full = load_recipe(module.GRID.full.recipe)()
    recipes = [load_recipe(row.recipe)() for row in module.GRID.variants]
    assert all(recipe != full for recipe in recipes) and all(row.changes for row in module.GRID.variants)
    assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i])
    chunks = full.config.sampling.last_chunk - full.config.sampling.first_chunk + 1
    assert module.GRID.curriculum == chunks and len(module.GRID.seeds) >= 3
    assert [row.name for row in module.GRID.variants if not row.trains] == ["guided_base"]


def test_the_scenarios_of_hands_are_those_that_were_fixed_before_the_first_run():
    recipe = hands_ablation.hands_ablation()
    found = scenarios_hash(fixed_scenarios(recipe.evaluation_latents, recipe.unseen), ACTIONS)
    assert found == hands_ablation.GRID.scenarios


def test_the_scenarios_of_doom_are_those_of_the_stored_runs():
    """To replay them takes the engine minutes; every run of the grid is compared with this hash."""
    stored = json.loads((ROOT / "docs/results/demo_seed0.json").read_text())
    assert stored["scenarios_hash"] == doom_ablation.GRID.scenarios


@GRIDS
def test_every_row_has_a_prediction_from_before_the_runs(module):
    page = (ROOT / "docs/results/ablation/predictions.md").read_text()
    section = page.split(f"## `{module.GRID.full.recipe}`")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert [row[1].strip().strip("`") for row in rows] == [row.name for row in module.GRID.variants]
    for row in rows:
        assert row[2].strip() in ("worse", "better", "mixed", "no difference") and row[3].strip().endswith(
            "."
        )
