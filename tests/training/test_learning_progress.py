"""The adaptive curriculum: it looks at every chunk, then follows progress, and a resumed run makes its choices."""

from collections import Counter

import pytest
import torch
from toy_runs import TINY, critics

from worldcompass.errors import UserError
from worldcompass.runs.metrics import RewardMetrics, StepMetrics, read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.averaging import train_members
from worldcompass.training.curriculum import Sampling, chunk_of_step
from worldcompass.training.learning_progress import UNIFORM, chunk_by_progress, progress_of, shares
from worldcompass.training.loop import train
from worldcompass.training.run import Parts

ADAPTIVE = Sampling(last_chunk=2, order="adaptive")


def step_of(number, chunk, mean, spread=1.0, valid=1.0, weight=1.0):
    reward = RewardMetrics(mean=mean if valid else None, spread=spread, valid=valid, weight=weight)
    return StepMetrics(number, chunk=chunk, rewards={"a": reward})


def history_of(**means):
    """Visits of chunks c0, c1, ... with these means, one chunk after the other."""
    rows = [(int(name[1:]), mean) for name, values in means.items() for mean in values]
    return [step_of(number, chunk, mean) for number, (chunk, mean) in enumerate(rows, 1)]


def test_every_chunk_is_visited_twice_in_order_before_progress_counts():
    history = []
    for step in range(1, 7):
        chunk = chunk_of_step(ADAPTIVE, step, history)
        history.append(step_of(step, chunk, float(step)))
    assert [row.chunk for row in history] == [0, 1, 2, 0, 1, 2]


def test_progress_is_the_change_in_spreads_in_either_direction():
    history = history_of(c0=[0, 0, 2, 4], c1=[5, 3, 1, 1], c2=[7, 7, 7, 7], c3=[9])
    assert [progress_of(history, chunk) for chunk in range(4)] == [3.0, 3.0, 0.0, 0.0]
    wide = [step_of(i, 0, mean, spread=2.0) for i, mean in enumerate([0, 0, 2, 4], 1)]
    assert progress_of(wide, 0) == 1.5
    old = history_of(c0=[-50, 20, 1, 1, 1, 1])
    assert progress_of(old, 0) == 0  # only the newest visits
    abstained = [*history_of(c0=[0, 2]), step_of(3, 0, 99.0, valid=0.0)]
    assert progress_of(abstained, 0) == 2.0


def test_choices_follow_the_shares_and_no_chunk_is_forgotten():
    history = history_of(c0=[0, 3], c1=[0, 1], c2=[0, 0])
    found = shares(history, range(3))
    torch.testing.assert_close(
        found, UNIFORM / 3 + (1 - UNIFORM) * torch.tensor([3.0, 1.0, 0.0]).double() / 4
    )
    counts = Counter(chunk_by_progress(history, range(3), (step,)) for step in range(2000))
    for chunk in range(3):
        assert counts[chunk] / 2000 == pytest.approx(float(found[chunk]), abs=0.04)
    still = history_of(c0=[1, 1], c1=[1, 1])
    assert shares(still, range(2)).tolist() == [0.5, 0.5]


def test_a_choice_depends_on_the_step_and_earlier_steps_alone():
    history = [*history_of(c0=[0, 3], c1=[0, 1], c2=[0, 0]), step_of(7, 0, 5.0), step_of(8, 0, 50.0)]
    assert chunk_of_step(ADAPTIVE, 8, history) == chunk_of_step(ADAPTIVE, 8, history[:7])
    assert len({chunk_of_step(ADAPTIVE, 9 + 0 * i, history) for i in range(5)}) == 1


def test_a_resumed_run_makes_the_choices_of_the_uninterrupted_one(tmp_path):
    config = TINY.changed(steps=10, order="adaptive", last_chunk=1)
    straight = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "a").state()
    train(ToyWorld(), critics(), toy_scenarios(5), config.changed(steps=7), tmp_path / "b")
    again = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    a, b = ([row.chunk for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in "ab")
    assert a == b and a[:4] == [0, 1, 0, 1]
    assert a != [chunk_of_step(TINY.changed(last_chunk=1).sampling, step) for step in range(1, 11)]


def test_what_has_no_history_to_follow_is_refused(tmp_path):
    with pytest.raises(ValueError, match="order=adaptive needs play_share=0"):
        Sampling(order="adaptive", play_share=0.5)
    config = TINY.changed(order="adaptive")
    with pytest.raises(UserError, match="gives every member chunks of its own: set members=1"):
        train_members(
            lambda own: Parts(ToyWorld(), critics(), toy_scenarios(4), own), config, 2, 1.0, tmp_path
        )
