"""A critic that learns along with the policy: when it learns, and that it survives an interruption."""

import pytest
import torch
from toy_runs import TINY, critics
from toy_truth import with_truth

from worldcompass.rewards.discriminator import Discriminator, Schooling
from worldcompass.runs.metrics import StepMetrics, read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TINY.changed(true_pasts=0.5, data_share=0.25, norm_weight=1.0)


@pytest.fixture(scope="module")
def known():
    return with_truth(ToyWorld(seed=1), toy_scenarios(5))


def judged():
    return [*critics(), Discriminator(Schooling(least_accuracy=0.0, updates=2))]


class Diary:
    """Writes down what it was asked to do."""

    name = "diary"

    def __init__(self):
        self.lines = []

    def __call__(self, group):
        self.lines.append("score")
        size = len(group.frames_GF3hw)
        return Scores(torch.zeros(size), torch.ones(size, dtype=torch.bool))

    def examples(self, groups, keys):
        return torch.stack([group.frames_GF3hw.float().mean((1, 2, 3, 4)) for group in groups])

    def learn(self, examples, keys):
        self.lines.append(f"learn {len(examples)}")
        return {"accuracy": 0.5}

    def state(self):
        return {"length": torch.tensor(len(self.lines))}

    def load(self, state):
        self.lines = [f"load {int(state['length'])}"] if state else []


def test_a_learner_learns_once_a_step_after_it_has_scored(tmp_path):
    diary = Diary()
    train(ToyWorld(), [*critics(), diary], toy_scenarios(5), TINY.changed(steps=2), tmp_path, live=False)
    assert diary.lines == ["score", "score", "learn 2"] * 2
    assert [row.learners["diary"]["accuracy"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        0.5
    ] * 2
    train(
        ToyWorld(), [*critics(), diary], toy_scenarios(5), TINY.changed(steps=3), tmp_path, True, live=False
    )
    assert diary.lines[0] == "load 6"


def test_a_discriminator_resumes_bit_by_bit(known, tmp_path):
    straight = train(ToyWorld(), judged(), known, CONFIG, tmp_path / "a", live=False)
    train(ToyWorld(), judged(), known, CONFIG.changed(steps=2), tmp_path / "b", live=False)
    resumed = train(ToyWorld(), judged(), known, CONFIG, tmp_path / "b", resume=True, live=False)
    a, b = straight.state(), resumed.state()
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("a", "b")]
    assert [row.learners for row in rows[0]] == [row.learners for row in rows[1]]


def test_its_scores_change_what_is_learned(known, tmp_path):
    ends = [
        train(ToyWorld(), chosen, known, CONFIG, tmp_path / str(n), live=False).state()
        for n, chosen in enumerate((critics(), judged()))
    ]
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_learner_used_before_starts_over(known, tmp_path):
    used = judged()
    first = train(ToyWorld(), used, known, CONFIG, tmp_path / "a", live=False).state()
    second = train(ToyWorld(), used, known, CONFIG, tmp_path / "b", live=False).state()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_measurements_of_learners_are_read_back():
    row = StepMetrics(1, learners={"reality": {"accuracy": 0.75}}, velocity_norm=1.01, contrast=0.99)
    assert StepMetrics.from_json(row.to_json()) == row
    with pytest.raises(ValueError, match="learners"):
        StepMetrics.from_json({**row.to_json(), "learners": {"reality": {"accuracy": "high"}}})
