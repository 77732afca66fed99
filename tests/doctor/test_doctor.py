"""The run doctor: his arithmetic, every disease planted for real and found by name, silence on healthy runs."""

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
    course,
    held_out,
    run,
)  # fmt: skip

from worldcompass import cli
from worldcompass.doctor import Record, diagnose, read_record
from worldcompass.doctor.trends import mean, steps_needed, trend
from worldcompass.errors import UserError
from worldcompass.report import write_report
from worldcompass.runs.metrics import Pictures, RewardMetrics, StepMetrics, write_metrics
from worldcompass.statistics import student
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.training.probe import HeldOut

SEED = 21  # not one of those that set the limits


pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert plain.fmean(f.mean for f in found) == pytest.approx(0.01, abs=0.0005)


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
        ({"a": 0.02, "b": 0.0}, 24, 24, "unjudged"),
        ({"a": 0.02, "b": -0.02}, 24, 24, "mixed"),
        ({"a": -0.02}, 24, 24, "worse"),
        ({"a": 0.001}, 12, 100, "too early"),
        ({"a": 0.0}, 120, 120, "no change"),
        ({"a": 0.02}, 5, 24, "too early"),
    ],
)
def test_the_verdict_says_what_the_rewards_do(slopes, count, planned, state):
    diagnosis = diagnose(Record(steps(rows_of(slopes, count)), (), planned))
    assert diagnosis.state == state
    assert sum(line.startswith(tuple(slopes)) for line in diagnosis.sentences()) == len(slopes)


def steps(rows):
    return [StepMetrics.from_json(row) for row in rows]


def judged(rows, change, noise=0.02, videos=8, every=6):
    """The same rows with looks of a judge whose scores move by ``change`` from the first look to the last."""
    random = Random(5)
    start = [random.random() for _ in range(videos)]
    last = rows[-1]["step"]

    def look(step):
        moved = change * (step - 1) / (last - 1)
        return {"values": [v + moved + (random.gauss(0, noise) if step > 1 else 0) for v in start]}

    seen = {1, last, *range(every, last, every)}
    return [{**row, "judge": look(row["step"])} if row["step"] in seen else row for row in rows]


@pytest.mark.parametrize(
    ("slope", "change", "state", "words"),
    [
        (0.02, 0.2, "learning", "Yes, it is learning"),
        (0.02, 0.0, "unconfirmed", "Not shown: the rewards rise, but the held-out judge"),
        (0.02, -0.2, "hacked", "No, it is being fooled"),
        (0.0, 0.2, "learning", "Yes, it is learning"),
        (-0.02, 0.2, "mixed", "In part"),
        (-0.02, 0.0, "worse", "No, it is getting worse"),
        (0.0, -0.2, "worse", "No, it is getting worse"),
    ],
)
def test_only_the_held_out_judge_can_call_a_run_learning(slope, change, state, words):
    diagnosis = diagnose(Record(steps(judged(rows_of({"a": slope}), change)), (), 24))
    assert diagnosis.state == state and diagnosis.answer.startswith(words)
    assert any(line.startswith("Held-out judge") for line in diagnosis.sentences())


def test_a_run_that_got_better_and_has_nothing_left_to_prefer_is_not_called_learning_any_more():
    rows = [{**row, "flat_groups": float(row["step"] > 12)} for row in judged(rows_of({"a": 0.02}), 0.2)]
    assert diagnose(Record(steps(rows[:12]), (), 24)).state == "learning"
    stuck = diagnose(Record(steps(rows), (), 24))
    assert stuck.state == "stuck" and stuck.answer.startswith(
        "No, the model is learning nothing: most groups have no spread"
    )


def evaluated(folder, combined, realism=0.0):
    """A finished run's results: change of actions followed and of realism, +-0.05."""

    def entry(mean):
        return {"mean": mean, "ci95": [mean - 0.05, mean + 0.05], "n": 24}

    both = {"judge_accuracy": entry(combined), "quality": entry(realism), "critic_accuracy": entry(0.9)}
    (folder / "results.json").write_text(json.dumps({"schema": 1, "difference": {"combined": both}}))


