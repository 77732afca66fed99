"""Several real processes come to what one comes to: plain and sharded, full and adapters, saved and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ranks
import torch
from ranks import SMALL, VARIANTS, outcome, post_train, together

from worldcompass.distributed import Team
from worldcompass.errors import UserError
from worldcompass.launch import number_of_ranks

TOLERANCE = 2e-5  # relative; only the order of additions differs


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Path]:
    """Every variant trained by one process."""
    root = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    for name, config in VARIANTS.items():
        post_train(root / name, config)
    return {name: root / name for name in VARIANTS}


def train_all(root: Path, variants: list[str]) -> None:
    for name in variants:
        post_train(root / name / "plain", VARIANTS[name])
        post_train(root / name / "sharded", replace(VARIANTS[name], shard=True))


def agree(got: Path, expected: Path) -> None:
    rows, tensors = outcome(got)
    rows_expected, tensors_expected = outcome(expected)
    for row, row_expected in zip(rows, rows_expected, strict=True):
        assert row == pytest.approx(row_expected, rel=1e-3, abs=1e-6)
    assert tensors.keys() == tensors_expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, tensors_expected[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize(("size", "variants"), [(2, list(VARIANTS)), (4, ["muon"])])
def test_weights_averages_optimiser_and_metrics_are_those_of_one_process(size, variants, alone, tmp_path):
    assert together(size, train_all, tmp_path, variants) == [0] * size
    for name in variants:
        agree(tmp_path / name / "plain", alone[name])
        agree(tmp_path / name / "sharded", alone[name])


def go_on(out: Path, config) -> None:
    post_train(out, config, resume=True)


def test_what_two_sharded_processes_saved_one_and_four_go_on_with(alone, tmp_path):
    short = replace(SMALL, steps=2, shard=True)
    assert together(2, post_train, tmp_path / "two", short) == [0, 0]
    shutil.copytree(tmp_path / "two", tmp_path / "four")
    go_on(tmp_path / "two", SMALL)
    assert together(4, go_on, tmp_path / "four", replace(SMALL, shard=True)) == [0] * 4
    for name in ("two", "four"):
        agree(tmp_path / name, alone["full"])


def swap(out: Path) -> None:
    """Weights that were swapped in are those that the network computes with, in every unit and the root."""
    from worldcompass.distributed import shard, whole

    net = shard(ranks.toy_world().net)
    policy = ranks.Policy(net)
    signs = torch.ones(1, 1, 4)
    before = net(signs)
    for weights in policy.behaviour_weights.values():
        weights.mul_(0.5)
    with policy.behaviour():
        swapped = net(signs)
    assert torch.equal(net(signs), before)
    plain = ranks.Layered()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(whole(policy.behaviour_weights[name]))
    if Team.current().is_main:
        torch.testing.assert_close(swapped, plain(signs))
        (out / "seen").touch()
    else:
        plain(signs)


def test_swapped_weights_reach_sharded_units_and_the_root(tmp_path):
    assert together(2, swap, tmp_path) == [0, 0]
    assert (tmp_path / "seen").exists()


def test_sizes_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(UserError, match="use 1, 2, 3, 6 processes or a multiple of 4 prompts"):
        Team(0, 4).check_divides(6)
    with pytest.raises(UserError, match="expected auto or a number"):
        number_of_ranks("two", "cpu")
    assert number_of_ranks("auto", "cpu") == 1


def command(out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    recipe = f"{Path(ranks.__file__)}:toy"
    return subprocess.run(
        [sys.executable, "-m", "worldcompass", "train", recipe, "--out", str(out), "--nproc", "2", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def test_a_rank_that_dies_is_named_ends_the_others_and_the_run_goes_on(alone, tmp_path):
    died = command(tmp_path / "run", DIE="1:2")
    assert died.returncode == 1
    assert "rank 1 of 2 was killed by signal 9" in died.stderr and "--resume" in died.stderr
    assert "Traceback" not in died.stderr
    resumed = command(tmp_path / "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    agree(tmp_path / "run", alone["full"])


def test_a_signal_to_the_launcher_reaches_the_ranks_which_save(tmp_path):
    out = tmp_path / "run"
    words = ["train", f"{Path(ranks.__file__)}:toy", "--out", str(out), "--nproc", "2", "--set", "config.steps=200",
             "--set", "config.save_every=100"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "worldcompass", *words], env={**os.environ, "OMP_NUM_THREADS": "1", "SLOW": "1"},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text().count("\n"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 143 and "stopped after step" in said, said
    assert len(list((out / "checkpoints").glob("step_*"))) == 1


def test_a_users_mistake_is_said_once_and_ends_all_ranks(tmp_path):
    refused = command(tmp_path / "run", "--set", "config.prompts_per_step=3")
    assert refused.returncode == 2
    assert refused.stderr.count("prompts_per_step is 3, which 2 processes cannot share evenly") == 1
