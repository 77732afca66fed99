"""Trackers get the numbers of every step; those of packages that are not here are stood in for by fakes."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from worldcompass import cli
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import RewardMetrics, StepMetrics, Unreached, read_metrics
from worldcompass.runs.requirements import has_package
from worldcompass.runs.trackers import numbers, tracking
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser
from worldcompass.training.selection import Learning

TINY = Config(
    steps=3,
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1),
    learning=Learning(best=1, worst=1, noise_levels=2),
    optimiser=Optimiser(lr=1e-2),
    keeping=Keeping(save_every=1),
)


def train_toy(out, **changes):
    config = TINY.changed(**changes)
    critics = [ToyObedience(), ToyCleanliness()]
    train(ToyWorld(), critics, toy_scenarios(4), config, out, resume=out.exists(), live=False)
    return [numbers(row) | {"step": row.step} for row in read_metrics(out / "metrics.jsonl")]


def test_numbers_are_flat_and_nothing_else_is_sent():
    step = StepMetrics(
        3, 1, {"a": RewardMetrics(mean=0.5)}, objective={"error": 2}, no_gradient=Unreached(0.25, ("x",))
    )
    assert numbers(step) == {"chunk": 1.0, "rewards/a/mean": 0.5, "error": 2.0, "no_gradient/share": 0.25}


def test_tensorboard_reads_what_a_resumed_run_logged(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_toy(tmp_path / "run", steps=2, track="tensorboard")
    rows = train_toy(tmp_path / "run", track="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("loss", "rewards/obedience/mean"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["step"], pytest.approx(row[name])) for row in rows]


def test_wandb_writes_a_run_offline_without_an_account(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the package wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_toy(tmp_path / "run", steps=2, track="wandb")
    train_toy(tmp_path / "run", track="wandb")
    run_id = (tmp_path / "run" / "tracker_id").read_text().strip()
    kept = list((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(kept) == 2
    deadline = time.monotonic() + 60  # its own process writes the end of a file
    while missing := [file for file in kept if b"grad_norm" not in file.read_bytes()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)


def test_trackio_holds_one_run_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="needs the package trackio")
    import trackio.sqlite_storage as storage

    for module in (storage, sys.modules["trackio.utils"]):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    train_toy(tmp_path / "run", steps=2, track="trackio")
    rows = train_toy(tmp_path / "run", track="trackio")
    name = "run-" + (tmp_path / "run" / "tracker_id").read_text().strip()
    logs = storage.SQLiteStorage.get_logs("worldcompass", name)
    assert [log["loss"] for log in logs] == [row["loss"] for row in rows]


class FakeWandb:
    """What this project uses of wandb: init, and a run's define_metric, log, finish."""

    def __init__(self):
        self.settings, self.rows, self.finished = [], [], 0

    def init(self, *, project, name, id, dir, mode, config, resume):
        self.settings.append({"project": project, "name": name, "id": id, "dir": dir, "mode": mode})
        assert resume == {"offline": None, "online": "allow"}[mode], "a server goes on in the same run"
        json.dumps(config)
        return SimpleNamespace(define_metric=self.define_metric, log=self.rows.append, finish=self.finish)

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def finish(self):
        self.finished += 1


class FakeTrackio:
    """What this project uses of trackio: init, log, finish."""

    def __init__(self):
        self.names, self.rows, self.finished = [], [], 0

    def init(self, *, project, name, config, resume, embed):
        json.dumps(config)
        assert (project, resume, embed) == ("worldcompass", "allow", False)
        self.names.append(name)

    def log(self, values, *, step):
        self.rows.append({**values, "step": float(step)})

    def finish(self):
        self.finished += 1


@pytest.fixture
def pretend(monkeypatch):
    def put(name, fake):
        monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setattr("worldcompass.training.keeping.installed", lambda track: True)
        return fake

    return put


def test_wandb_is_asked_for_an_offline_run_that_keeps_its_id(tmp_path, monkeypatch, pretend):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = pretend("wandb", FakeWandb())
    train_toy(tmp_path / "run", steps=2, track="wandb")
    rows = train_toy(tmp_path / "run", track="wandb")
    assert fake.rows == rows and fake.finished == 2
    assert [s["mode"] for s in fake.settings] == ["offline", "offline"]
    assert len({s["id"] for s in fake.settings}) == 1
    monkeypatch.setenv("WANDB_MODE", "online")
    with tracking("wandb", RunFolder(tmp_path), 0, {}):
        assert fake.settings[-1]["mode"] == "online", "only when it is asked for"


def test_trackio_is_asked_for_one_run_and_ends_when_training_fails(tmp_path, pretend):
    fake = pretend("trackio", FakeTrackio())
    rows = train_toy(tmp_path / "run", track="trackio")
    assert fake.rows == rows and fake.finished == 1
    with pytest.raises(OSError, match="full"), tracking("trackio", RunFolder(tmp_path / "run"), 3, {}):
        raise OSError("full")
    assert fake.finished == 2 and len(set(fake.names)) == 1


def test_a_folder_that_a_tracker_wrote_to_is_not_its_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_a_test").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert has_package("json") and not has_package("wandb_of_a_test") and not has_package("no_parent.child")


def test_an_absent_package_is_a_sentence_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("worldcompass.runs.requirements.importlib.util.find_spec", lambda name: None)
    assert cli.main(["train", "doom_full", "--track", "wandb", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'worldcompass[track]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="track must be one of none, tensorboard, wandb, trackio"):
        TINY.changed(track="paper")
