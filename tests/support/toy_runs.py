"""Short runs of the toy world that several tests train."""

from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.optim import Optimiser
from worldcompass.training.policy import Decay, Policy
from worldcompass.training.run import Run
from worldcompass.training.selection import Learning

QUICK = Config(
    steps=30,
    sampling=Sampling(prompts_per_step=4, last_chunk=1),
    learning=Learning(noise_levels=3, updates_per_rollout=2),
    optimiser=Optimiser(lr=0.03, checkpoint_decay=0.5),
    keeping=Keeping(save_every=100),
)
TINY = QUICK.changed(steps=4, prompts_per_step=2, group_size=4, best=1, worst=1, save_every=1)


def critics():
    return [ToyObedience(), ToyCleanliness()]


def make_run(config=TINY, world=None):
    """A run before its first step."""
    world = world or ToyWorld()
    policy = Policy(world.net, Decay(0.5, 0.9, 0.1))
    optimizer = config.optimiser.make_optimizer(
        policy.parameters, config.optimiser.lr, config.optimiser.weight_decay
    )
    return Run(world, critics(), toy_scenarios(6), config, policy, optimizer)
