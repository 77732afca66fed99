"""A pretraining stage resumes exactly after a kill, and can be made longer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldcompass.seeding import generator_for
from worldcompass.training.optim import adamw
from worldcompass.training.stage import Stage, StageRun, learning_rate


class Killed(Exception):
    """Stands for the process ending between two saves."""


def test_a_stage_that_is_killed_ends_as_if_it_never_was(tmp_path, monkeypatch):
    """Weights after a kill and a resume are bitwise those of a run that was left alone."""
    monkeypatch.setattr("worldcompass.training.stage.SAVE_SECONDS", -1.0)  # save after every step

    def run_to(folder, die_at: int | None) -> nn.Module:
        torch.manual_seed(0)
        run = StageRun(Stage("x", 1, 1e-2, 2), nn.Linear(3, 1), folder, "cpu", adamw)
        run.total = 6
        run.resume()

        def loss_of(step: int) -> torch.Tensor:
            if step == die_at:
                raise Killed
            return run.net(torch.randn(8, 3, generator=generator_for(step))).square().mean()

        return run.run(loss_of, lambda _: {})

    expected = run_to(tmp_path / "a", None)
    with pytest.raises(Killed):
        run_to(tmp_path / "b", 4)
    resumed = run_to(tmp_path / "b", None)
    for a, b in zip(expected.parameters(), resumed.parameters(), strict=True):
        assert a.equal(b)


def test_a_finished_stage_can_be_made_longer(tmp_path):
    """Twice the minutes: twice the steps, from half of the old ones, where the rate had not fallen yet."""
    steps: list[int] = []

    def run_for(minutes: float) -> StageRun:
        torch.manual_seed(0)
        run = StageRun(Stage("x", minutes, 1e-2, 2), nn.Linear(3, 1), tmp_path, "cpu", adamw)
        run.total = 8
        run.resume()

        def loss_of(step: int) -> torch.Tensor:
            steps.append(step)
            return run.net(torch.ones(1, 3)).square().mean()

        run.run(loss_of, lambda _: {})
        return run

    assert run_for(1).step == 8
    assert run_for(1).step == 8 and len(steps) == 8
    assert run_for(2).step == 16 and steps[8] == 4
    assert learning_rate(Stage("x", 2, 1e-2, 2), 7, 16) == 1e-2
