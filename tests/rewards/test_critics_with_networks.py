"""A reward network that is called as people write it, without torch.no_grad."""

from dataclasses import replace

import pytest
import torch
from toy_runs import TINY

from worldcompass.critic import ask
from worldcompass.testing import check_critic, noise_group
from worldcompass.toy import ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")


class Network(ToyObedience):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 1, 1)

    def __call__(self, group):
        scores = super().__call__(group)
        frames = group.frames_GF3hw.float() / 255
        values = self.net(frames.flatten(0, 1)).mean((1, 2, 3)).view(len(frames), -1).mean(1)
        return replace(scores, values_G=values)


def test_its_scores_hold_no_graph_and_the_check_says_what_to_write():
    group = noise_group(spec=ToyWorld().spec)
    assert Network()(group).values_G.requires_grad
    assert not ask(Network(), group).values_G.requires_grad
    with pytest.warns(UserWarning, match=r"keeps a graph: call it in torch.no_grad"):
        check_critic(Network(), group)


def test_a_run_trains_with_it(tmp_path):
    policy = train(ToyWorld(), [Network()], toy_scenarios(4), TINY.changed(micro_rows=2), tmp_path)
    assert all(bool(weights.isfinite().all()) for weights in policy.parameters)
