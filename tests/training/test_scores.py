"""Critics elsewhere score while the next group is imagined: faster, and bit by bit the same run."""

import threading
import time

import pytest
import torch
from overlap import (
    GROUPS,
    SECONDS,
    SMALL,
    Far,
    check_overlap,
    train_with,
)

from worldcompass.errors import LostCritic
from worldcompass.testing import noise_group
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.training.scores import Verdicts


def test_scoring_overlaps_imagining_and_changes_no_bit(tmp_path):
    critic = Far(seconds=SECONDS)
    check_overlap(critic, tmp_path)
    assert threading.main_thread() not in critic.threads[1 : 1 + GROUPS]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_critic_is_asked_about_so_many_groups_at_once(at_once):
    critic = Far(at_once, 0.15)
    verdicts = Verdicts([ToyCleanliness(), critic])
    groups = [noise_group(2, 4, 4) for _ in range(3)]
    verdicts.ask(groups)
    values, valid, _ = verdicts.collect()
    assert critic.most <= at_once and (critic.most > 1) == (at_once > 1)
    assert values.shape == valid.shape == (3, 2, 2) and bool(valid.all())
    for n, group in enumerate(groups):
        assert torch.equal(values[n, :, 0], ToyCleanliness()(group).values_G)
        assert torch.equal(values[n, :, 1], ToyObedience()(group).values_G)


def test_fewer_groups_at_once_change_no_more_than_rounding(tmp_path):
    states = [
        train_with(ToyObedience(), tmp_path / str(most), SMALL.changed(steps=2, groups_at_once=most))[0]
        for most in (None, 3, 1)
    ]
    for other in states[1:]:
        for name, tensor in states[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="groups_at_once must be at least 1"):
        SMALL.changed(groups_at_once=0)


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
    config = SMALL.changed(steps=4)
    with pytest.raises(LostCritic, match="failed 4 times"):
        train_with(Lost(2 * GROUPS + 1), tmp_path / "run", config)  # in the middle of step 3
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    scenarios = toy_scenarios(GROUPS)
    with pytest.raises(LostCritic):  # and again at once: what is saved stays
        train(ToyWorld(), [Lost(0), ToyCleanliness()], scenarios, config, tmp_path / "run", True, live=False)
    resumed = train(
        ToyWorld(), [Far(), ToyCleanliness()], scenarios, config, tmp_path / "run", True, live=False
    )
    straight = train_with(Far(), tmp_path / "straight", config)[0]
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
