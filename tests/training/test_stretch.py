"""Training in both ways of walking: which steps play, what they imagine, and that off changes nothing."""

from dataclasses import replace

import pytest
import torch
from toy_runs import TINY, critics, make_run
from toy_truth import with_truth

from worldcompass.rewards.discriminator import Discriminator
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.curriculum import Sampling, chunk_of_step
from worldcompass.training.loop import train
from worldcompass.training.step import compare, imagine_and_score, select
from worldcompass.training.stretch import Stretch, plays, stretch_of_step
from worldcompass.ways import PLAY, ROLLOUT, Walking

pytestmark = pytest.mark.usefixtures("one_thread")


class Played(ToyWorld):
    """A toy that people walk through with three denoising steps."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.spec = replace(self.spec, play=Walking(1, 3))


def rewards(folder):
    return [(row.step, row.rewards, row.loss) for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])
def test_every_chunk_and_every_stretch_of_steps_gets_its_share(share):
    sampling = Sampling(first_chunk=2, last_chunk=6, play_share=share)
    steps = range(1, 5 * 60 + 1)
    for chunk in range(2, 7):
        visits = [plays(sampling, step) for step in steps if chunk_of_step(sampling, step) == chunk]
        assert abs(sum(visits) - share * len(visits)) <= 1
    for first in range(0, 300, 5):
        one_pass = [plays(sampling, step) for step in list(steps)[first : first + 5]]
        assert abs(sum(one_pass) - share * 5) <= 1


def test_a_played_step_trains_the_end_of_the_same_chunk_as_people_walk_it():
    sampling = Sampling(last_chunk=1, denoising_steps=2, play_share=0.5, group_size=4, play_group_size=12)
    found = [stretch_of_step(sampling, Played().spec, step) for step in range(1, 5)]
    assert found == [
        Stretch(ROLLOUT, 0, 4, 2, 4),
        Stretch(PLAY, 7, 1, 3, 12),
        Stretch(PLAY, 3, 1, 3, 12),
        Stretch(ROLLOUT, 1, 4, 2, 4),
    ]


def test_larger_groups_of_played_steps_train_as_large_a_share_of_them():
    config = TINY.changed(play_share=0.5, last_chunk=1, play_group_size=12)
    run = make_run(config, Played())
    for step, way, size in ((1, ROLLOUT, 4), (2, PLAY, 12)):
        scored = imagine_and_score(run, step)
        chosen = select(run, scored, compare(run, scored, torch.ones(2)))
        assert scored.way == way and scored.scores_NGR.shape == (2, size, 2)
        assert (
            sum(len(part.row_keys) for part in chosen) == 2 * size // 2
        )  # the best and the worst of each four
    with pytest.raises(ValueError, match="play_group_size must be a multiple of group_size"):
        TINY.changed(play_group_size=6)


def test_without_a_share_the_run_is_the_same_bit_by_bit(tmp_path):
    """Nor does the world's way of playing matter. With a share, the steps before the first played one agree."""
    runs = {}
    for name, world, share in (("plain", ToyWorld(), 0.0), ("off", Played(), 0.0), ("half", Played(), 0.5)):
        config = TINY.changed(play_share=share)
        runs[name] = train(world, critics(), toy_scenarios(5), config, tmp_path / name).state()
    assert all(torch.equal(runs["plain"][key], runs["off"][key]) for key in runs["plain"])
    plain, off, half = (rewards(tmp_path / name) for name in runs)
    assert plain == off and half[0] == plain[0] and half[1] != plain[1]
    assert '"way"' not in (tmp_path / "off" / "metrics.jsonl").read_text()
    places = [row.place for row in read_metrics(tmp_path / "half" / "metrics.jsonl")]
    assert places == ["0", "7 of play", "3 of play", "1"]


def test_played_steps_learn(tmp_path):
    config = TINY.changed(
        steps=30, prompts_per_step=4, group_size=8, best=2, worst=2, lr=0.03, play_share=1.0
    )
    train(Played(), critics(), toy_scenarios(5), config, tmp_path)
    means = [row.rewards["obedience"].mean for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert sum(means[-6:]) / 6 > sum(means[:6]) / 6 + 0.1


def test_a_resumed_run_plays_the_same_steps(tmp_path):
    config = TINY.changed(play_share=0.5)
    straight = train(Played(), critics(), toy_scenarios(5), config, tmp_path / "a").state()
    train(Played(), critics(), toy_scenarios(5), config.changed(steps=2), tmp_path / "b")
    resumed = train(Played(), critics(), toy_scenarios(5), config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_played_steps_take_true_pasts_the_data_term_and_a_critic_that_learns(tmp_path):
    config = TINY.changed(steps=2, play_share=1.0, true_pasts=0.5, data_share=0.25)
    known = with_truth(ToyWorld(seed=1), toy_scenarios(5))
    train(Played(), [*critics(), Discriminator()], known, config, tmp_path, live=False)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.place for row in rows] == ["3 of play", "7 of play"]
    assert all(row.data_loss > 0 and row.applied == 1 for row in rows)


@pytest.mark.parametrize(
    ("play", "change", "words"),
    [
        (Walking(1, 2), {"play_share": 0.5, "noise_levels": 3}, "plays with 2 denoising steps: lower"),
        (Walking(4, 6), {"play_share": 0.5, "chunk_length": 1}, "do not divide the rollout's 1"),
    ],
)
def test_steps_that_cannot_be_played_are_refused_before_the_run(play, change, words, tmp_path):
    world = ToyWorld()
    world.spec = replace(world.spec, play=play)
    with pytest.raises(ValueError, match=words):
        train(world, critics(), toy_scenarios(5), TINY.changed(**change), tmp_path / "run")


def test_a_share_above_the_whole_is_refused():
    with pytest.raises(ValueError, match=r"play_share must be a share between 0 and 1; got play_share=1\.5"):
        TINY.changed(play_share=1.5)
