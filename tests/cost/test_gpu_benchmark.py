"""The prepared benchmark of a lent GPU, at tiny size on a CPU: every part runs and is kept."""

import argparse
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
    for name in ("attention", "plan_8b", "worldplay_8b", "sharded", "compile"):
        gpu.run_part(name, True, tmp_path)
    gpu.compare(tmp_path)
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert max(found["attention"]["errors"].values()) < 1e-5
    parts = found["compared_8b"]
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


def test_a_call_is_told_when_it_ends_and_its_rate_compared_with_the_count(gpu, tmp_path, capsys, monkeypatch):
    def start(meter, device):
        meter.device, meter.seconds = device, []

    def above(meter):
        meter.seconds.append(2.0)
        return gpu.GIB

    monkeypatch.setattr(gpu.CudaBytes, "__init__", start)
    monkeypatch.setattr(gpu.CudaBytes, "above", above)
    monkeypatch.setattr(gpu.CudaBytes, "now", 3 * gpu.GIB)
    meter = gpu.Told("cuda:0")
    for _ in range(2):
        meter.above()
    assert capsys.readouterr().out.splitlines() == [
        "remember: 2.00 s, 3.00 GiB kept, peak 1.00 above",
        "attend: 2.00 s, 3.00 GiB kept, peak 1.00 above",
    ]
    assert meter.by_call == {"remember": 2.0, "attend": 2.0}
    plan = {"bytes": {"attend": gpu.GIB}, "operations": {"remember": 1e12, "attend": 6e12}}
    seen = {"bytes": {"attend": 1.5 * gpu.GIB}, "seconds": meter.by_call, "matrix_tflops": 6.0}
    (tmp_path / "plan_8b.json").write_text(json.dumps(plan))
    (tmp_path / "worldplay_8b.json").write_text(json.dumps(seen))
    gpu.compare(tmp_path)
    found = json.loads((tmp_path / "compared_8b.json").read_text())
    assert found["attend"]["share_of_matrix_rate"] == 0.5 and found["attend"]["measured_over_planned"] == 1.5
    assert found["remember"] == {
        "seconds": 2.0,
        "share_of_matrix_rate": pytest.approx(1 / 12),
        "aim": gpu.AIM,
    }


def test_only_named_parts_run_and_a_plan_needs_no_gpu(gpu, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(gpu, "run_part", lambda *args: asked.append(args))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--part", "plan_8b", "--out", str(tmp_path)])
    assert gpu.main() == 0 and asked == [("plan_8b", False, tmp_path)]
    assert gpu.names_of_parts("attention,demo") == ["attention", "demo"]
    with pytest.raises(
        argparse.ArgumentTypeError, match="unknown part 'attentive': expected some of attention"
    ):
        gpu.names_of_parts("attentive")
    (tmp_path / "demo.json").write_text("{}")
    assert gpu.run_all(tmp_path, True, 1.0, ["demo"]) == 0
    assert capsys.readouterr().out == f"demo: kept\n1 of 1 parts in {tmp_path}\n"


def test_without_a_gpu_it_says_how_to_try_it(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    if not gpu.torch.cuda.is_available():
        assert gpu.main() == 2 and "--tiny" in capsys.readouterr().out
