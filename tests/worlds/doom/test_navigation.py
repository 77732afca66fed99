"""The worked example of navigation: outcomes in a world model against the engine's."""

import sys
from pathlib import Path

import pytest
import torch

from worldcompass.worlds.doom.world import WORLD_FILE, shipped_weights

W, R = 9, 1  # forward, yaw right


@pytest.fixture
def navigation(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import navigation

    return navigation


def test_what_a_model_predicts_is_compared_with_the_engine(navigation):
    truth = torch.tensor([[W, W, R, W], [W, W, W, W]]), torch.tensor([[0.0, 66.0], [0.0, 88.0]])
    found = torch.tensor([[W, R, R, W], [W, W, W, W]]), torch.tensor([[0.0, 44.0], [0.0, 88.0]])
    assert navigation.steps_before_turning(truth[0]).tolist() == [2, 4]
    errors = navigation.errors(found, truth)
    assert errors["decisions as in the engine"].tolist() == [0.75, 1.0]
    assert errors["error of the first turn (steps)"].tolist() == [1, 0]
    assert errors["distance from the engine's end (steps)"].tolist() == pytest.approx([1, 0])


def test_runs_with_the_base_weights_predict_as_the_base_does(navigation, monkeypatch, tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / WORLD_FILE).symlink_to(shipped_weights() / WORLD_FILE)
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--every", "72", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["navigation.py", *words])
    navigation.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 starts, 2 decisions")
    differences = [line for line in lines if "less base" in line]
    assert len(differences) == 9 and all(line.endswith(": 0.000 [0.000, 0.000]") for line in differences)
