"""The run doctor: his arithmetic, every disease planted for real and found by name, silence on healthy runs."""

import contextlib
import dataclasses
import json
import math
import statistics as plain
from random import Random

import pytest
import torch
from diseases import (
    HEALTHY,
    HEALTHY_RUNS,
    PLANTS,
    STRENGTHS,
    Failing,
    Patient,
    clean_judge,
    course,
    flipped,
    held_out,
    run,
)  # fmt: skip

from worldcompass import cli
from worldcompass.checkpoint import latest_checkpoint, load_checkpoint
from worldcompass.doctor import Record, diagnose, read_record
from worldcompass.doctor.guard import MAX_ROLLBACKS
from worldcompass.doctor.statistics import mean, steps_needed, student, trend
from worldcompass.doom.experiment import _claim
from worldcompass.errors import StoppedRun, UserError
from worldcompass.held_out import HeldOut
from worldcompass.log import read_metrics
from worldcompass.recipes.demo import demo
from worldcompass.report import write_report
from worldcompass.testing import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.train import train
from worldcompass.video import read_video

SEED = 21  # not one of those that set the limits


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("level", "freedom", "table"),
    [(0.95, 3, 3.1824), (0.95, 30, 2.0423), (0.99, 5, 4.0321), (0.999, 8, 5.0413), (0.999, 40, 3.5510)],
)
def test_student_agrees_with_the_tables(level, freedom, table):
    assert student(level, freedom) == pytest.approx(table, rel=0.01)


def noisy(random, slope, count=24, noise=0.1):
    """Rewards of a curriculum of four chunks that differ by far more than the slope."""
    steps, chunks = list(range(1, count + 1)), [step % 4 for step in range(count)]
    values = [3.0 * c + slope * s + random.gauss(0, noise) for s, c in zip(steps, chunks, strict=True)]
    return steps, chunks, values


def test_the_interval_of_a_trend_holds_the_true_slope_as_often_as_it_says():
    random = Random(0)
    found = [trend(*noisy(random, 0.01)).slope for _ in range(1000)]
    assert 0.98 < plain.fmean(f.low < 0.01 < f.high for f in found) <= 1
    assert plain.fmean(f.value for f in found) == pytest.approx(0.01, abs=0.0005)


def test_after_the_steps_that_it_needs_a_trend_is_seen_four_times_in_five():
    random, slope, noise = Random(1), 0.01, 0.1
    count = math.ceil(steps_needed(noise, slope))
    seen = [trend(*noisy(random, slope, count, noise)).slope.rises for _ in range(600)]
    assert 0.7 < plain.fmean(seen) < 0.87


def test_without_enough_steps_there_is_no_interval():
    assert trend([1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 0, 1, 2, 0], [0.0] * 7) is not None
    assert trend([1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2], [0.0] * 6) is None
    assert trend([1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], [0.0] * 6) is None
    assert mean([1.0, 2.0, 3.0]) is None and steps_needed(1.0, 0.0) == math.inf


# ---------------------------------------------------------------- verdict, on rows as older versions wrote them


