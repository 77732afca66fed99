"""The plan of a run: bytes per GPU and files, computed before anything is loaded.

Sizes of weights, averages and optimiser come from the run's own classes on the meta device. Sizes of activations
and prefix come from ``worldcompass.cost.trace``. This module adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from worldcompass.cost.trace import Job, LiveBytes, Traced, trace_without_data
from worldcompass.cost.work import Work, count_without_data
from worldcompass.devices.cuda import as_on_cuda
from worldcompass.parallel.sharding import InUnits
from worldcompass.runs.requirements import GIB, NeededFile, NeededModule
from worldcompass.training.config import Config
from worldcompass.training.policy import Policy
from worldcompass.world import Context, WorldModel, WorldSpec

# Assumed, not measured: memory of the CUDA context, of NCCL's buffers, and the share by which the allocator's
# blocks and the kernels' work space exceed the live tensors.
CONTEXT_BYTES = GIB
NCCL_BYTES = GIB
SLACK = 0.1
# With sharded weights, besides the parameters of no unit, which stay whole during a pass. The first is what one of
# eight processes on a CPU holds; the second is a bound, as a GPU may reduce gradients while it computes others.
GATHERED = 3  # units whole at once: the one that computes, the next one, and its buffer
REDUCED = 2  # gradients of a unit whole at once: as computed, and copied for their reduction
SHALLOW = 2  # blocks of the traced network; a second one with one more block shows the memory per block
LATENTS_PER_ROW = 4  # latents stored per training row: clean, noisy, noise, behaviour's prediction


@dataclass(frozen=True)
class Needs:
    """A recipe's description of itself; the network may have any size."""

    config: Config
    spec: WorldSpec
    net: nn.Module
    """The whole network on the meta device, in the dtypes of a run; trained parameters require a gradient."""
    other_bytes: int
    """Bytes of other loaded modules, such as the decoder."""
    num_blocks: int
    world_of_depth: Callable[[int], tuple[WorldModel[Any], Sequence[nn.Module]]]
    """Makes a world whose network has the given number of blocks; returns it and its modules on the meta device."""
    begin: Callable[[WorldModel[Any], int], Context]
    """Starts the given number of pasts on zeros."""
    num_chunks: int
    """Number of finished chunks that fill the attended memory."""
    files: tuple[NeededFile, ...] = ()
    modules: tuple[NeededModule, ...] = ()
    critic_bytes: int = 0
    """Bytes of the critics' networks; not traced, but estimated from their authors' hardware."""
    notes: tuple[str, ...] = ()
    """Lines about the inputs that a user should check by eye."""


@dataclass(frozen=True)
class States:
    """Bytes that are held for the whole run or for an update."""

    parameters: int
    """Number of parameters, not bytes."""
    trainable: int
    """Number of trained parameters, not bytes."""
    weights: int
    other: int
    averages: int
    """Behaviour, checkpoint and reference copies of the trained weights."""
    swap: int
    """Copy of the trained weights while other weights are swapped in."""
    gradients: int
    optimizer: int
    optimizer_step: int
    """Peak of an optimiser's step above its state."""
    unit: int
    """Weights of the largest unit with trained parameters, which sharding gathers for its computation."""
    unit_gradients: int = 0
    """Gradients of the largest unit, which sharding reduces together."""
    outside: int = 0
    """Weights of no unit, which sharding gathers for a whole pass."""
    critics: int = 0
    """Assumed, not traced."""


@dataclass(frozen=True)
class Plan:
    """Bytes on one of ``gpus`` GPUs."""

    gpus: int
    pasts: int
    """Prompts per step and GPU."""
    states: States
    traced: Traced
    past_frames: int
    futures: int
    """The candidates' frames and the training rows' latents."""
    sharded: bool = True
    """Whether the GPUs split the trained state, or each holds all of it."""

    @property
    def shards(self) -> int:
        """Number of shards of weights, averages, gradients and optimiser."""
        return self.gpus if self.sharded else 1

    @property
    def phases(self) -> dict[str, int]:
        """The peak of each part of a training step, bytes."""
        s, t = self.states, self.traced
        held = s.other + s.critics + _share(s.weights + s.averages + s.optimizer, self.shards)
        held += self.past_frames + t.prefix
        swap, gradients = _share(s.swap, self.shards), _share(s.gradients, self.shards)
        return {
            "attend": held + self.gathered + swap + t.attend,
            "imagine": held + self.gathered + swap + t.imagine,
            "decode": held + swap + t.decode,
            "update": held + self.gathered + self.reduced + self.futures + gradients + t.update,
            # Not divided: an optimiser may need its matrices whole, a part of them at a time.
            "optimiser step": held + self.futures + gradients + s.optimizer_step,
        }

    @property
    def gathered(self) -> int:
        """Bytes of sharded weights that are whole at once."""
        return GATHERED * self.states.unit + self.states.outside if self.shards > 1 else 0

    @property
    def reduced(self) -> int:
        """Bytes of sharded gradients that are whole at once."""
        return REDUCED * self.states.unit_gradients if self.shards > 1 else 0

    @property
    def assumed(self) -> int:
        """Bytes beside the live tensors: CUDA's context, and NCCL's buffers between several GPUs."""
        return CONTEXT_BYTES + (NCCL_BYTES if self.gpus > 1 else 0)

    @property
    def worst_phase(self) -> str:
        """The part with the highest peak."""
        phases = self.phases
        return max(phases, key=lambda name: phases[name])

    @property
    def peak(self) -> int:
        """Largest total of live tensors, bytes."""
        return max(self.phases.values())

    def fits(self, memory: float) -> bool:
        """Whether a GPU with ``memory`` bytes is enough, including the assumed slack."""
        return self.peak * (1 + SLACK) + self.assumed <= memory


