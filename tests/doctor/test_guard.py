"""The run doctor at work: warn, stop, roll back; his knowledge in checkpoints; the held-out judge's looks."""

import contextlib
import dataclasses
import json
import statistics as plain

import pytest
import torch
from diseases import HEALTHY, clean_judge, flipped, held_out

from worldcompass.doctor import diagnose, read_record
from worldcompass.doctor.guard import MAX_ROLLBACKS, Guard
from worldcompass.errors import StoppedRun, UserError
from worldcompass.media.video import read_video
from worldcompass.recipes.demo import demo
from worldcompass.runs import checkpoint
from worldcompass.runs.checkpoint import latest_checkpoint, load_checkpoint
from worldcompass.runs.events import Refused, RolledBack, read_events
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training import loop as training
from worldcompass.training import resume
from worldcompass.training.loop import train
from worldcompass.training.probe import HeldOut
from worldcompass.worlds.doom.experiment import ground
from worldcompass.worlds.small.post_training.experiment import claim_run

pytestmark = pytest.mark.usefixtures("one_thread")

# The hinge on the norm keeps the looks, so that unlearning is the first disease.
SICK = HEALTHY.changed(steps=18, objective=flipped, save_every=2, lr=0.06, norm_weight=20.0)


def treat(config, out, resume=False):
    critics = [ToyObedience(), ToyCleanliness()]
    return train(ToyWorld(), critics, toy_scenarios(16), config, out, resume=resume, live=False)


