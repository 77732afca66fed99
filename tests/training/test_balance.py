"""Automatic balance: what it weighs and why, and that it spares both of two rewards that pull apart."""

import math

import pytest
import torch

from worldcompass.rollout import imagine_video
from worldcompass.runs.metrics import RewardMetrics, StepMetrics, read_metrics
from worldcompass.toy import ToyObedience, ToyWorld, latents_of_frames, toy_scenarios
from worldcompass.training.balance import FLOOR, TEMPERATURE, fixed, progress, soft_minimum
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser
from worldcompass.training.selection import Learning
from worldcompass.types import Group, Scores

NAMES = ("a", "b")


def row(chunk, **means):
    return StepMetrics(1, chunk, {n: RewardMetrics(mean=m, spread=2.0, valid=1.0) for n, m in means.items()})


def test_progress_compares_each_chunk_with_its_own_beginning():
    history = [row(0, a=1.0, b=5.0), row(1, a=-9.0, b=0.0), row(0, a=3.0, b=5.0), row(1, a=-9.0, b=4.0)]
    assert progress(history, NAMES).tolist() == [0.25, 0.5]
    assert progress([], NAMES).tolist() == [0.0, 0.0]
    silent = StepMetrics(1, 0, {"a": RewardMetrics(valid=0.0), **row(0, b=1.0).rewards})
    assert progress([silent, row(0, a=3.0, b=2.0)], NAMES).tolist() == [0.0, 0.25]
    assert progress([silent, row(0, a=3.0, b=2.0), silent, row(0, a=7.0, b=2.0)], NAMES).tolist() == [
        1.0,
        0.25,
    ]


def test_who_falls_behind_weighs_more_and_nobody_is_silenced():
    assert soft_minimum([], NAMES, {}).tolist() == [0.5, 0.5]
    assert soft_minimum([], NAMES, {"a": 3.0}).tolist() == [0.75, 0.25]
    assert fixed([row(0, a=0.0, b=9.0)], NAMES, {"a": 2.0}).tolist() == [2.0, 1.0]
    history = [row(0, a=0.0, b=0.0), row(0, a=2.0, b=-2.0)]  # half a spread up and down, halved by the mean
    share = 1 / (1 + math.exp(1.0 / TEMPERATURE))
    expected = FLOOR + (1 - 2 * FLOOR) * share
    assert soft_minimum(history, NAMES, {})[0].item() == pytest.approx(expected)
    far = [row(0, a=0.0, b=0.0), row(0, a=1e6, b=-1e6)]
    assert soft_minimum(far, NAMES, {}).tolist() == pytest.approx([FLOOR, 1 - FLOOR])


def test_the_weights_are_the_gradient_of_the_soft_minimum():
    gains = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    (-TEMPERATURE * torch.logsumexp(-gains / TEMPERATURE, 0)).backward()
    names = ("a", "b", "c")
    start, now = (
        row(0, a=0.0, b=0.0, c=0.0),
        row(0, **dict(zip(names, (4 * gains.detach()).tolist(), strict=True))),
    )
    expected = FLOOR + (1 - 3 * FLOOR) * gains.grad
    torch.testing.assert_close(soft_minimum([start, now], names, {}), expected.float())


class Darkness:
    """Wants all channels dark: in part what obedience wants too (no grain), in part the opposite (no motion)."""

    name = "darkness"

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, group):
        values = -self.scale * latents_of_frames(group.frames_GF3hw).abs().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


CONFIG = Config(
    steps=16,
    sampling=Sampling(prompts_per_step=4, last_chunk=1),
    learning=Learning(noise_levels=3, updates_per_rollout=2),
    optimiser=Optimiser(lr=0.03, checkpoint_decay=0.5),
    keeping=Keeping(save_every=100),
)


def gains(out, config, scale=1.0):
    """Progress of both rewards on unseen scenarios, in spreads of the untrained world."""
    world, critics = ToyWorld(), (ToyObedience(), Darkness())

    def scores():
        videos = imagine_video(world, toy_scenarios(16, seed=99), ("evaluation",))
        groups = zip(videos, toy_scenarios(16, seed=99), strict=True)
        return torch.stack(
            [
                torch.cat([c(Group(v[None], v[:0], v[0], s.actions, 2)).values_G for c in critics])
                for v, s in groups
            ]
        )

    before = scores()
    policy = train(world, (ToyObedience(), Darkness(scale)), toy_scenarios(16), config, out, live=False)
    with policy.checkpoint():
        return ((scores() - before).mean(0) / before.std(0)).tolist()


def test_soft_minimum_raises_both_of_two_opposed_rewards(tmp_path):
    found = {
        name: gains(tmp_path / name, CONFIG.changed(weights=weights))
        for name, weights in (("obey", {"darkness": 0.0}), ("dark", {"obedience": 0.0}))
    }
    balanced = CONFIG.changed(balance=soft_minimum)
    found["balanced"] = gains(tmp_path / "balanced", balanced)
    assert min(found["balanced"]) > 0.05, found
    assert min(found["balanced"]) > max(min(found["obey"]), min(found["dark"])), found
    rows = read_metrics(tmp_path / "balanced" / "metrics.jsonl")
    assert rows[0].rewards["darkness"].weight == 0.5 != rows[-1].rewards["darkness"].weight
    rescaled = gains(tmp_path / "rescaled", balanced, scale=100.0)
    assert rescaled == pytest.approx(found["balanced"], abs=0.02)  # rounding goes its own way


def test_a_resumed_run_weighs_as_if_it_had_never_stopped(tmp_path):
    config = CONFIG.changed(steps=6, balance=soft_minimum, save_every=3, prompts_per_step=2)

    def run(out, steps, resume=False):
        critics = (ToyObedience(), Darkness())
        train(
            ToyWorld(),
            critics,
            toy_scenarios(8),
            config.changed(steps=steps),
            out,
            resume,
            live=False,
        )
        return [r.rewards for r in read_metrics(out / "metrics.jsonl")]

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "halves", 3)
    assert run(tmp_path / "halves", 6, resume=True) == whole
