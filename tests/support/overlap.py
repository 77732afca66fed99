"""Runs whose critics are asked in two ways: while the next group is imagined, and after it."""

import threading
import time

import torch

from worldcompass.critic import Elsewhere
from worldcompass.runs.metrics import read_metrics
from worldcompass.testing import noise_group
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.selection import Learning

SECONDS = 0.3  # to imagine a group, and to score one


GROUPS = 4


OWN = ("seconds", "failed_tries")  # what a row tells of how critics were asked


SMALL = Config(
    steps=1,
    sampling=Sampling(
        prompts_per_step=GROUPS, groups_at_once=1, group_size=4, last_chunk=0, denoising_steps=2
    ),
    learning=Learning(best=1, worst=1, noise_levels=1),
    keeping=Keeping(save_every=100),
)


class SlowWorld(ToyWorld):
    """Takes its time for every group, and keeps when it did."""

    def __init__(self):
        super().__init__()
        self.imagined = []

    def decode(self, clean_BCKHW, context):
        begun = time.monotonic()
        time.sleep(SECONDS)
        self.imagined.append((begun, time.monotonic()))
        return super().decode(clean_BCKHW, context)


class Far(ToyObedience):
    """The toy's critic, as if it were in another process."""

    def __init__(self, at_once=1, seconds=0.0):
        self.at_once, self.seconds, self.threads = at_once, seconds, []
        self.running = self.most = 0

    def __call__(self, group):
        self.threads.append(threading.current_thread())
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        self.running -= 1
        return super().__call__(group)


class Waited:
    """The same critic, asked in the sequential way; it keeps when it was."""

    def __init__(self, critic):
        self.name, self.critic, self.scored = critic.name, critic, []

    def __call__(self, group):
        begun = time.monotonic()
        scores = self.critic(group)
        self.scored.append((begun, time.monotonic()))
        return scores


class Watched(Waited):
    """The same critic, asked as it is."""

    def __init__(self, critic):
        super().__init__(critic)
        self.at_once = critic.at_once


def train_with(critic, out, config=SMALL, world=None):
    """What a run learned, and its metrics."""
    scenarios = toy_scenarios(GROUPS)
    policy = train(world or ToyWorld(), [critic, ToyCleanliness()], scenarios, config, out, live=False)
    rows = read_metrics(out / "metrics.jsonl")
    return policy.state(), [
        {name: told for name, told in row.to_json().items() if name not in OWN} for row in rows
    ]


def scored_meanwhile(critic, out):
    """What a run learned, its metrics, and how many groups were scored while another one was imagined."""
    world = SlowWorld()
    state, rows = train_with(critic, out, world=world)
    assert len(critic.scored) == GROUPS + (
        not isinstance(critic, Elsewhere)
    )  # one here is tried before the run
    both = [any(a < d and c < b for c, d in world.imagined) for a, b in critic.scored[-GROUPS:]]
    return state, rows, sum(both)


def check_overlap(critic, folder):
    """Train in both ways: the same weights and metrics; all groups but the last are scored meanwhile, or none.

    One may be missed on a machine that is so busy that the world gets no turn while a group is scored.
    """
    assert isinstance(critic, Elsewhere)
    critic(noise_group(2, 4, 4))  # connections are made, code is imported
    now = scored_meanwhile(Watched(critic), folder / "now")
    waited = scored_meanwhile(Waited(critic), folder / "waited")
    for name, tensor in waited[0].items():
        assert torch.equal(now[0][name], tensor), name
    assert now[1] == waited[1]
    assert now[2] >= GROUPS - 2 and waited[2] == 0, (now[2], waited[2])
