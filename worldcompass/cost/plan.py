"""What a run will need: bytes per GPU and files, known before anything is loaded.

Sizes of weights, averages and optimiser come from the classes that a run uses, made on the meta device; sizes of
activations and prefix from ``worldcompass.cost.trace``. What is left are sums, and they are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from worldcompass.cost.trace import Job, LiveBytes, Traced, trace_without_data
from worldcompass.runs.requirements import NeededFile, NeededModule
from worldcompass.training.config import Config
from worldcompass.training.policy import Policy
from worldcompass.world import Context, WorldModel, WorldSpec

# Assumed, not measured: what the CUDA context takes, and the share by which an allocator's blocks and kernels' work
# space exceed the tensors that are alive.
CONTEXT_BYTES = 1 << 30
SLACK = 0.1
GIB = 1 << 30
SHALLOW = (
    2  # blocks of the network that is traced; a second one with one block more tells what each block adds
)
LATENTS_PER_ROW = 4  # kept of a training row: clean, noisy, noise, behaviour's prediction


@dataclass(frozen=True)
class Needs:
    """What a recipe says about itself; the network may be of any size."""

    config: Config
    spec: WorldSpec
    net: nn.Module
    """Whole, on the meta device, in the dtypes of a run; what is trained requires a gradient."""
    other_bytes: int
    """Of modules that are held but not trained, such as the decoder."""
    num_blocks: int
    world_of_depth: Callable[[int], tuple[WorldModel[Any], Sequence[nn.Module]]]
    """A world whose network has that many blocks, and its modules, on the meta device."""
    begin: Callable[[WorldModel[Any], int], Context]
    """Starts that many pasts on zeros."""
    num_chunks: int
    """Finished chunks that fill the memory which is attended to."""
    files: tuple[NeededFile, ...] = ()
    modules: tuple[NeededModule, ...] = ()
    critic_bytes: int = 0
    """Of critics' networks, which are not traced: what their authors' hardware suggests."""


@dataclass(frozen=True)
class States:
    """Bytes that live as long as the run, or as long as an update."""

    parameters: int
    """Numbers, not bytes; so is ``trainable``."""
    trainable: int
    weights: int
    other: int
    averages: int
    """Behaviour, checkpoint and reference copies of what is trained."""
    swap: int
    """The trained weights set aside while others are swapped in."""
    gradients: int
    optimizer: int
    optimizer_step: int
    """Peak of an optimiser's step over its state."""
    block: int
    """The largest block's weights, which sharding gathers to compute."""
    critics: int = 0
    """Assumed, not traced."""


@dataclass(frozen=True)
class Plan:
    """Bytes on one of ``gpus`` GPUs."""

    gpus: int
    pasts: int
    """Prompts of a step that one GPU imagines."""
    states: States
    traced: Traced
    past_frames: int
    futures: int
    """Frames of the candidates, and the training rows' latents."""
    sharded: bool = True
    """Whether the GPUs split what is trained, or each holds all of it."""

    @property
    def shards(self) -> int:
        """Parts in which weights, averages, gradients and optimiser are held."""
        return self.gpus if self.sharded else 1

    @property
    def phases(self) -> dict[str, int]:
        """The peak of each part of a training step."""
        s, t = self.states, self.traced
        gathered = 2 * s.block if self.shards > 1 else 0  # one computes while the next arrives
        held = s.other + s.critics + gathered + _share(s.weights + s.averages + s.optimizer, self.shards)
        held += self.past_frames + t.prefix
        swap, gradients = _share(s.swap, self.shards), _share(s.gradients, self.shards)
        return {
            "attend": held + swap + t.attend,
            "imagine": held + swap + t.imagine,
            "decode": held + swap + t.decode,
            "update": held + self.futures + gradients + t.update,
            "optimiser step": held + self.futures + gradients + _share(s.optimizer_step, self.shards),
        }

    @property
    def worst_phase(self) -> str:
        """The part with the highest peak."""
        phases = self.phases
        return max(phases, key=lambda name: phases[name])

    @property
    def peak(self) -> int:
        """Bytes of live tensors at the worst moment."""
        return max(self.phases.values())

    def fits(self, memory: float) -> bool:
        """Whether a GPU with so many bytes is enough, with the assumed slack."""
        return self.peak * (1 + SLACK) + CONTEXT_BYTES <= memory