def rows_of(slopes, count=24, seed=0, spread=0.1):
    random = Random(seed)
    columns = {name: noisy(random, slope, count, 0.05)[2] for name, slope in slopes.items()}
    return [
        {
            "step": i + 1,
            "chunk": i % 4,
            "rewards": {
                n: {"mean": c[i], "std": spread, "valid": 1.0, "flat": 0.0} for n, c in columns.items()
            },
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("slopes", "count", "planned", "state"),
    [
        ({"a": 0.02, "b": 0.0}, 24, 24, "learning"),
        ({"a": 0.02, "b": -0.02}, 24, 24, "mixed"),
        ({"a": -0.02}, 24, 24, "worse"),
        ({"a": 0.001}, 12, 100, "too early"),
        ({"a": 0.0}, 120, 120, "no change"),
        ({"a": 0.02}, 5, 24, "too early"),
    ],
)
def test_the_verdict_says_what_the_rewards_do(slopes, count, planned, state):
    diagnosis = diagnose(Record(rows_of(slopes, count), (), planned))
    assert diagnosis.state == state
    assert len(diagnosis.sentences()) == 1 + len(slopes)


def test_a_reward_without_weight_is_looked_at_and_alarms_nobody():
    rows = rows_of({"a": 0.0, "watched": -0.02})
    assert [f.name for f in diagnose(Record(rows, (), 24)).findings] == ["getting worse"]
    diagnosis = diagnose(Record(rows, (), 24, {"watched": 0.0}))
    assert diagnosis.healthy and diagnosis.state != "worse"
    assert diagnosis.sentences()[2].startswith("watched falls")


def test_a_fall_is_dated_and_placed():
    rows = [
        {
            "step": s,
            "chunk": s % 2,
            "rewards": {"a": {"mean": 1.0 - 0.1 * max(0, s - 20) * (s % 2), "std": 0.1}},
        }
        for s in range(1, 41)
    ]
    (finding,) = diagnose(Record(rows, (), 40)).findings
    assert 15 <= finding.since <= 21 and "most on chunk 1" in finding.evidence


def test_too_early_names_the_steps_that_are_missing():
    sentences = diagnose(Record(rows_of({"a": 0.001}, 12), (), 100)).sentences()
    assert "Too early" in sentences[0] and "more steps needed" in sentences[1]
    over = diagnose(Record(rows_of({"a": 0.001}, 12), (), 12)).sentences()
    assert "too short" in over[0] and "beyond the 12 planned" in over[1]


def test_metrics_of_older_versions_are_read_and_what_they_lack_is_named():
    diagnosis = diagnose(Record(rows_of({"a": 0.02}), (), 24))
    assert diagnosis.healthy
    assert {"no gradient", "motion dying", "behaviour far", "reward hacking"} <= set(diagnosis.not_measured)


# ---------------------------------------------------------------- diseases planted for real

# Steps within which the test wants its finding, at a strength that was not used to set the limits.
WITHIN = {
    "reward hacking": 15, "motion dying": 64, "exposure running away": 16, "saturation running away": 16,
    "sharpness running away": 16, "diversity collapse": 64, "not finite": 4, "slow critic": 6, "getting worse": 18,
    "behaviour too far": 16, "no gradient": 4, "update too large": 8,
}  # fmt: skip


@pytest.mark.parametrize("disease", PLANTS)
def test_a_planted_disease_is_found_by_name(disease, tmp_path):
    run(PLANTS[disease](STRENGTHS[disease][1]), SEED, tmp_path, steps=WITHIN.get(disease, 12))
    findings = {finding.name: finding for finding in diagnose(read_record(tmp_path)).findings}
    assert disease in findings
    assert findings[disease].since >= 1 and all(map(len, findings[disease].lines()[:4]))


@pytest.mark.parametrize("name", ["plain", "judged", "adapters"])
def test_a_healthy_run_is_silent_from_its_first_step_to_its_last_and_learns(name, tmp_path):
    run(HEALTHY_RUNS[name], SEED, tmp_path, steps=24)
    said = course(tmp_path)
    assert [d.findings for d in said if not d.healthy] == []
    assert said[0].state == "too early" and said[-1].state == "learning"


def test_a_critic_that_returns_nan_is_named(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        train(ToyWorld(), [Failing(9)], toy_scenarios(4), HEALTHY, tmp_path, live=False)
    (finding,) = diagnose(read_record(tmp_path)).findings
    assert finding.name == "not finite" and finding.since == 3 and "critic" in finding.evidence


# ---------------------------------------------------------------- acting on it

SICK = dataclasses.replace(HEALTHY, steps=18, objective=flipped, save_every=2, lr=0.06)


def treat(config, out, resume=False):
    critics = [ToyObedience(), ToyCleanliness()]
    return train(ToyWorld(), critics, toy_scenarios(16), config, out, resume=resume, live=False)


def test_a_warned_run_goes_on(tmp_path):
    treat(SICK, tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 18
    assert not diagnose(read_record(tmp_path)).healthy


def test_a_stopped_run_is_saved_says_why_and_can_be_resumed_with_a_warning_only(tmp_path):
    with pytest.raises(StoppedRun, match=r"stopped by the doctor at step \d+, saved in .*unlearns"):
        treat(dataclasses.replace(SICK, on_disease="stop", save_every=100), tmp_path)
    step = read_metrics(tmp_path / "metrics.jsonl")[-1]["step"]
    assert step < 18 and latest_checkpoint(tmp_path / "checkpoints").name == f"step_{step:06d}"
    assert "Stopped at step" in diagnose(read_record(tmp_path)).history[0]
    treat(dataclasses.replace(SICK, on_disease="warn", save_every=100), tmp_path, resume=True)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 18


def test_a_rollback_returns_to_before_the_disease_halves_the_learning_rate_and_is_bounded(tmp_path):
    config = dataclasses.replace(SICK, on_disease="rollback", lr=1.0, objective=HEALTHY.objective)
    with pytest.raises(StoppedRun, match=f"after {MAX_ROLLBACKS} rollbacks"):
        treat(config, tmp_path)
    events = [e for e in read_metrics(tmp_path / "events.jsonl") if e["event"] == "rolled back"]
    assert [event["lr"] for event in events] == [0.5, 0.25, 0.125]
    assert all(event["to"] < event["step"] for event in events)
    undone = read_metrics(tmp_path / "rolled_back_1.jsonl")
    assert [row["step"] for row in undone] == list(range(events[0]["to"] + 1, events[0]["step"] + 1))
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.125


def test_a_rollback_cures_and_the_run_reaches_its_end_and_resumes_exactly(tmp_path):
    config = dataclasses.replace(HEALTHY, steps=12, lr=0.3, on_disease="rollback", save_every=2)
    straight = treat(config, tmp_path / "a").state()
    events = read_metrics(tmp_path / "a" / "events.jsonl")
    assert events and len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 12
    assert diagnose(read_record(tmp_path / "a")).history[0].startswith("Rolled back from step")
    with contextlib.suppress(StoppedRun):
        treat(dataclasses.replace(config, steps=10), tmp_path / "b")
    resumed = treat(config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_refused_update_is_rolled_back_instead_of_ending_the_run(tmp_path):
    class Hiccup(ToyWorld):
        """Fails once in its life, like a passing fault of a machine."""

        left = 9

        def predict_clean(self, *args):
            clean = super().predict_clean(*args)
            self.left -= torch.is_grad_enabled()
            return clean * torch.nan if self.left == 0 and torch.is_grad_enabled() else clean

    config = dataclasses.replace(HEALTHY, steps=8, on_disease="rollback", save_every=2)
    critics = [ToyObedience(), ToyCleanliness()]
    train(Hiccup(), critics, toy_scenarios(16), config, tmp_path, live=False)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 9))
    assert [event["event"] for event in read_metrics(tmp_path / "events.jsonl")] == ["refused", "rolled back"]
    assert diagnose(read_record(tmp_path)).healthy


def test_looking_changes_nothing(tmp_path):
    plain_run = treat(dataclasses.replace(HEALTHY, steps=4), tmp_path / "a").state()
    config = dataclasses.replace(HEALTHY, steps=4, probe_every=2, on_disease="rollback")
    critics = [ToyObedience(), ToyCleanliness()]
    probed = train(
        ToyWorld(), critics, toy_scenarios(16), config, tmp_path / "b", live=False, held_out=held_out()
    )
    assert all(torch.equal(plain_run[name], t) for name, t in probed.state().items())
    rows = read_metrics(tmp_path / "b" / "metrics.jsonl")
    assert [row["step"] for row in rows if "judge" in row] == [1, 2, 4]
    assert rows[0]["judge"]["mean"] == pytest.approx(plain.fmean(rows[0]["judge"]["values"]), abs=1e-5)


def test_every_look_leaves_a_clip_of_before_and_now(tmp_path):
    config = dataclasses.replace(HEALTHY, steps=4, probe_every=2, lr=1.0)
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


def test_a_probe_needs_a_judge_and_a_judge_scenarios(tmp_path):
    config = dataclasses.replace(HEALTHY, probe_every=2)
    with pytest.raises(ValueError, match="no held-out judge was given"):
        treat(config, tmp_path)
    with pytest.raises(ValueError, match="expected 4 or more of one length"):
        HeldOut(clean_judge, toy_scenarios(3))
    with pytest.raises(ValueError, match="on_disease must be one of warn, stop, rollback"):
        dataclasses.replace(HEALTHY, on_disease="pray")
    speechless = HeldOut(lambda videos, scenarios: torch.zeros(2), toy_scenarios(4))
    with pytest.raises(ValueError, match="must return 4 finite scores"):
        train(
            ToyWorld(), [ToyObedience()], toy_scenarios(4), config, tmp_path, live=False, held_out=speechless
        )


# ---------------------------------------------------------------- the command and the page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    run(Patient(), SEED, root / "healthy", steps=12)
    run(PLANTS["update too large"](3.0), SEED, root / "sick", steps=12)
    return root


def test_the_command_prints_and_its_exit_code_tells(runs, capsys):
    assert cli.main(["doctor", str(runs / "healthy")]) == 0
    out = capsys.readouterr().out
    assert "No disease found." in out and "12 of 12 steps" in out
    assert cli.main(["doctor", str(runs / "sick")]) == cli.EXIT_DISEASED
    out = capsys.readouterr().out
    assert "UPDATE TOO LARGE (harmful, since step 1)" in out and "evidence: " in out and "advice: " in out


def test_json_holds_everything_and_only_finite_numbers(runs, capsys):
    def strict(text):
        raise AssertionError(f"{text} is no JSON")

    cli.main(["doctor", str(runs / "sick"), "--json"])
    said = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert said["healthy"] is False and said["findings"][0]["name"] == "update too large"
    assert {"state", "rewards", "judge", "not_measured", "events", "steps"} <= set(said)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such folder"),
        ({}, "holds no metrics"),
        ({"metrics.jsonl": '{"step": 1}\n'}, "is no training step: rewards"),
        ({"metrics.jsonl": "[1]\n"}, "is no training step"),
        ({"metrics.jsonl": '{"step": 1, "rewards": {}}\n', "config.json": "{"}, "not a run's configuration"),
    ],
)
def test_what_is_no_run_is_one_sentence(content, words, tmp_path, capsys):
    folder = tmp_path / "run"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    assert cli.main(["doctor", str(folder)]) == cli.EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1
    with pytest.raises(UserError):
        read_record(folder)


def test_the_page_has_the_doctors_section(runs):
    sick = write_report(runs / "sick").read_text()
    assert '<article class="finding harmful"><h3>Update too large</h3>' in sick and "Evidence." in sick
    healthy = write_report(runs / "healthy").read_text()
    assert "No disease found." in healthy and "Learning so far." in healthy


def test_what_the_doctor_does_may_change_when_a_recipe_is_resumed(tmp_path):
    recipe = demo()
    _claim(tmp_path / "run", recipe, resume=False)
    told = dataclasses.replace(recipe.config, on_disease="stop", probe_every=5)
    _claim(tmp_path / "run", dataclasses.replace(recipe, config=told), resume=True)
    with pytest.raises(UserError, match="other settings"):
        other = dataclasses.replace(recipe.config, lr=1.0)
        _claim(tmp_path / "run", dataclasses.replace(recipe, config=other), resume=True)
