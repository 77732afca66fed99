"""The sharded figures of a plan against FSDP2 itself, on one of eight processes; the other seven are pretended."""

import dataclasses

import pytest
import torch.distributed as dist
from storages import StorageBytes

from worldcompass.cost.plan import GATHERED, Plan, measure_states
from worldcompass.cost.trace import Job, metered
from worldcompass.parallel.sharding import shard
from worldcompass.recipes import worldplay_5b, worldplay_8b
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.tiny import TINY_5B, TINY_8B

GPUS = 8
# Wide enough for weights to outweigh activations, and for rows that eight processes divide.
NETWORKS = {
    "8b": (
        worldplay_8b,
        dataclasses.replace(TINY_8B, width=256, num_blocks=4, rope_dims=Config8B().rope_dims),
    ),
    "5b": (worldplay_5b, dataclasses.replace(TINY_5B, head=Config5B().head, num_blocks=4, mlp_width=1024)),
}


@pytest.fixture
def eight():
    """A group of eight processes whose others answer at once, with nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=GPUS, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("kind", "gather_bf16"), [("8b", True), ("5b", False)])
def test_what_sharding_makes_whole_is_what_the_plan_adds(kind, gather_bf16, eight):
    """A pass holds the ends and three units, an update also some gradients; shards are an eighth of the weights."""
    module, network = NETWORKS[kind]
    recipe = module.smoke()
    config = recipe.config.changed(shard=True, gather_bf16=gather_bf16, autocast_bf16=gather_bf16)
    recipe = dataclasses.replace(recipe, network=network, latent_size=(2, 4), config=config)
    needs = recipe.needs()
    job = Job(needs.begin, 1, 1, 4, 2, gather_bf16, on_cuda=False)
    traced = []
    for sharded in (False, True):
        world = recipe.parts("cpu").world
        if sharded:
            shard(world.net, bf16=gather_bf16)
            held = sum(p.to_local().nbytes for p in world.net.parameters())
        with StorageBytes() as live:
            traced.append(metered(world, job, live, "cpu"))
    states = measure_states(needs)
    plan = Plan(GPUS, 1, states, traced[0], 0, 0)
    assert held == pytest.approx(states.weights / GPUS, rel=0.01)
    for phase in ("attend", "imagine"):
        more = getattr(traced[1], phase) - getattr(traced[0], phase)
        assert 0.75 * plan.gathered < more < 1.05 * plan.gathered, phase
    more = traced[1].update - traced[0].update
    assert plan.gathered < 1.1 * more and more < plan.gathered + plan.reduced
    assert plan.gathered > GATHERED * states.unit and states.outside > 0
