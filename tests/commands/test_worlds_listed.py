"""The list of worlds: complete, and the same as the package's own recipes."""

from functools import cache
from pathlib import Path

import pytest

from worldcompass import cli
from worldcompass.recipes import catalogue
from worldcompass.recipes.catalogue import EMBEDDED, OPEN, WORLDS, table
from worldcompass.recipes.load import load_recipe, shipped_recipes
from worldcompass.worlds.open.recipe import OpenRecipe

found_once = cache(catalogue.facts_of)


@pytest.fixture(autouse=True)
def facts_found_once(monkeypatch):
    """Every world's network is built once for all tests, which takes seconds."""
    monkeypatch.setattr(catalogue, "facts_of", found_once)


def test_every_recipe_of_an_open_checkpoint_is_listed_once():
    found = [name for name in shipped_recipes() if isinstance(load_recipe(name)(), OpenRecipe)]
    assert sorted(OPEN) == sorted(found) and len({world.name for world in WORLDS}) == len(WORLDS)


def test_the_command_prints_what_each_world_is(capsys):
    assert cli.main(["worlds"]) == 0
    printed = capsys.readouterr().out
    blocks = {block.split("\n")[0]: block for block in printed.split("\n\n")}
    assert list(blocks) == [*EMBEDDED, *OPEN]
    assert "8.56 B parameters" in blocks["worldplay_8b"] and "81 camera motions" in blocks["worldplay_8b"]
    assert all(f"licence  {world.licence}" in blocks[world.name] for world in WORLDS)


def test_the_table_of_the_page_is_the_printed_one():
    page = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
    stored = page.partition("<!-- worlds -->\n")[2].partition("\n<!-- /worlds -->")[0]
    assert stored == table(), "update docs/worlds.md with worldcompass worlds --markdown"
