"""Short runs of the toy world that several tests train."""

import dataclasses

from worldcompass.toy import ToyCleanliness, ToyObedience
from worldcompass.training.config import Config

QUICK = Config(
    steps=30,
    prompts_per_step=4,
    last_chunk=1,
    noise_levels=3,
    updates_per_rollout=2,
    lr=0.03,
    checkpoint_decay=0.5,
    save_every=100,
)
TINY = dataclasses.replace(QUICK, steps=4, prompts_per_step=2, group_size=4, best=1, worst=1, save_every=1)


def critics():
    return [ToyObedience(), ToyCleanliness()]
