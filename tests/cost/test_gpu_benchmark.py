"""The prepared benchmark of a lent GPU, at tiny size on a CPU: every part runs and is kept."""

import importlib
import json
from pathlib import Path

import pytest

from worldcompass.cost import plan
from worldcompass.cost.trace import trace
from worldcompass.cost.work import Work


def trace_with_data(world, modules, job):
    for module in modules:
        module.to_empty(device="cpu")
    return trace(world, job)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("gpu")


def test_every_part_runs_at_tiny_size(gpu, tmp_path, monkeypatch):
    # Counting operations and tracing without data have tests of their own, and take longest.
    monkeypatch.setattr(gpu, "count_work", lambda needs: Work(1.0, 1.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(plan, "trace_without_data", trace_with_data)
    for name in ("attention", "worldplay_8b", "sharded", "compile"):
        gpu.run_part(name, True, tmp_path)
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert max(found["attention"]["errors"].values()) < 1e-5
    parts = found["worldplay_8b"]["parts"]
    assert set(parts) == {"prefix", "attend", "imagine", "decode", "update"}
    assert all(
        part["measured_over_planned"] == pytest.approx(1, rel=0.01)
        for part in parts.values()
        if part["planned_gib"]
    )
    assert found["sharded"]["off"] < 1e-5 and found["sharded"]["plain_norm"] > 0
    assert found["compile"]["difference"] == 0 and found["compile"]["plain_seconds"] > 0


def test_finished_parts_are_kept_and_a_failed_one_costs_no_other(gpu, tmp_path, monkeypatch, capsys):
    (tmp_path / "good.json").write_text("{}")
    monkeypatch.setattr(gpu, "PARTS", {"good": None, "bad": None, "late": None})
    asked = []

    def start(command, timeout):
        name = command[command.index("--part") + 1]
        asked.append(name)
        if name == "late":
            (tmp_path / "late.json").write_text("{}")
        return type("Ended", (), {"returncode": 137})

    monkeypatch.setattr(gpu.subprocess, "run", start)
    assert gpu.run_all(tmp_path, True, 1.0) == 1
    assert asked == ["bad", "late"]
    out = capsys.readouterr().out
    assert "good: kept" in out and "bad: failed with 137" in out and "late: done" in out
    assert gpu.run_all(tmp_path, True, 0.0) == 1 and "bad: no time left" in capsys.readouterr().out


def test_without_a_gpu_it_says_how_to_try_it(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    if not gpu.torch.cuda.is_available():
        assert gpu.main() == 2 and "--tiny" in capsys.readouterr().out