def make_plan(needs: Needs, gpus: int = 1) -> Plan:
    """The plan of a run whose prompts, and with ``config.shard`` whose weights, are shared out among GPUs."""
    config = needs.config
    pasts = -(-config.sampling.prompts_per_step // gpus)
    job = Job(
        needs.begin,
        needs.num_chunks,
        pasts,
        pasts * config.sampling.group_size,
        largest_micro_batch(config, pasts),
        config.optimiser.autocast_bf16,
    )
    jobs = job, replace(job, decodes=False)
    worlds = [needs.world_of_depth(depth) for depth in (SHALLOW, SHALLOW + 1)]
    if gpus > 1 and config.parallel.shard and config.optimiser.autocast_bf16:
        for world, _ in worlds:
            world.net.bfloat16()  # as gathered: then no second copy is made of weights
    shallow, deeper = (
        trace_without_data(world, modules, job) for (world, modules), job in zip(worlds, jobs, strict=True)
    )
    traced = shallow.extended(deeper, needs.num_blocks - SHALLOW)
    past_frames, futures = pasts * past_bytes(config, needs.spec), pasts * futures_bytes(config, needs.spec)
    return Plan(gpus, pasts, measure_states(needs), traced, past_frames, futures, config.parallel.shard)


def share_of(needs: Needs, ranks: int) -> Needs:
    """The needs of one of several processes that are not sharded: its prompts alone; sharded ones as they are."""
    if needs.config.parallel.shard or ranks == 1:
        return needs
    prompts = -(-needs.config.sampling.prompts_per_step * needs.config.parallel.ranks_per_group // ranks)
    return replace(needs, config=needs.config.changed(prompts_per_step=prompts))


def what_to_lower(plan: Plan, config: Config) -> str:
    """Which settings make the largest phase smaller, in words."""
    phase = plan.worst_phase
    pasts = f"config.prompts_per_step (now {config.sampling.prompts_per_step})"
    candidates = f"config.group_size (now {config.sampling.group_size})"
    lower = {
        "attend": f"lower {pasts}",
        "imagine": f"lower {candidates} or {pasts}",
        "decode": f"lower {candidates} or {pasts}",
        "update": f"lower config.micro_rows (now {config.learning.micro_rows})",
        "optimiser step": "train adapters (config.lora)",
    }[phase]
    states = plan.states
    kept = _share(states.weights + states.averages + states.optimizer, plan.gpus)
    if 2 * kept < plan.peak and phase != "optimiser step":
        return lower
    return (
        f"{lower}; {kept / GIB:.2f} GiB of it are weights, averages and optimiser, which more GPUs share with"
        " config.shard=true, adapters make small, and config.offload=true keeps in the CPU's memory"
    )


def measure_states(needs: Needs) -> States:
    """Sizes of everything but activations, from the run's own classes on the meta device."""
    net, optimiser = needs.net, needs.config.optimiser
    trained = [p for p in net.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    with LiveBytes() as live:
        policy = Policy(net, optimiser.behaviour_decay, optimiser.checkpoint_decay)
        averages = live.now
        optimizer = optimiser.make_optimizer(policy.parameters, optimiser.lr, optimiser.weight_decay)
        for p in trained:
            p.grad = torch.zeros_like(p)
        before = live.now
        live.above()
        optimizer.step()
        state, step = live.now - before, live.above()
    for p in trained:
        p.grad = None
    return States(
        parameters=sum(p.numel() for p in net.parameters()),
        trainable=sum(p.numel() for p in trained),
        weights=sum(p.nbytes for p in net.parameters()),
        other=needs.other_bytes,
        averages=averages,
        swap=gradients,
        gradients=gradients,
        optimizer=state,
        optimizer_step=step,
        block=max(_bytes_by_block(net).values()),
        critics=needs.critic_bytes,
    )


def largest_micro_batch(config: Config, pasts: int) -> int:
    """Rows of one forward and backward pass, see ``selection.share_out``: as many of every past."""
    learning = config.learning
    of_an_update = -(
        -(learning.best + learning.worst) * learning.noise_levels // learning.updates_per_rollout
    )
    return pasts * min(max(1, learning.micro_rows // pasts), of_an_update)


def past_bytes(config: Config, spec: WorldSpec) -> int:
    """Frames of the longest past, uint8."""
    start = config.sampling.last_chunk * _length(config, spec)
    return _frame_bytes(spec) * spec.num_frames(0, start)


def futures_bytes(config: Config, spec: WorldSpec) -> int:
    """Of one past: the candidates' uint8 frames and the training rows' float32 latents."""
    length = _length(config, spec)
    start = config.sampling.last_chunk * length
    frames = config.sampling.group_size * spec.num_frames(start, start + length)
    channels, height, width = spec.latent_shape
    rows = (config.learning.best + config.learning.worst) * config.learning.noise_levels
    return frames * _frame_bytes(spec) + LATENTS_PER_ROW * 4 * rows * channels * length * height * width


def _length(config: Config, spec: WorldSpec) -> int:
    return config.sampling.chunk_length or spec.chunk_lengths[0]


def _frame_bytes(spec: WorldSpec) -> int:
    height, width = spec.frame_size
    return 3 * height * width


def _share(size: int, gpus: int) -> int:
    return -(-size // gpus)


def _bytes_by_block(net: nn.Module) -> dict[str, int]:
    """Bytes of each numbered block, and of all that is in none."""
    sizes: dict[str, int] = {}
    for name, parameter in net.named_parameters():
        parts = name.split(".")
        block = next((".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()), "")
        sizes[block] = sizes.get(block, 0) + parameter.nbytes
    return sizes