def test_a_warned_run_goes_on(tmp_path):
    treat(SICK, tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 18
    assert not diagnose(read_record(tmp_path)).healthy


def test_a_stopped_run_is_saved_says_why_and_can_be_resumed_with_a_warning_only(tmp_path):
    with pytest.raises(StoppedRun, match=r"stopped by the doctor at step \d+, saved in .*unlearns"):
        treat(SICK.changed(on_disease="stop", save_every=100), tmp_path)
    step = read_metrics(tmp_path / "metrics.jsonl")[-1].step
    assert step < 18 and latest_checkpoint(tmp_path / "checkpoints").name == f"step_{step:06d}"
    assert "Stopped at step" in diagnose(read_record(tmp_path)).history[0]
    treat(SICK.changed(on_disease="warn", save_every=100), tmp_path, resume=True)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 18


def test_a_rollback_returns_to_before_the_disease_halves_the_learning_rate_and_is_bounded(tmp_path):
    config = HEALTHY.changed(steps=18, on_disease="rollback", save_every=2, lr=1.0)
    with pytest.raises(StoppedRun, match=f"after {MAX_ROLLBACKS} rollbacks"):
        treat(config, tmp_path)
    events = [e for e in read_events(tmp_path / "events.jsonl") if isinstance(e, RolledBack)]
    assert [event.lr for event in events] == [0.5, 0.25, 0.125]
    assert all(event.to < event.step for event in events)
    undone = read_metrics(tmp_path / "rolled_back_1.jsonl")
    assert [row.step for row in undone] == list(range(events[0].to + 1, events[0].step + 1))
    steps = [row.step for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    assert state.optimizer["param_groups"][0]["lr"] == 0.125


def test_a_rollback_cures_and_the_run_reaches_its_end_and_resumes_exactly(tmp_path):
    config = HEALTHY.changed(steps=12, lr=0.3, on_disease="rollback", save_every=2)
    straight = treat(config, tmp_path / "a").state()
    events = read_events(tmp_path / "a" / "events.jsonl")
    assert events and len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 12
    assert diagnose(read_record(tmp_path / "a")).history[0].startswith("Rolled back from step")
    with contextlib.suppress(StoppedRun):
        treat(config.changed(steps=10), tmp_path / "b")
    resumed = treat(config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


class Enough(BaseException):
    """Ends a run where the test has seen enough, like a kill."""


def steps_of(out):
    return [row.step for row in read_metrics(out / "metrics.jsonl")]


def test_a_rollback_brings_back_the_very_weights_averages_and_momentum_of_the_last_healthy_step(
    tmp_path, monkeypatch
):
    """Against what was remembered in memory, not against the checkpoint that is read."""

    def snapshot(run):
        tensors = {n: t.clone() for n, t in run.policy.state().items()}
        entries = [run.optimizer.state[p] for p in run.policy.parameters]
        return tensors, [{k: v.clone() for k, v in e.items() if torch.is_tensor(v)} for e in entries]

    remembered, returned = {}, []
    real_save, real_roll_back = resume.save, resume.roll_back

    def save(run, guard, step):
        remembered[step] = snapshot(run)
        real_save(run, guard, step)

    def roll_back(run, guard, step, finding):
        to = real_roll_back(run, guard, step, finding)
        returned.append((step, to, finding.since, snapshot(run)))
        raise Enough

    monkeypatch.setattr(training, "save", save)
    monkeypatch.setattr(training, "roll_back", roll_back)
    with pytest.raises(Enough):
        treat(SICK.changed(on_disease="rollback", save_every=2), tmp_path)
    step, to, since, (weights, momentum) = returned[0]
    assert 0 < to < since <= step
    expected_weights, expected_momentum = remembered[to]
    assert weights and all(torch.equal(weights[name], t) for name, t in expected_weights.items())
    assert momentum and len(momentum) == len(expected_momentum)
    for now, then in zip(momentum, expected_momentum, strict=True):
        assert now.keys() == then.keys() and all(torch.equal(now[key], then[key]) for key in then)
    worse = remembered[step][0]
    assert any(not torch.equal(weights[name], t) for name, t in worse.items())


def test_a_damaged_checkpoint_is_named_and_the_rollback_goes_to_the_one_before(tmp_path, monkeypatch):
    real = resume.roll_back
    damaged = []

    def roll_back(run, guard, step, finding):
        damaged.append(latest_checkpoint(tmp_path / "checkpoints", before=finding.since))
        (damaged[0] / "tensors.safetensors").write_bytes(b"gone")
        real(run, guard, step, finding)
        raise Enough

    monkeypatch.setattr(training, "roll_back", roll_back)
    with pytest.warns(UserWarning, match="the one before it is used"), pytest.raises(Enough):
        treat(SICK.changed(on_disease="rollback", save_every=1), tmp_path)
    first = next(e for e in read_events(tmp_path / "events.jsonl") if isinstance(e, RolledBack))
    assert first.to == checkpoint.step_of(damaged[0]) - 1


@pytest.mark.parametrize("stage", ["save", "delete_after", "MetricsLog"])
def test_a_kill_in_the_middle_of_a_rollback_loses_nothing(stage, tmp_path, monkeypatch):
    config = HEALTHY.changed(steps=8, lr=0.3, on_disease="rollback", save_every=2)

    def killed(*_, **__):
        raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(resume, stage, killed)
        treat(config, tmp_path)
    with contextlib.suppress(StoppedRun):
        treat(config, tmp_path, resume=True)
    steps = steps_of(tmp_path)
    assert steps == list(range(1, len(steps) + 1))
    lrs = [event.lr for event in read_events(tmp_path / "events.jsonl") if isinstance(event, RolledBack)]
    # While the sick checkpoint is the newest, the resumed run finds the disease anew, and halves the same rate.
    assert lrs[:2] == [0.15, 0.15] if stage != "MetricsLog" else lrs[0] == 0.15 and 0.15 not in lrs[1:]


def test_after_going_back_to_the_start_a_kill_does_not_forget_it(tmp_path, monkeypatch):
    """More later checkpoints than are kept must not crowd out the one of step 0."""
    monkeypatch.setattr(resume, "LOOK_BACK", 0)
    config = HEALTHY.changed(steps=6, lr=1.0, on_disease="rollback", save_every=1)

    def checked(root, step):
        assert step == 0 and latest_checkpoint(root, before=1) is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "delete_after", checked)
    with pytest.raises(KeyboardInterrupt):
        treat(config, tmp_path)


def test_a_checkpoint_holds_what_the_doctor_knows(tmp_path):
    """A run whose metrics were lost resumes with all its rows, rollbacks and starting points."""
    config = HEALTHY.changed(steps=12, lr=0.3, on_disease="rollback", save_every=2)
    treat(config, tmp_path)
    rows, events = read_metrics(tmp_path / "metrics.jsonl"), read_events(tmp_path / "events.jsonl")
    assert events
    for name in ("metrics.jsonl", "events.jsonl"):
        (tmp_path / name).unlink()
    treat(config, tmp_path, resume=True)
    assert read_metrics(tmp_path / "metrics.jsonl") == rows
    assert read_events(tmp_path / "events.jsonl") == events


def test_checkpoints_of_older_versions_and_events_that_a_kill_cut_off_are_resumed(tmp_path):
    config = HEALTHY.changed(steps=4, save_every=2)
    treat(config, tmp_path)
    for path in tmp_path.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in state.items() if k not in ("checksum", "config", "doctor")})
        )
    event = {"event": "refused", "step": 3, "why": "loss is nan"}
    (tmp_path / "events.jsonl").write_text(f'{json.dumps(event)}\n{{"event": "rolled b')
    treat(config.changed(steps=6), tmp_path, resume=True)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "events.jsonl").read_text() == json.dumps(event) + "\n"


