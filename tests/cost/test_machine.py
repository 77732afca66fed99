"""The examination of a machine; on a CPU it says what it can, and a measured step agrees with the traced one."""

import dataclasses
import json

import pytest
import torch

from worldcompass import cli
from worldcompass.cost import machine
from worldcompass.cost.machine import Finding, compared, job_of, survey
from worldcompass.cost.trace import Traced
from worldcompass.recipes import worldplay_5b, worldplay_8b


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "DISK_BYTES", 1 << 24)
    monkeypatch.setattr(machine, "SIDE", {"cpu": 64})


@pytest.mark.parametrize("recipe", [worldplay_8b.smoke, worldplay_5b.smoke])
def test_a_measured_step_takes_the_memory_that_was_traced(recipe):
    needs = recipe().needs()
    planned, measured, _ = compared(needs, 2, job_of(needs), "cpu")
    assert planned.update > 0
    for plan, real in zip(dataclasses.astuple(planned), dataclasses.astuple(measured), strict=True):
        assert real == pytest.approx(plan, rel=1e-3)


def test_the_page_says_what_a_cpu_can_tell(tmp_path, capsys):
    words = ["doctor", "--machine", "worldplay_8b:smoke", "--device", "cpu", "--folder", str(tmp_path)]
    assert cli.main(words) in (0, 1)  # the disk may be slow
    page = capsys.readouterr().out
    assert "rms_norm float32, linear bfloat16 (by PyTorch's policy, not run)" in page
    assert "flash (by the rule, not run)" in page and "TFLOP/s" in page and "GB/s" in page
    assert "not run: it would take hours on a CPU" in page
    assert not list(tmp_path.iterdir())
    assert cli.main([*words, "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)["machine"]
    assert {entry["verdict"] for entry in found} <= {"good", "bad", "note"}


def test_a_block_that_takes_more_than_planned_is_bad(monkeypatch):
    plan, real = Traced(1 << 30, 1 << 30, 1 << 30, 0, 0), Traced(1 << 30, 2 << 30, 1 << 30, 0, 0)
    monkeypatch.setattr(machine, "compared", lambda *args: (plan, real, [1.0] * 5))
    found = {
        finding.what: finding.verdict
        for finding in machine.examine_block(worldplay_8b.smoke().needs(), "cuda")
    }
    assert (
        found["attend, 1 block"] == "bad" and found["prefix, 1 block"] == found["imagine, 1 block"] == "good"
    )


def test_a_block_that_does_not_fit_is_a_finding_and_no_error(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 454.00 GiB")

    monkeypatch.setattr(machine, "compared", full)
    (finding,) = machine.examine_block(worldplay_8b.smoke().needs(), "cuda")
    assert finding == Finding("one block of real size", "out of memory: CUDA out of memory", "bad")


def test_a_slow_disk_is_bad(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SLOW_DISK", 1e6)
    assert list(survey(None, "cpu", tmp_path))[-1].verdict == "bad"


def test_doctor_needs_a_run_or_the_machine(capsys):
    assert cli.main(["doctor"]) == 2
    assert "name its folder, or examine this machine with --machine" in capsys.readouterr().err


def test_only_the_usable_cores_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 3)
    assert next(survey(None, "cpu", tmp_path)).found.startswith("CPU with 3 cores")


def test_decoding_may_take_the_work_space_that_an_h200_took(monkeypatch):
    planned, seen = 12_145_000_000, 14_232_147_968  # docs/results/gpu_h200.json
    plan, real = (Traced(0, 0, 0, size, 0) for size in (planned, seen))
    monkeypatch.setattr(machine, "compared", lambda *args: (plan, real, [1.0] * 5))
    assert {finding.verdict for finding in machine.examine_block(worldplay_8b.smoke().needs(), "cuda")} == {
        "good",
        "note",
    }
    monkeypatch.setattr(machine, "compared", lambda *args: (plan, Traced(0, 0, 0, 2 * planned, 0), [1.0] * 5))
    assert any(
        finding.verdict == "bad" for finding in machine.examine_block(worldplay_8b.smoke().needs(), "cuda")
    )
