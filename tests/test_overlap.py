"""Critics elsewhere score while the next group is imagined: faster, and bit by bit the same run."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from worldcompass.errors import LostCritic
from worldcompass.log import read_metrics
from worldcompass.rewards import Elsewhere
from worldcompass.testing import ToyCleanliness, ToyObedience, ToyWorld, noise_group, toy_scenarios
from worldcompass.train import Config, train
from worldcompass.verdicts import Verdicts

SECONDS = 0.3  # to imagine a group, and to score one
GROUPS = 4
SMALL = Config(steps=1, prompts_per_step=GROUPS, groups_at_once=1, group_size=4, best=1, worst=1, last_chunk=0,
               denoising_steps=2, noise_levels=1, save_every=100)  # fmt: skip


class SlowWorld(ToyWorld):
    """Takes its time for every group."""

    def decode(self, clean_BCKHW, context):
        time.sleep(SECONDS)
        return super().decode(clean_BCKHW, context)


class Far(ToyObedience):
    """The toy's critic, as if it were in another process."""

    def __init__(self, at_once=1, seconds=0.0):
        self.at_once, self.seconds, self.threads = at_once, seconds, []

    def __call__(self, group):
        self.threads.append(threading.current_thread())
        time.sleep(self.seconds)
        return super().__call__(group)


class Waited:
    """The same critic, asked in the sequential way."""

    def __init__(self, critic):
        self.name, self.critic = critic.name, critic

    def __call__(self, group):
        return self.critic(group)


def train_with(critic, out, config=SMALL, world=SlowWorld):
    """What a run learned, its metrics, and the seconds that it imagined and scored."""
    policy = train(world(), [critic, ToyCleanliness()], toy_scenarios(GROUPS), config, out, live=False)
    rows = read_metrics(out / "metrics.jsonl")
    seconds = [row.pop("seconds") for row in rows]
    return policy.state(), rows, sum(lap["imagine"] + lap["score"] for lap in seconds)


def check_overlap(critic, folder):
    """Train in both ways: the same weights and metrics, and about ``GROUPS - 1`` times scoring less."""
    assert isinstance(critic, Elsewhere)
    critic(noise_group(2, 4, 4))  # connections are made, code is imported
    now, waited = train_with(critic, folder / "now"), train_with(Waited(critic), folder / "waited")
    for name, tensor in waited[0].items():
        assert torch.equal(now[0][name], tensor), name
    assert now[1] == waited[1]
    assert waited[2] > 2 * GROUPS * SECONDS
    assert now[2] < 0.8 * waited[2], (now[2], waited[2])


def test_scoring_overlaps_imagining_and_changes_no_bit(tmp_path):
    critic = Far(seconds=SECONDS)
    check_overlap(critic, tmp_path)
    assert threading.main_thread() not in critic.threads[1 : 1 + GROUPS]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_critic_is_asked_about_so_many_groups_at_once(at_once):
    critic, verdicts = Far(at_once, 0.15), None
    verdicts = Verdicts([ToyCleanliness(), critic])
    begun = time.monotonic()
    groups = [noise_group(2, 4, 4) for _ in range(3)]
    verdicts.ask(groups)
    values, valid = verdicts.collect()
    assert (time.monotonic() - begun > 0.44) == (at_once == 1)
    assert values.shape == valid.shape == (3, 2, 2) and bool(valid.all())
    for n, group in enumerate(groups):
        assert torch.equal(values[n, :, 0], ToyCleanliness()(group).values_G)
        assert torch.equal(values[n, :, 1], ToyObedience()(group).values_G)


def test_fewer_groups_at_once_change_no_more_than_rounding(tmp_path):
    states = [
        train_with(
            ToyObedience(), tmp_path / str(most), replace(SMALL, steps=2, groups_at_once=most), ToyWorld
        )[0]
        for most in (None, 3, 1)
    ]
    for other in states[1:]:
        for name, tensor in states[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="groups_at_once must be at least 1"):
        replace(SMALL, groups_at_once=0)


class Lost(Far):
    """Answers so many groups and then never again."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def __call__(self, group):
        if len(self.threads) == self.groups:
            raise LostCritic("the critic far failed 4 times")
        return super().__call__(group)


def test_a_lost_critic_ends_the_run_with_every_finished_step_saved(tmp_path):
    config = replace(SMALL, steps=4)
    with pytest.raises(LostCritic, match="failed 4 times"):
        train_with(Lost(2 * GROUPS + 1), tmp_path / "run", config, ToyWorld)  # in the middle of step 3
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    scenarios = toy_scenarios(GROUPS)
    with pytest.raises(LostCritic):  # and again at once: what is saved stays
        train(ToyWorld(), [Lost(0), ToyCleanliness()], scenarios, config, tmp_path / "run", True, live=False)
    resumed = train(
        ToyWorld(), [Far(), ToyCleanliness()], scenarios, config, tmp_path / "run", True, live=False
    )
    straight = train_with(Far(), tmp_path / "straight", config, ToyWorld)[0]
    assert all(torch.equal(resumed.state()[name], tensor) for name, tensor in straight.items())


def test_when_one_is_lost_the_groups_that_wait_are_not_shown_any_more():
    critic, slow = Lost(1), Far(seconds=0.2)
    slow.name = "slow"
    verdicts = Verdicts([critic, slow])
    verdicts.ask([noise_group(2, 4, 4) for _ in range(5)])
    with pytest.raises(LostCritic):
        verdicts.collect()
    time.sleep(0.6)
    assert len(critic.threads) == 1 and len(slow.threads) <= 3