def test_of_several_harmful_findings_the_first_to_begin_decides_how_far_to_go_back(tmp_path):
    found = diagnose(read_record(ill_run(tmp_path)))
    harmful = [f.since for f in found.findings if f.severity == "harmful"]
    assert len(set(harmful)) > 1
    guard = Guard(RunFolder(tmp_path), 18, {}, "rollback")
    acted = guard.disease(found)
    assert acted is not None and acted.since == min(harmful) and acted.name == found.findings[0].name
    assert Guard(RunFolder(tmp_path), 18, {}, "warn").disease(found) is None


def ill_run(out):
    treat(HEALTHY.changed(steps=18, lr=1.0), out)
    return out


def test_a_refused_update_is_rolled_back_instead_of_ending_the_run(tmp_path):
    class Hiccup(ToyWorld):
        """Fails once in its life, like a passing fault of a machine."""

        left = 9

        def predict_clean(self, *args):
            clean = super().predict_clean(*args)
            self.left -= torch.is_grad_enabled()
            return clean * torch.nan if self.left == 0 and torch.is_grad_enabled() else clean

    config = HEALTHY.changed(steps=8, on_disease="rollback", save_every=2)
    critics = [ToyObedience(), ToyCleanliness()]
    train(Hiccup(), critics, toy_scenarios(16), config, tmp_path, live=False)
    assert [row.step for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 9))
    assert [type(event) for event in read_events(tmp_path / "events.jsonl")] == [Refused, RolledBack]
    assert diagnose(read_record(tmp_path)).healthy


def test_looking_changes_nothing(tmp_path):
    plain_run = treat(HEALTHY.changed(steps=4), tmp_path / "a").state()
    config = HEALTHY.changed(steps=4, probe_every=2, on_disease="rollback")
    critics = [ToyObedience(), ToyCleanliness()]
    probed = train(
        ToyWorld(), critics, toy_scenarios(16), config, tmp_path / "b", live=False, held_out=held_out()
    )
    assert all(torch.equal(plain_run[name], t) for name, t in probed.state().items())
    rows = read_metrics(tmp_path / "b" / "metrics.jsonl")
    assert [row.step for row in rows if row.judge is not None] == [1, 2, 4]
    assert rows[0].judge.mean == pytest.approx(plain.fmean(rows[0].judge.values), abs=1e-5)


def test_every_look_leaves_a_clip_of_before_and_now(tmp_path):
    config = HEALTHY.changed(steps=4, probe_every=2, lr=1.0)
    critics = [ToyObedience(), ToyCleanliness()]
    train(ToyWorld(), critics, toy_scenarios(16), config, tmp_path, live=False, held_out=held_out())
    samples = tmp_path / "samples"
    names = ["before.mp4", "step_000001.mp4", "step_000002.mp4", "step_000004.mp4"]
    assert sorted(path.name for path in samples.iterdir()) == names
    before, last = (read_video(samples / name).float() for name in (names[0], names[-1]))
    height, width = before.shape[-2:]
    left, right = last[..., -height:, :width], last[..., -height:, -width:]
    assert len(last) == len(before)
    lost, changed = (left - before).abs().mean(), (right - before).abs().mean()
    assert lost < 2 and changed > 2 * lost, f"{lost}, {changed}"


def test_a_probe_without_a_judge_leaves_clips_and_a_judge_needs_scenarios(tmp_path):
    config = HEALTHY.changed(probe_every=2)
    treat(config.changed(steps=2), tmp_path / "looked")
    clips = sorted(path.name for path in (tmp_path / "looked" / "samples").iterdir())
    assert clips == ["before.mp4", "step_000001.mp4", "step_000002.mp4"]
    assert read_metrics(tmp_path / "looked" / "metrics.jsonl")[-1].judge is None
    with pytest.raises(ValueError, match="expected 4 or more held-out scenarios of one length"):
        HeldOut(clean_judge, toy_scenarios(3))
    with pytest.raises(ValueError, match="on_disease must be one of warn, stop, rollback"):
        HEALTHY.changed(on_disease="pray")
    speechless = HeldOut(lambda videos, scenarios: torch.zeros(2), toy_scenarios(4))
    with pytest.raises(ValueError, match="must return 4 finite scores"):
        train(
            ToyWorld(), [ToyObedience()], toy_scenarios(4), config, tmp_path, live=False, held_out=speechless
        )


def test_what_the_doctor_does_may_change_when_a_recipe_is_resumed(tmp_path):
    recipe = demo()
    claim_run(ground(), RunFolder(tmp_path / "run"), recipe, resume=False)
    told = recipe.config.changed(on_disease="stop", probe_every=5)
    claim_run(ground(), RunFolder(tmp_path / "run"), dataclasses.replace(recipe, config=told), resume=True)
    with pytest.raises(UserError, match="other settings"):
        other = recipe.config.changed(lr=1.0)
        claim_run(
            ground(), RunFolder(tmp_path / "run"), dataclasses.replace(recipe, config=other), resume=True
        )
