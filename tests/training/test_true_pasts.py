"""Groups after the engine's own past, and the data term on its own chunk."""

import hashlib

import pytest
import torch
from torch import nn
from toy_runs import TINY, critics
from toy_truth import with_truth

from worldcompass.errors import UnfitInputs
from worldcompass.geometry import motion_signs
from worldcompass.parallel.team import Team
from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.curriculum import by_past
from worldcompass.training.data_term import add_share
from worldcompass.training.loop import train
from worldcompass.training.preflight import check_shares
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")
TRUE = TINY.changed(steps=4, prompts_per_step=4, true_pasts=0.5)


@pytest.fixture(scope="module")
def known():
    return with_truth(ToyWorld(seed=1), toy_scenarios(6))


def far_from_the_engine(world):
    """How far the response to every action is from that of the engine, which is a toy of seed 1."""
    signs = motion_signs(torch.arange(81)[None])
    return float((world.net(signs) - ToyWorld(seed=1).net(signs)).square().mean().detach())


class Watching:
    """Records the groups that it is given."""

    name = "watching"

    def __init__(self):
        self.seen = []

    def __call__(self, group):
        self.seen.append(group)
        size = len(group.frames_GF3hw)
        return Scores(torch.arange(float(size)), torch.ones(size, dtype=torch.bool))


def test_a_share_of_the_groups_continues_the_engines_own_video(known, tmp_path):
    watching = Watching()
    train(ToyWorld(), [*critics(), watching], known, TRUE.changed(steps=2), tmp_path, live=False)
    second = watching.seen[-4:]  # of chunk 1
    assert [group.true_past for group in second] == [False, False, True, True]
    engine = {scenario.truth.frames_F3hw[:7].numpy().tobytes() for scenario in known}
    assert [group.past_frames_F3hw.numpy().tobytes() in engine for group in second] == [
        False, False, True, True,
    ]  # fmt: skip
    assert [group.depth for group in second] == [1, 1, 0, 0]


def test_the_data_term_pulls_towards_the_engine(known, tmp_path):
    ends = {}
    for share in (0.0, 3.0):
        world = ToyWorld()
        config = TRUE.changed(steps=20, data_share=share, lr=0.02, true_pasts=1.0)
        train(world, critics(), known, config, tmp_path / str(share), live=False)
        ends[share] = far_from_the_engine(world)
    assert ends[3.0] < 0.7 * far_from_the_engine(ToyWorld())
    assert ends[3.0] < ends[0.0]
    losses = [row.data_loss for row in read_metrics(tmp_path / "3.0" / "metrics.jsonl")]
    assert len(losses) == 20 and all(0 < loss < 1 for loss in losses)


def test_a_run_with_every_anchor_resumes_bit_by_bit(known, tmp_path):
    config = TRUE.changed(data_share=0.5, norm_weight=3.0, contrast_weight=3.0)
    straight = train(ToyWorld(), critics(), known, config, tmp_path / "a", live=False)
    train(ToyWorld(), critics(), known, config.changed(steps=2), tmp_path / "b", live=False)
    resumed = train(ToyWorld(), critics(), known, config, tmp_path / "b", resume=True, live=False)
    a, b = straight.state(), resumed.state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_one_past_at_a_time_gives_the_same_groups_after_true_pasts(known):
    weights = []
    for batches_pasts in (True, False):
        world, watching = ToyWorld(batches_pasts=batches_pasts), Watching()
        for past_of, some in by_past(known[:4], 0.5):
            request = RolloutRequest(some, 1, 4, 3, (0,), world.spec.sigmas(), past_of=past_of)
            for part in imagine_groups(world, request):
                for group in part.groups:
                    watching(group)
        weights.append(b"".join(group.frames_GF3hw.numpy().tobytes() for group in watching.seen))
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()


def test_the_second_gradient_gets_its_share_of_the_first_ones_size():
    layer = nn.Linear(3, 2)
    (layer.weight.sum() * 5).backward()
    layer.bias.grad = None
    first = layer.weight.grad.clone()

    def backward():
        (layer.weight.square().sum() + layer.bias.sum()).backward()
        return 7.0

    assert add_share(list(layer.parameters()), backward, 0.25) == 7.0
    second = torch.cat([(layer.weight.grad - first).flatten(), layer.bias.grad])
    torch.testing.assert_close(second.norm(), 0.25 * first.norm())


def test_what_the_recording_cannot_give_is_refused_before_the_first_step(known, tmp_path):
    with pytest.raises(UnfitInputs, match=r"true_pasts=0\.5 needs 15 frames .* has 0"):
        train(ToyWorld(), critics(), toy_scenarios(5), TRUE, tmp_path)
    blind = type("Blind", (), {k: v for k, v in vars(ToyWorld).items() if k != "encode"})()
    with pytest.raises(UnfitInputs, match="needs a method encode"):
        train(blind, critics(), known, TRUE, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"true_pasts": 1.5}, {"data_share": 0.5, "true_pasts": 0.0}, {"norm_weight": -1.0}, {"projected": 0.5},
     {"free_noises": 1}],
)  # fmt: skip
def test_settings_of_the_anchors_that_cannot_work_are_refused(change):
    with pytest.raises(ValueError, match=r"must|needs"):
        TINY.changed(**change)


def test_processes_that_would_get_unequal_shares_of_true_pasts_are_refused():
    with pytest.raises(UnfitInputs, match="makes 3 of 6 groups, which 2 teams"):
        check_shares(Team(size=2), 6, 0.5)
    check_shares(Team(size=3), 6, 0.5)
