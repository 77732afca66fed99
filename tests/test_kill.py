"""A real process that is killed in the middle of a run goes on as if it had never been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

RECIPE = """
from dataclasses import dataclass
from worldcompass.testing import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.train import Config, train

@dataclass(frozen=True)
class Toy:
    config: Config

    def run(self, out, device, resume):
        critics = [ToyObedience(), ToyCleanliness()]
        train(ToyWorld(), critics, toy_scenarios(8), self.config, out, resume=resume)

def toy():
    return Toy(Config(steps=60, last_chunk=1, lr=0.01, save_every=1))
"""
DEADLINE = 60.0


def start(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    (folder / "recipe.py").write_text(RECIPE)
    command = [sys.executable, "-m", "worldcompass", "train", "recipe.py:toy", "--out", out, *options]
    threads = {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, **threads}, stdout=pipe, stderr=pipe, text=True
    )


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        metrics = run / "metrics.jsonl"
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError("the run did not get there")


def final_state(run: Path) -> dict:
    return load_file(run / "checkpoints" / "step_000060" / "tensors.safetensors")


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_by_a_signal_goes_on_to_the_same_weights(tmp_path, number, code):
    straight = start(tmp_path, "straight")
    stopped = start(tmp_path, "stopped")
    wait_for_step(tmp_path / "stopped", 4)
    stopped.send_signal(number)
    _, words = stopped.communicate(timeout=DEADLINE)
    assert stopped.returncode == code
    assert "Traceback" not in words
    if number == signal.SIGINT:
        assert "resume" in words
    resumed = start(tmp_path, "stopped", "--resume")
    for process in (straight, resumed):
        _, words = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, words
    expected, found = (final_state(tmp_path / name) for name in ("straight", "stopped"))
    assert expected.keys() == found.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    assert (tmp_path / "stopped" / "metrics.jsonl").read_text().count("\n") == 60