@pytest.mark.parametrize(
    ("slope", "probed", "combined", "realism", "state"),
    [
        (0.02, None, 0.12, 0.0, "learning"),
        (0.02, None, 0.03, 0.0, "unconfirmed"),
        (0.02, None, 0.03, 0.3, "unconfirmed"),  # realism may be earned by standing still
        (0.02, None, 0.12, -0.2, "mixed"),
        (0.02, None, -0.2, 0.0, "hacked"),
        (0.0, None, -0.06, 0.0, "worse"),
        (0.02, 0.2, 0.0, 0.0, "unconfirmed"),  # the evaluation outweighs the few videos of the looks
    ],
)
def test_the_evaluation_before_and_after_has_the_last_word(slope, probed, combined, realism, state, tmp_path):
    rows = rows_of({"a": slope})
    rows = rows if probed is None else judged(rows, probed)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text('{"steps": 24}')
    evaluated(tmp_path, combined, realism)
    diagnosis = diagnose(read_record(tmp_path))
    assert diagnosis.state == state
    assert "before and after, actions followed, combined" in " ".join(diagnosis.sentences())
    names = [f.name for f in diagnosis.findings]
    # An alarm wants the interval of 99.9%, which is 1.68 times as wide.
    lost = [value for value in (combined, realism) if value < -0.084]
    assert names == (["getting worse" if state == "mixed" else "reward hacking"] if lost else [])


def test_a_reward_without_weight_is_looked_at_and_alarms_nobody():
    rows = rows_of({"a": 0.0, "watched": -0.02})
    assert [f.name for f in diagnose(Record(steps(rows), (), 24)).findings] == ["getting worse"]
    diagnosis = diagnose(Record(steps(rows), (), 24, {"watched": 0.0}))
    assert diagnosis.healthy and diagnosis.state != "worse"
    assert any(line.startswith("watched falls") for line in diagnosis.sentences())


def test_a_fall_is_dated_and_placed():
    rows = [
        {
            "step": s,
            "chunk": s % 2,
            "rewards": {"a": {"mean": 1.0 - 0.1 * max(0, s - 20) * (s % 2), "std": 0.1}},
        }
        for s in range(1, 41)
    ]
    (finding,) = diagnose(Record(steps(rows), (), 40)).findings
    assert 15 <= finding.since <= 21 and "most on chunk 1" in finding.evidence


def test_too_early_names_the_steps_that_are_missing():
    sentences = diagnose(Record(steps(rows_of({"a": 0.001}, 12)), (), 100)).sentences()
    assert "Too early" in sentences[0] and "more steps needed" in sentences[2]
    over = diagnose(Record(steps(rows_of({"a": 0.001}, 12)), (), 12)).sentences()
    assert "too short" in over[0] and "beyond the 12 planned" in over[2]


def test_a_disease_of_one_chunk_in_two_is_seen_whatever_chunk_came_last():
    """A critic that is silent on most chunks of the curriculum, and a last step on one where it speaks."""
    rows = rows_of({"a": 0.0, "b": 0.0}, 26)
    for row in rows:
        row["rewards"]["b"]["valid"] = 0.8 if row["chunk"] == 1 else 0.0
    (finding,) = diagnose(Record(steps(rows), (), 26)).findings
    assert rows[-1]["chunk"] == 1 and (finding.name, finding.since) == ("critic abstains", 1)
    for row in rows:
        row["rewards"]["b"]["valid"] = 0.8 if row["chunk"] % 2 else 0.0
    assert diagnose(Record(steps(rows), (), 26)).healthy


def test_two_findings_of_one_name_are_both_told_while_training():
    rows = rows_of({"a": 0.0, "b": 0.0, "c": 0.0}, 12)
    for row in rows:
        row |= {"flat_groups": 0.0}
        row["rewards"]["a"]["flat"] = row["rewards"]["b"]["flat"] = 1.0
    told = diagnose(Record(steps(rows), (), 12)).warnings()["no spread"]
    assert "a gives all candidates" in told and "b gives all candidates" in told


def test_metrics_of_older_versions_are_read_and_what_they_lack_is_named():
    diagnosis = diagnose(Record(steps(rows_of({"a": 0.02})), (), 24))
    assert diagnosis.healthy
    assert {"no gradient", "motion dying", "behaviour far", "reward hacking"} <= set(diagnosis.not_measured)
    assert "reward hacking (needs a held-out judge: set config.probe_every)" in diagnosis.unmeasured()


