"""Real processes that are killed or stopped resume as if nothing had happened; see faults.py."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import faults
import pytest
from faults import (
    EVENTS_PER_STEP,
    STAGES,
    finish,
    outcome,
    serve_obedience,
    start,
    wait_for,
    wait_for_step,
    words_of,
)

from worldcompass.parallel import signals as interrupt
from worldcompass.parallel.signals import Interrupted, finishing_the_step
from worldcompass.runs.metrics import read_metrics

NOTICES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The result of an undisturbed run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert finish(start(out)) == 0, words_of(out).read_text()
    return outcome(out)


def goes_on_to(out, expected):
    assert finish(start(out, "--resume")) == 0, words_of(out).read_text()
    rows, weights = outcome(out)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert (rows, weights) == expected
    assert "Traceback" not in words_of(out).read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_random_moments_of_a_stage_ends_bit_equal(stage, tmp_path, straight):
    chance = random.Random(stage)
    for _ in range(2):
        moment = chance.randint(1, 3 * EVENTS_PER_STEP[stage])
        assert finish(start(tmp_path / "run", "--resume", fuse=f"{stage}:{moment}")) == -signal.SIGKILL
    goes_on_to(tmp_path / "run", straight)


def test_a_run_killed_from_outside_at_random_times_ends_bit_equal(tmp_path, straight):
    chance, out = random.Random(0), tmp_path / "run"
    codes = []
    for _ in range(4):
        process = start(out, "--resume")
        wait_for(lambda: (out / "metrics.jsonl").exists())
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        codes.append(finish(process))
    assert -signal.SIGKILL in codes
    goes_on_to(out, straight)


def test_the_command_itself_survives_a_kill(tmp_path, straight):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "worldcompass", "train", f"{faults.__file__}:toy", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FUSE": "rewards:7"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL and not killed.stderr
    goes_on_to(out, straight)


def test_a_full_disk_gives_one_sentence_and_the_run_can_resume(tmp_path, straight):
    out = tmp_path / "run"
    assert finish(start(out, file_limit=5000)) == 2, "a checkpoint is larger"
    words = words_of(out).read_text()
    assert words.startswith("error: ") and words.count("\n") == 1 and str(out / "checkpoints") in words
    goes_on_to(out, straight)


def test_a_run_whose_critic_is_killed_reports_it_and_resumes_bit_equal(tmp_path, straight):
    pytest.importorskip("uvicorn", reason="serving a critic needs worldcompass[web]")
    out = tmp_path / "run"
    critic, address = serve_obedience(groups=8)  # in the fourth step: one is shown before the first
    assert finish(start(out, critic=address)) == 2
    assert finish(critic) == -signal.SIGKILL
    words = words_of(out).read_text()
    assert "the critic obedience" in words and "--resume" in words
    assert [row.step for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]
    goes_on_to(out, straight)
    assert [int(n) for n in (out / "steps_done").read_text().split()] == list(range(1, 9)), "nothing repeated"


def hold(out):
    """A run that is in the middle of its fourth step."""
    process = start(out, "--set", "config.save_every=100")
    wait_for_step(out, 3)
    (out / "hold").touch()
    wait_for((out / "held").exists)
    return process


@pytest.mark.parametrize("number", NOTICES, ids=lambda number: number.name)
def test_a_signal_stops_after_the_step_saves_and_explains_how_to_resume(number, tmp_path, straight):
    out = tmp_path / "run"
    process = hold(out)
    os.kill(process.pid, number)
    time.sleep(0.05)
    assert process.is_alive()
    (out / "hold").unlink()
    assert finish(process) == NOTICES[number]
    last = int((out / "steps_done").read_text().split()[-1])
    words = words_of(out).read_text()
    assert f"stopped after step {last}, which is saved in {out}" in words and "--resume" in words
    goes_on_to(out, straight)
    assert [int(n) for n in (out / "steps_done").read_text().split()] == list(range(1, 9)), "nothing repeated"


def test_a_second_ctrl_c_stops_at_once_and_loses_only_unsaved_steps(tmp_path, straight):
    process, held = hold(tmp_path / "run"), tmp_path / "run" / "held"
    os.kill(process.pid, signal.SIGINT)
    for _ in range(2):  # it went on with what it holds at: two signals before it looks would be one
        held.unlink()
        wait_for(held.exists)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130, "though the step still holds"
    assert "stopped at once" in words_of(tmp_path / "run").read_text()
    (tmp_path / "run" / "hold").unlink()
    goes_on_to(tmp_path / "run", straight)


def test_only_a_repeated_signal_stops_at_once(monkeypatch):
    now, before = [0.0], signal.getsignal(signal.SIGTERM)  # libraries may have set their own
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    with pytest.raises(Interrupted) as stop, finishing_the_step() as interrupted:
        for number in (
            signal.SIGUSR1,
            signal.SIGTERM,
            signal.SIGTERM,
            signal.SIGINT,
        ):  # one each, one twice over
            os.kill(os.getpid(), number)
        now[0] = 60.0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupted() == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the second SIGTERM did not stop it")
    assert stop.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_comes_too_late_for_the_last_step_still_counts():
    with pytest.raises(Interrupted), finishing_the_step():
        os.kill(os.getpid(), signal.SIGTERM)
