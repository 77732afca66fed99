"""Checkpoints and the log survive kills; damaged or foreign ones are refused with a sentence."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from worldcompass.errors import UserError
from worldcompass.media.progress import clock
from worldcompass.runs.atomic import write_tensors, write_text
from worldcompass.runs.checkpoint import (
    CheckpointState,
    DamagedCheckpoint,
    delete_after,
    latest_checkpoint,
    load_checkpoint,
    pack_optimizer,
    read_state,
    save_checkpoint,
    unpack_optimizer,
)
from worldcompass.runs.events import Refused
from worldcompass.runs.metrics import MetricsLog, RewardMetrics, StepMetrics, read_metrics
from worldcompass.training.live import LiveTable
from worldcompass.training.optim import adamw, muon, normalised_sgd

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b/c": torch.zeros((), dtype=torch.int64)}


def test_what_is_saved_is_loaded(tmp_path):
    kept = CheckpointState(
        step=3,
        run={"seed": 1},
        config={"version": 2},
        optimizer={"state": {}},
        rows=(StepMetrics(3, loss=0.5),),
        events=(Refused(2, "not finite"),),
    )
    folder = save_checkpoint(tmp_path, TENSORS, kept)
    tensors, state = load_checkpoint(folder)
    assert state == kept == read_state(folder)
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert not list(folder.glob("*.pt")) and not list(folder.glob("*.pkl"))


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, TENSORS, CheckpointState(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000002", "step_000010"]
    assert latest_checkpoint(tmp_path).name == "step_000010"


def test_a_kill_while_writing_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, TENSORS, CheckpointState(1), keep=1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, TENSORS, CheckpointState(2), keep=1)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path).name == "step_000001"
    load_checkpoint(latest_checkpoint(tmp_path))
    save_checkpoint(tmp_path, TENSORS, CheckpointState(2), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000002"]


def test_a_disk_that_fills_up_leaves_files_as_they_were(tmp_path, monkeypatch):
    weights, text = tmp_path / "weights.safetensors", tmp_path / "results.json"
    write_tensors(weights, TENSORS)
    write_text(text, "before")

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("worldcompass.runs.atomic.save_file", full)
    with pytest.raises(OSError, match="No space left"):  # which the command says in a sentence
        write_tensors(weights, {})
    monkeypatch.setattr(
        "pathlib.Path.write_text", lambda self, words, **_: self.open("w").write(words[:3]) and full()
    )
    with pytest.raises(SafetensorError):
        write_text(text, "afterwards")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "weights.safetensors"]
    assert load_file(weights).keys() == TENSORS.keys() and text.read_text() == "before"


def test_a_folder_without_its_files_is_not_seen(tmp_path):
    (tmp_path / "step_000007").mkdir()
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "nothing") is None


def test_other_folders_beside_checkpoints_are_left_alone(tmp_path):
    save_checkpoint(tmp_path, TENSORS, CheckpointState(8))
    others = ["step_000008_backup", "step_old", "step_000009 (copy)", "step_", "step_-1"]
    for name in others:
        shutil.copytree(tmp_path / "step_000008", tmp_path / name)
    save_checkpoint(tmp_path, TENSORS, CheckpointState(9), keep=1)
    assert latest_checkpoint(tmp_path).name == "step_000009"
    assert {path.name for path in tmp_path.iterdir()} == {"step_000009", *others}


def test_checkpoints_are_in_order_of_their_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        save_checkpoint(tmp_path, TENSORS, CheckpointState(step))
    assert latest_checkpoint(tmp_path).name == "step_1000000"


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path, TENSORS, CheckpointState(1))
    (folder / "state.json").write_text(json.dumps({"format": 99, "step": 1}))
    with pytest.raises(UserError, match="format 99"):
        load_checkpoint(folder)
    (folder / "tensors.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(folder)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    "wrong", [{"step": "4"}, {"step": 4, "run": []}, {"step": 4, "doctor": {"rows": [1]}}], ids=str
)
def test_a_state_with_a_malformed_entry_is_refused(wrong, tmp_path):
    folder = save_checkpoint(tmp_path, TENSORS, CheckpointState(4))
    (folder / "state.json").write_text(json.dumps({"format": 1, **wrong}))
    with pytest.raises(DamagedCheckpoint, match="not a readable checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("make", [muon, adamw, normalised_sgd])
def test_an_optimisers_state_survives_with_its_momentum(make):
    def network():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    def step(net, optimizer, seed):
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    first, second = network(), network()
    one, two = make(list(first.parameters()), 0.1, 0.1), make(list(second.parameters()), 0.1, 0.1)
    step(first, one, 1)
    tensors, plain = pack_optimizer(one)
    assert len(tensors) >= 2
    second.load_state_dict(first.state_dict())
    unpack_optimizer(two, tensors, json.loads(json.dumps(plain)))
    step(first, one, 2)
    step(second, two, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_earlier_checkpoints_are_found_and_later_ones_deleted(tmp_path):
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, {"a": torch.ones(1)}, CheckpointState(step), keep=3)
    assert latest_checkpoint(tmp_path, before=6).name == "step_000004"
    assert latest_checkpoint(tmp_path, before=2) is None
    delete_after(tmp_path, 2)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step_000002"]


def test_the_log_drops_rows_after_the_resumed_step_and_a_cut_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append(StepMetrics(step))
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    resumed = MetricsLog(log.path, resumed_step=2)
    resumed.append(StepMetrics(3, loss=0.5))
    assert read_metrics(log.path) == [StepMetrics(1), StepMetrics(2), StepMetrics(3, loss=0.5)]
    assert read_metrics(tmp_path / "none") == []


ROW = StepMetrics(2, 1, {"obedience": RewardMetrics(0.5)}, loss=1.0, grad_norm=0.1, seconds={"imagine": 1.0})


def test_a_log_gets_a_line_now_and_then_and_a_terminal_the_table():
    for terminal, live in ((False, True), (True, False), (False, False), (True, True)):
        file = io.StringIO()
        with LiveTable(
            4, 0, live, Console(file=file, force_terminal=terminal, width=40 if not terminal else 100)
        ) as table:
            table.started -= 20
            for step in (1, 2, 3, 4):
                table.show(replace(ROW, step=step))
        assert ("obedience" in file.getvalue()) == live
        if live and not terminal:
            first, last = file.getvalue().splitlines()  # the steps between came too soon after the first
            assert first == "step 1 of 4: obedience 0.500, loss 1.0000, 1.0 s; 1 min 00 s left"
            assert last.startswith("step 4 of 4: ") and last.endswith("0 s left")


def test_whether_the_run_is_learning_stands_below_the_table():
    file = io.StringIO()
    with LiveTable(4, 0, True, Console(file=file, force_terminal=True, width=100)) as table:
        table.show(ROW, {}, "Too early to tell.")
    assert "Learning? Too early to tell." in file.getvalue()


def test_a_damaged_line_before_intact_ones_is_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = '{"step": 1, "rewards": {}}\n'
    path.write_text(row + '{"st\n' + row)
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_metrics(path)
    path.write_text(row + '{"st\n\0\0\n')
    assert read_metrics(path) == [StepMetrics(1)]


def test_warnings_stand_below_the_table_or_are_told_once():
    warnings = {"no spread": "nothing is preferred [yet]"}
    for terminal in (True, False):
        file = io.StringIO()
        with LiveTable(4, 0, True, Console(file=file, force_terminal=terminal, width=100)) as table:
            table.show(ROW)
            assert "no spread" not in file.getvalue()
            table.show(ROW, warnings)
            table.show(ROW, warnings)
        assert "nothing is preferred [yet]" in file.getvalue()
        assert terminal or file.getvalue().count("no spread") == 1


def test_time_left_is_the_pace_times_the_remaining_steps():
    table = LiveTable(10, first_step=0)
    table.started -= 20
    table.show(ROW)
    assert table.seconds_left() == pytest.approx(80, rel=0.01)
    assert [clock(s) for s in (45.2, 200, 7500)] == ["45 s", "3 min 20 s", "2 h 05 min"]


def test_one_changed_digit_beside_the_tensors_is_damage(tmp_path):
    folder = save_checkpoint(tmp_path, {"w": torch.ones(2)}, CheckpointState(1, {"lr": 0.125}))
    state = folder / "state.json"
    state.write_text(state.read_text().replace("0.125", "0.135"))
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("closed", [".", "step_000001"])
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(closed, tmp_path, monkeypatch):
    """Else a run would start anew, over its own metrics."""
    save_checkpoint(tmp_path, TENSORS, CheckpointState(1))
    whole = os.listdir

    def refused(folder):
        if os.path.samefile(folder, tmp_path / closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return whole(folder)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(PermissionError):
        latest_checkpoint(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_checkpoints_are_one_sentence(tmp_path):
    save_checkpoint(tmp_path / "run" / "checkpoints", TENSORS, CheckpointState(1))
    (tmp_path / "run" / "checkpoints").chmod(0o700)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from worldcompass.runs.checkpoint import latest_checkpoint\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: latest_checkpoint(Path(sys.argv[1]))\n"
        "except PermissionError: print('refused')"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run" / "checkpoints")]
    assert subprocess.run(words, capture_output=True, text=True, check=False).stdout == "refused\n"
