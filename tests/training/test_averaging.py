"""Members: their mean carried on by hand, the same bits after a stop, and a folder that reads like a run."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from toy_runs import TINY, critics

from worldcompass import cli
from worldcompass.doctor import read_record
from worldcompass.errors import UserError
from worldcompass.parallel.signals import Interrupted
from worldcompass.report.export import export_run
from worldcompass.runs.checkpoint import load_checkpoint
from worldcompass.runs.metrics import StepMetrics, read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training import averaging as members
from worldcompass.training.averaging import extended_mean, mean_steps, train_members
from worldcompass.training.config import Config
from worldcompass.training.loop import train, train_parts
from worldcompass.training.run import Parts

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TINY.changed(steps=3, seed=1)


def parts_of(config: Config) -> Parts:
    return Parts(ToyWorld(), critics(), toy_scenarios(5), config)


def test_the_extended_mean_by_hand():
    start = {"w": torch.tensor([1.0, 2.0])}
    runs = [{"w": torch.tensor([2.0, 2.0])}, {"w": torch.tensor([4.0, 0.0])}]
    assert extended_mean(start, runs)["w"].tolist() == [3.0, 1.0]
    assert extended_mean(start, runs, 2)["w"].tolist() == [5.0, 0.0]


def test_the_mean_of_members_is_closer_to_the_optimum():
    """Runs that walk half of the way, each with noise of its own: the extended mean arrives, no member does."""
    generator = torch.Generator().manual_seed(0)
    start, right = torch.zeros(1000), torch.ones(1000)
    runs = [{"w": 0.5 * right + torch.randn(1000, generator=generator)} for _ in range(16)]
    mean = extended_mean({"w": start}, runs, 2)["w"]
    assert (mean - right).norm() < 0.5 * min((2 * run["w"] - right).norm() for run in runs)
    assert mean.mean().item() == pytest.approx(1, abs=0.05)


def test_rows_are_averaged_step_by_step_and_what_is_spent_is_summed():
    def row(step, reward, passes, judge=None):
        return {
            "step": step, "chunk": 1, "rewards": {"a": {"mean": reward}}, "forward_passes": passes,
            "seconds": {"update": 2.0}, "no_gradient": {"share": 0.5, "names": ["x"]},
            **({"judge": judge} if judge else {}),
        }  # fmt: skip

    judge = {"mean": 0.5, "values": [0.25, 0.75]}
    members = [
        [row(1, 0.0, 3, judge), row(2, 1.0, 3)],
        [row(1, 0.5, 4), row(2, None, 4), row(3, 9.0, 4)],
    ]
    rows = mean_steps([[StepMetrics.from_json(one) for one in member] for member in members])
    expected = [row(1, 0.25, 7, judge), row(2, 1.0, 7)]  # the second member's critic abstained
    assert rows == [StepMetrics.from_json({**one, "seconds": {"update": 4.0}}) for one in expected]


def test_members_have_separate_seeds_and_the_folder_reads_as_a_run(tmp_path):
    _, policy = train_members(parts_of, CONFIG, 2, 1.5, tmp_path / "run")
    own = [
        train(ToyWorld(), critics(), toy_scenarios(5), CONFIG.changed(seed=seed), tmp_path / f"seed{seed}")
        for seed in (2, 3)
    ]
    start = own[0].reference_weights
    expected = extended_mean(start, [run.checkpoint_weights for run in own], 1.5)
    assert all(torch.equal(policy.checkpoint_weights[name], expected[name]) for name in start)
    rows, alone = (
        read_metrics(tmp_path / "run" / "metrics.jsonl"),
        read_metrics(tmp_path / "seed2/metrics.jsonl"),
    )
    assert [row.step for row in rows] == [1, 2, 3]
    assert sum(r.forward_passes for r in rows) == 2 * sum(r.forward_passes for r in alone)
    assert read_record(tmp_path / "run").planned == 3
    export_run(tmp_path / "run", tmp_path / "given")
    stored, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "step_000003")
    assert all(torch.equal(stored[f"policy/checkpoint/{name}"], expected[name]) for name in start)


def test_a_stop_in_the_second_member_loses_nothing(tmp_path, monkeypatch, capsys):
    _, straight = train_members(parts_of, CONFIG, 2, 1.5, tmp_path / "straight")

    def stopped(*args, **more):
        def stop(step, *_):
            if step == 2 and args[1].name == "1":
                os.kill(os.getpid(), signal.SIGTERM)

        return train_parts(*args, **more, on_step=stop)

    monkeypatch.setattr(members, "train_parts", stopped)
    with pytest.raises(Interrupted, match=r"members.1"):
        train_members(parts_of, CONFIG, 2, 1.5, tmp_path / "run")
    monkeypatch.undo()
    first, second = (tmp_path / "run" / "members" / m for m in "01")
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == read_metrics(first / "metrics.jsonl")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert cli.main(["doctor", str(tmp_path / "run")]) == 2
    assert f"see {second})" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "run")]) == 2
    assert f"see {second})" in capsys.readouterr().err
    _, resumed = train_members(parts_of, CONFIG, 2, 1.5, tmp_path / "run")
    for name, tensor in straight.checkpoint_weights.items():
        assert torch.equal(tensor, resumed.checkpoint_weights[name])
    configs = [json.loads((tmp_path / d / "config.json").read_text()) for d in ("run", "straight")]
    assert configs[0] == configs[1] and configs[0]["seed"] == 1


@pytest.mark.parametrize(
    ("setting", "words"), [("members=0", "1 or more, got 0"), ("extend=-1", "not below 0")]
)
def test_what_cannot_be_averaged_is_one_sentence(setting, words, tmp_path, capsys):
    assert cli.main(["train", "doom_full", "--set", setting, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "run").exists()
    with pytest.raises(UserError):
        members.check_members(2, float("nan"))
