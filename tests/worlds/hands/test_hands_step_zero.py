"""Why Hands explores without guidance: it takes its base away from the truth (benchmarks/step_zero.py)."""

import json
import sys
from pathlib import Path

import pytest

from worldcompass.rewards.discriminator import Discriminator, Schooling

pytestmark = pytest.mark.usefixtures("one_thread")


def test_guidance_spoils_obedience_and_likeness_of_the_base(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import step_zero

    monkeypatch.setattr(step_zero, "Discriminator", lambda: Discriminator(Schooling(updates=1, pairs=2)))
    monkeypatch.setattr(step_zero, "STEPS", 1.5)
    out = tmp_path / "found.json"
    options = ["--world", "hands", "--per-map-and-kind", "1", "--chunks", "0", "--free", "0", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["step_zero.py", *options, "--out", str(out)])
    step_zero.main()
    arms = {(row["arm"], row["g"]): row for row in json.loads(out.read_text())["by_arm"]}
    free, guided = arms["plain", 0.0], (arms["plain", 1.5], arms["projected", 1.5])
    for name in ("interaction", "likeness", "psnr"):
        assert all(free[name] > row[name] + 0.02 for row in guided), name
