"""Clips of several chunks: critics see what follows from the chunk that is trained."""

import pytest
import torch
from toy_runs import TINY
from toy_truth import with_truth

from worldcompass.rewards.discriminator import Discriminator
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")


class Later:
    """Obedience in the frames after the first chunk alone, and what it was shown."""

    name = "later"

    def __init__(self):
        self.seen = set()

    def __call__(self, group):
        self.seen.add((len(group.past_frames_F3hw), group.frames_GF3hw.shape[1], len(group.actions)))
        last = group.frames_GF3hw[:, -8:]
        return Scores(-(last.float() - 128).abs().mean((1, 2, 3, 4)), torch.ones(len(last), dtype=torch.bool))


def test_critics_see_the_whole_clip_and_its_commands(tmp_path):
    later = Later()
    config = TINY.changed(steps=2, first_chunk=1, last_chunk=1, clip_chunks=2)
    train(ToyWorld(), [later], toy_scenarios(3, 12), config, tmp_path)
    frames = ToyWorld().spec.num_frames
    assert later.seen == {(frames(0, 4), frames(4, 12), 8)}


def test_a_reward_that_only_later_chunks_earn_is_learned(tmp_path):
    """The toy carries its state along, so that the trained chunk decides what the next one shows."""
    config = TINY.changed(
        steps=40, prompts_per_step=4, group_size=8, best=2, worst=2, lr=0.03, last_chunk=0, clip_chunks=2
    )
    train(ToyWorld(), [Later()], toy_scenarios(5), config, tmp_path)
    means = [row.rewards["later"].mean for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert sum(means[-8:]) > sum(means[:8])


def test_one_chunk_is_what_was_before_and_a_resumed_run_repeats_the_others(tmp_path):
    rewards = [ToyObedience()]
    plain, one = (
        train(ToyWorld(), rewards, toy_scenarios(5), config, tmp_path / name).state()
        for name, config in (("plain", TINY), ("one", TINY.changed(clip_chunks=1)))
    )
    assert all(torch.equal(plain[key], one[key]) for key in plain)
    config = TINY.changed(last_chunk=0, clip_chunks=2)
    straight = train(ToyWorld(), rewards, toy_scenarios(5), config, tmp_path / "a").state()
    train(ToyWorld(), rewards, toy_scenarios(5), config.changed(steps=2), tmp_path / "b")
    resumed = train(ToyWorld(), rewards, toy_scenarios(5), config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not all(torch.equal(plain[key], straight[key]) for key in plain)


class Near:
    """Distance from the engine's own clip, which must be as long."""

    name = "near"

    def __call__(self, group):
        true = group.truth.frames_F3hw
        assert len(true) == group.frames_GF3hw.shape[1] == ToyWorld().spec.num_frames(4, 12)
        away = (group.frames_GF3hw.float() - true.float()).abs().mean((1, 2, 3, 4))
        return Scores(-away, torch.ones(len(away), dtype=torch.bool))


def test_a_clip_is_compared_with_the_engines_own_and_takes_true_pasts(tmp_path):
    config = TINY.changed(
        steps=2, first_chunk=1, last_chunk=1, clip_chunks=2, true_pasts=0.5, data_share=0.25
    )
    known = with_truth(ToyWorld(seed=1), toy_scenarios(5, 12))
    train(ToyWorld(), [Near(), Discriminator()], known, config, tmp_path)
    assert all(row.applied == 1 and row.data_loss > 0 for row in read_metrics(tmp_path / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip_chunks": 0}, "clip_chunks must be at least 1"),
        ({"clip_chunks": 2, "play_share": 0.5}, "clip_chunks above 1 needs play_share=0"),
    ],
)
def test_settings_that_no_clip_has_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TINY.changed(**change)


def test_scenarios_that_end_within_a_clip_are_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"needs 12 latents, .* is shorter: lower last_chunk or clip_chunks"):
        train(ToyWorld(), [ToyObedience()], toy_scenarios(5), TINY.changed(clip_chunks=2), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
