"""Operations of a run, counted on its own code without data, and the time that they take at assumed rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from worldcompass.cost.kernels import CPU_KERNELS
from worldcompass.cost.trace import SIGMA, Job, without_data
from worldcompass.devices.autocast import in_bf16
from worldcompass.devices.cuda import as_on_cuda
from worldcompass.seeding import generator_for
from worldcompass.training.config import Config
from worldcompass.world import WorldModel

# Published peak of an H100 or H200 for dense products in bfloat16. What a run reaches of it is not known before.
PEAK = 989e12
SHARES = (0.2, 0.4, 0.6)
HALVES_RATE = 0.5  # of a decoder in float32, whose products run in TF32, compared with bfloat16


@dataclass(frozen=True)
class Work:
    """Floating-point operations of single calls; a multiply-add is two."""

    first: float
    """A denoising pass of one row of the first chunk, which has no past."""
    row: float
    """A denoising pass of one row after a full memory."""
    attend: float
    """The pass over a full memory of one past."""
    update: float
    """Forward and backward pass of one training row after a full memory."""
    decode: float
    """Decoding one chunk."""
    keep: float = 0.0
    """The network's part of remembering a finished chunk after a full memory; 0 where it takes no pass."""
    keep_decoder: float = 0.0
    """The decoder's part of it."""

    def extended(self, deeper: Work, blocks: int) -> Work:
        """The work with ``blocks`` more blocks, by extrapolation; decoding does not depend on them."""
        pairs = zip(astuple(self), astuple(deeper), strict=True)
        return replace(Work(*(a + blocks * (b - a) for a, b in pairs)), decode=self.decode)


@dataclass(frozen=True)
class StepWork:
    """Operations of one training step over all processes."""

    network: float
    decoder: float

    def seconds(self, share: float, gpus: int, peak: float = PEAK) -> float:
        """Time at a share of the peak rate of every GPU, without critics, communication, and reading weights."""
        return (self.network + self.decoder / HALVES_RATE) / (share * peak * gpus)


def step_work(work: Work, config: Config, chunk: int, full: int, steps: int) -> StepWork:
    """The operations of a training step on one chunk.

    Args:
        work: of single calls.
        config: of the run.
        chunk: the trained chunk, from 0.
        full: number of chunks that fill the memory. Attention, and so the work, grows linearly up to it.
        steps: denoising steps of the rollout.
    """
    sampling, learning = config.sampling, config.learning

    def filled(past: int) -> float:
        return min(past, full) / full if full else 1.0

    def row(past: int) -> float:
        return work.first + (work.row - work.first) * filled(past)

    keep = work.keep / work.row  # in denoising passes, so it grows with the past as they do
    past = sum((steps + keep) * row(c) + work.attend * filled(c) for c in range(chunk))
    future = work.attend * filled(chunk) + sampling.group_size * steps * row(chunk)
    follows = range(chunk + 1, chunk + sampling.clip_chunks)
    after = sum(steps * row(c) + keep * row(c - 1) + work.attend * filled(c) for c in follows)
    future += sampling.group_size * after
    # Behaviour's targets, then the update, whose backward pass keeps its proportion to the forward pass.
    trained = learning.predicted_rows * row(chunk) * (1 + work.update / work.row)
    one = past + future + trained
    shown = chunk + sampling.group_size * sampling.clip_chunks
    kept = chunk + sampling.group_size * len(follows)
    decoded = shown * work.decode + kept * work.keep_decoder
    return StepWork(sampling.prompts_per_step * one, sampling.prompts_per_step * decoded)


def count_without_data(
    make: Callable[[int], tuple[WorldModel[Any], Sequence[nn.Module]]], depth: int, job: Job
) -> Work:
    """``Work`` of a world with ``depth`` blocks on the meta device."""
    world, modules = make(depth)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in modules:
            without_data(module)
        return count(world, job)


def count(world: WorldModel[Any], job: Job) -> Work:
    """``Work`` of a world, by running its calls on zeros."""
    with as_on_cuda() if job.on_cuda else nullcontext():
        return _count(world, job)


def _count(world: WorldModel[Any], job: Job) -> Work:
    length = world.spec.chunk_lengths[0]
    actions = world.spec.actions.commanded(torch.zeros(1, length, dtype=torch.long))
    zeros = torch.zeros(1, *world.spec.latent_shape[:1], length, *world.spec.latent_shape[1:])
    generators = [generator_for("trace", 0)]

    def predict(context: Any) -> Tensor:
        return world.predict_clean(zeros, torch.full((1,), SIGMA), actions, context)

    with torch.no_grad(), in_bf16("cpu", job.autocast_bf16):
        start = context = job.begin(world, 1)
        first, _ = _operations(lambda: predict(world.attend(start, actions, generators)))
        for _ in range(job.num_chunks):
            context = world.remember(context, zeros, actions)
        attend, attended = _operations(lambda: world.attend(context, actions, generators))
        row, clean = _operations(lambda: predict(attended))
        decode, _ = _operations(lambda: world.decode(clean, attended)) if job.decodes else (0.0, None)
        keep, keep_decoder = _of_net(world.net, lambda: world.remember(attended, clean, actions))

    def update() -> None:
        with in_bf16("cpu", job.autocast_bf16):
            predicted = predict(attended)
        predicted.square().sum().backward()

    return Work(first, row, attend, _operations(update)[0], decode, keep, keep_decoder)


def _of_net(net: nn.Module, call: Callable[[], Any]) -> tuple[float, float]:
    """Operations of a call within the network, which is called as a whole as sharding needs, and the others."""
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        call()
    inside = float(sum(counter.get_flop_counts().get(type(net).__name__, {}).values()))
    return inside, counter.get_total_flops() - inside


def _operations(call: Callable[[], Any]) -> tuple[float, Any]:
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        result = call()
    return float(counter.get_total_flops()), result
