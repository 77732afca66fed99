"""Rewards for looks must rank imagined candidates by their distance to the truth (benchmarks/step_zero.py)."""

import json
import sys
from pathlib import Path

import pytest

from worldcompass.rewards.discriminator import Discriminator, Schooling
from worldcompass.worlds.doom.engine import maps, scenarios

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Two scenarios of the first chunk, guidance 0 to 1.5."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import step_zero

    monkeypatch.setattr(scenarios, "KINDS", ("combined",))
    monkeypatch.setattr(maps, "TRAINING", maps.TRAINING[:2])
    monkeypatch.setattr(step_zero, "Discriminator", lambda: Discriminator(Schooling(updates=1, pairs=2)))
    monkeypatch.setattr(step_zero, "STEPS", 0.5)
    out = tmp_path / "found.json"
    options = ["--per-map-and-kind", "1", "--chunks", "0", "--free", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["step_zero.py", *options])
    step_zero.main()
    return json.loads(out.read_text())


def test_likeness_ranks_candidates_by_truth_and_formulas_of_looks_do_not(found):
    means = {
        (row["candidates"], row["reward"]): (row["features"]["mean"], row["psnr"]["mean"])
        for row in found["correlations"]
    }
    likeness, quality = means["plain", "likeness"], means["plain", "quality"]
    assert min(likeness) > 0.2
    assert all(a > b + 0.2 for a, b in zip(likeness, quality, strict=True))
    sharpness = {row["g"]: row["gradient"] for row in found["by_arm"] if row["arm"] == "plain"}
    assert sharpness[0.0] < sharpness[0.5] < sharpness[1.5]  # guidance sharpens