def make_plan(needs: Needs, gpus: int = 1, on_cuda: bool = True) -> Plan:
    """The plan of a run that divides its prompts, and with ``config.shard`` its weights, among ``gpus`` GPUs.

    ``on_cuda=False`` uses the types and kernels of a CPU instead.
    """
    config = needs.config
    pasts = -(-config.sampling.prompts_per_step // gpus)
    job = Job(
        needs.begin,
        needs.num_chunks,
        pasts,
        pasts * config.sampling.group_size,
        largest_micro_batch(config, pasts),
        config.optimiser.autocast_bf16,
        on_cuda,
    )
    jobs = job, replace(job, decodes=False)
    worlds = [needs.world_of_depth(depth) for depth in (SHALLOW, SHALLOW + 1)]
    if gpus > 1 and config.parallel.gather_bf16:
        for world, _ in worlds:
            world.net.bfloat16()  # the type of gathered weights, so that autocast casts none
    shallow, deeper = (
        trace_without_data(world, modules, job) for (world, modules), job in zip(worlds, jobs, strict=True)
    )
    traced = shallow.extended(deeper, needs.num_blocks - SHALLOW)
    past_frames, futures = pasts * past_bytes(config, needs.spec), pasts * futures_bytes(config, needs.spec)
    with as_on_cuda() if on_cuda else nullcontext():
        states = measure_states(needs)
    return Plan(gpus, pasts, states, traced, past_frames, futures, config.parallel.shard)


def count_work(needs: Needs) -> Work:
    """The operations of single calls of the whole network."""
    job = Job(needs.begin, needs.num_chunks, 1, 1, 1, needs.config.optimiser.autocast_bf16)
    least = count_without_data(needs.world_of_depth, SHALLOW, job)
    more = count_without_data(needs.world_of_depth, SHALLOW + 1, replace(job, decodes=False))
    return least.extended(more, needs.num_blocks - SHALLOW)


def share_of(needs: Needs, ranks: int) -> Needs:
    """The needs of one of several unsharded processes, which has fewer prompts; sharded needs are unchanged."""
    if needs.config.parallel.shard or ranks == 1:
        return needs
    prompts = -(-needs.config.sampling.prompts_per_step * needs.config.parallel.ranks_per_group // ranks)
    return replace(needs, config=needs.config.changed(prompts_per_step=prompts))


def what_to_lower(plan: Plan, config: Config) -> str:
    """Advice on the settings that reduce the largest phase."""
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
    if states.critics:
        lower += (
            f"; {states.critics / GIB:.0f} GiB are assumed for critics in this process: serve them on another GPU"
            " (worldcompass serve-reward), or choose some without weights"
        )
    kept = _share(states.weights + states.averages + states.optimizer, plan.gpus)
    if 2 * kept < plan.peak and phase != "optimiser step":
        return lower
    return (
        f"{lower}; {kept / GIB:.2f} GiB of it are weights, averages and optimiser: split them over more GPUs with"
        " config.shard=true, train adapters, or keep them in the CPU's memory with config.offload=true"
    )


def measure_states(needs: Needs) -> States:
    """All sizes except those of activations, from the run's own classes on the meta device."""
    net, optimiser = needs.net, needs.config.optimiser
    *units, outside = _units_of(net)
    narrow = needs.config.parallel.gather_bf16
    trained = [p for p in net.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    with LiveBytes() as live:
        policy = Policy(net, optimiser.behaviour_decay, optimiser.checkpoint_decay)
        averages = live.now
        optimizer = optimiser.make_optimizer(policy.parameters, optimiser.lr, optimiser.weight_decay)
        for p in trained:
            p.grad = torch.zeros_like(p)
        for group in optimizer.param_groups:  # on CUDA PyTorch's optimisers take all parameters at once
            group.update({"foreach": True} if group.get("foreach", True) is None else {})
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
        unit=max((_bytes(u, narrow) for u in units if any(p.requires_grad for p in u)), default=0),
        unit_gradients=max((sum(p.nbytes for p in u if p.requires_grad) for u in units), default=0),
        outside=_bytes(outside, narrow),
        critics=needs.critic_bytes,
    )


def largest_micro_batch(config: Config, pasts: int) -> int:
    """Rows of one forward and backward pass, the same number of every past; see ``training.selection``."""
    learning = config.learning
    of_an_update = -(-learning.predicted_rows // learning.updates_per_rollout)
    return pasts * min(max(1, learning.micro_rows // pasts), of_an_update)


def past_bytes(config: Config, spec: WorldSpec) -> int:
    """Bytes of the longest past's uint8 frames."""
    start = config.sampling.last_chunk * _length(config, spec)
    return _frame_bytes(spec) * spec.num_frames(0, start)


def futures_bytes(config: Config, spec: WorldSpec) -> int:
    """Bytes of one past's uint8 candidate frames and float32 latents of training rows."""
    length = _length(config, spec)
    start = config.sampling.last_chunk * length
    frames = config.sampling.group_size * spec.num_frames(start, start + config.sampling.clip_chunks * length)
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


def _bytes(parameters: Iterable[nn.Parameter], narrow: bool) -> int:
    """Bytes of parameters as they are gathered: in their own types, or in bfloat16."""
    return sum(2 * p.numel() if narrow else p.nbytes for p in parameters)


def _units_of(net: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each unit of sharding without those of earlier ones, and at last those of no unit."""
    found: list[list[nn.Parameter]] = []
    seen: set[nn.Parameter] = set()
    for modules in [*(net.units() if isinstance(net, InUnits) else ()), (net,)]:
        own = [p for module in modules for p in module.parameters() if p not in seen]
        seen.update(own)
        found.append(own)
    return found