def test_a_setting_that_is_set_is_not_advised(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", steps(rows_of({"a": 0.02})))
    said = []
    for probe_every in (0, 2):
        described = {"version": 2, "steps": 24, "keeping": {"probe_every": probe_every}}
        (tmp_path / "config.json").write_text(json.dumps(described))
        found = diagnose(read_record(tmp_path))
        assert found.state == "unjudged"
        said.append(found.hint + found.unmeasured())
    assert said[0].count("set config.probe_every") == 2
    assert "config.probe_every" not in said[1] and said[1].count("worldcompass judge") == 2


def inflating(**ends):
    """Rows whose measurements move evenly from 1 to their ends, over 24 steps and 6 chunks."""
    rows = [StepMetrics(step, chunk=(step - 1) % 6) for step in range(1, 25)]
    return [
        dataclasses.replace(row, **{name: 1 + (end - 1) * row.step / 24 for name, end in ends.items()})
        for row in rows
    ]


@pytest.mark.parametrize(
    ("ends", "ill"),
    [
        ({"velocity_norm": 1.06, "contrast": 1.1}, True),
        ({"velocity_norm": 1.0, "contrast": 1.15}, True),
        ({"velocity_norm": 1.015, "contrast": 1.03}, False),
        ({"velocity_norm": 0.95, "contrast": 0.9}, False),
    ],
)
def test_inflated_velocities_or_contrasts_spoil_the_looks(ends, ill):
    found = [f for f in diagnose(Record(inflating(**ends), (), 24)).findings if f.name == "looks spoil"]
    assert bool(found) == ill
    if ill:
        assert "the start weights'" in found[0].evidence and found[0].severity == "harmful"


@pytest.mark.parametrize(("sign", "ill"), [(1, True), (-1, True), (0, False)])
def test_pictures_that_leave_the_truth_on_either_side_spoil_the_looks(sign, ill):
    rows = [
        StepMetrics(step, chunk=0, pictures=Pictures(true_detail=sign * 0.02 * step)) for step in range(1, 25)
    ]
    findings = [f for f in diagnose(Record(rows, (), 24)).findings if f.name == "looks spoil"]
    assert bool(findings) == ill


def test_a_picture_that_comes_nearer_to_the_truth_is_healthy():
    rows = [
        StepMetrics(step, pictures=Pictures(true_detail=-0.5 + 0.02 * step, true_contrast=-0.3 + 0.01 * step))
        for step in range(1, 25)
    ]
    assert not [f for f in diagnose(Record(rows, (), 24)).findings if f.name == "looks spoil"]


def test_a_discriminator_that_tells_every_pair_apart_is_called_blind_to_order():
    for accuracy, ill in ((0.98, True), (0.8, False)):
        rows = [StepMetrics(step, learners={"reality": {"accuracy": accuracy}}) for step in range(1, 13)]
        names = {f.name for f in diagnose(Record(rows, (), 12)).findings}
        assert ("looks reward blind" in names) == ill


def test_a_critic_that_learns_with_the_model_may_score_lower_and_lower():
    def rows(learners):
        return [
            StepMetrics(step, rewards={"reality": RewardMetrics(0.5 - 0.01 * step, 0.02)}, learners=learners)
            for step in range(1, 25)
        ]

    fixed, moving = (diagnose(Record(rows(of), (), 24)) for of in (None, {"reality": {"accuracy": 0.8}}))
    assert fixed.state == "worse" and fixed.findings
    assert moving.state != "worse" and not moving.findings
    assert any("learns with the model" in line for line in moving.sentences())


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
    diagnosis = diagnose(read_record(tmp_path))
    findings = {finding.name: finding for finding in diagnosis.findings}
    assert disease in findings
    found = findings[disease]
    assert found.since >= 1 and all(map(len, found.lines()[:4]))
    if found.severity != "warning":
        assert diagnosis.answer.startswith("No, ")


@pytest.mark.parametrize("name", ["plain", "judged", "adapters", "against truth"])
def test_a_healthy_run_is_silent_from_its_first_step_to_its_last_and_learns(name, tmp_path):
    run(HEALTHY_RUNS[name], SEED, tmp_path, steps=24)
    said = course(tmp_path)
    assert [d.findings for d in said if not d.healthy] == []
    assert said[0].state == "too early"
    assert said[-1].state == ("learning" if name == "judged" else "unjudged")


def test_a_real_run_that_learns_by_its_rewards_alone_is_not_called_learning(tmp_path):
    """Its judge looks at what training cannot change: the start image."""

    def first_frame(videos, scenarios):
        return videos[:, 0].float().mean((1, 2, 3))

    patient = dataclasses.replace(HEALTHY_RUNS["judged"], held_out=HeldOut(first_frame, held_out().scenarios))
    run(patient, SEED, tmp_path, steps=24)
    diagnosis = diagnose(read_record(tmp_path))
    assert [reward.state for reward in diagnosis.rewards] == ["rises", "rises"]
    assert diagnosis.state == "unconfirmed" and "Yes" not in diagnosis.answer


def test_a_critic_that_returns_nan_is_named(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        train(ToyWorld(), [Failing(9)], toy_scenarios(4), HEALTHY, tmp_path, live=False)
    (finding,) = diagnose(read_record(tmp_path)).findings
    assert finding.name == "not finite" and finding.since == 3 and "critic" in finding.evidence


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
    assert (
        "No disease found." in out and "12 of 12 steps" in out and out.startswith("Perhaps: the rewards rise")
    )
    assert cli.main(["doctor", str(runs / "sick")]) == cli.EXIT_DISEASED
    out = capsys.readouterr().out
    assert (
        out.startswith("No, training is damaging the model: the updates are so large")
        and "First: lower lr" in out
    )
    assert "UPDATE TOO LARGE (harmful, since step 1)" in out and "evidence: " in out and "advice: " in out


def test_json_holds_everything_and_only_finite_numbers(runs, capsys):
    def strict(text):
        raise AssertionError(f"{text} is no JSON")

    cli.main(["doctor", str(runs / "sick"), "--json"])
    said = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert said["healthy"] is False and said["findings"][0]["name"] == "update too large"
    assert said["answer"].startswith("No, training is damaging the model")
    assert {"state", "rewards", "evaluation", "judge", "not_measured", "events", "steps"} <= set(said)


ROW = '{"step": 1, "rewards": {}}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such folder"),
        ({}, "holds no metrics"),
        ({"metrics.jsonl": ""}, "at least one finished step"),
        ({"metrics.jsonl": '{"step": 1, "rew'}, "at least one finished step"),
        ({"metrics.jsonl": '{"step": 1}\n'}, "is not a training step: rewards"),
        ({"metrics.jsonl": "[1]\n"}, "is not a training step"),
        ({"metrics.jsonl": ROW.replace("1", '"1"')}, "is not a training step: step"),
        ({"metrics.jsonl": ROW.replace("{}", '{"a": 3}')}, "is not a training step: rewards"),
        ({"metrics.jsonl": ROW.replace("}}", '}, "judge": {"mean": 1}}')}, "is not a training step: judge"),
        (
            {"metrics.jsonl": ROW.replace("}}", '}, "no_gradient": {}}')},
            "is not a training step: no_gradient",
        ),
        (
            {"metrics.jsonl": ROW.replace("}}", '}, "seconds": {"score": "1"}}')},
            "is not a training step: seconds",
        ),
        ({"metrics.jsonl": ROW + ROW}, "two runs in one file"),
        ({"metrics.jsonl": ROW[:9] + "\n" + ROW}, "line 1 is damaged, but intact lines follow"),
        ({"metrics.jsonl": ROW, "config.json": "{"}, "not a run's configuration"),
        ({"metrics.jsonl": ROW, "config.json": "[]"}, "not a run's configuration"),
        ({"metrics.jsonl": ROW, "config.json": '{"steps": 0}'}, "steps is 0"),
        ({"metrics.jsonl": ROW, "config.json": '{"weights": {"a": "2"}}'}, "weights are not numbers"),
        ({"metrics.jsonl": ROW, "results.json": "{"}, "not a run's results"),
        ({"metrics.jsonl": ROW, "events.jsonl": '{"event": "party"}\n'}, "is no event of a run"),
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


def test_a_file_instead_of_the_folder_and_bytes_that_are_no_text_are_one_sentence(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(ROW)
    assert cli.main(["doctor", str(path)]) == cli.EXIT_USER_ERROR
    assert f"expected the folder of a run, such as {tmp_path}" in capsys.readouterr().err
    path.write_bytes(b"\xff\x00\n" + ROW.encode())
    assert cli.main(["doctor", str(tmp_path)]) == cli.EXIT_USER_ERROR
    assert "line 1 is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("tail", ['{"step": 13, "rewa', "\0\0\0\0", "\n\n"])
def test_after_a_kill_the_last_line_may_be_cut_off(runs, tail, tmp_path, capsys):
    metrics = (runs / "healthy" / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(metrics + tail)
    assert cli.main(["doctor", str(tmp_path)]) == 0
    assert "(12 of 100 steps)" in capsys.readouterr().out


def test_the_page_has_the_doctors_section(runs):
    sick = write_report(runs / "sick").read_text()
    assert '<article class="finding harmful"><h3>Update too large</h3>' in sick and "Evidence." in sick
    healthy = write_report(runs / "healthy").read_text()
    assert "No disease found." in healthy and "Perhaps: the rewards rise" in healthy
