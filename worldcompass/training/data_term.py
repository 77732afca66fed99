"""The data term: the ordinary flow-matching loss on recorded video, next to the loss on imagined futures.

A penalty on the distance from the start weights trusts them far from their own samples, where they are wrong. Data
are right everywhere (data-regularised reinforcement learning, arXiv 2512.04332). The recorded chunk belongs to the
engine's own past only, so the term trains on true pasts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.noise import corrupt
from worldcompass.parallel.sharding import whole
from worldcompass.reachable import true_frames
from worldcompass.rollout import Futures, RolloutRequest
from worldcompass.seeding import generator_for
from worldcompass.training.selection import Rows
from worldcompass.types import Scenario
from worldcompass.world import Encoder, WorldModel


@torch.no_grad()
def data_rows(
    world: WorldModel[Any],
    futures: Sequence[Futures],
    scenarios: Sequence[Scenario],
    request: RolloutRequest,
    num_updates: int,
) -> list[list[Rows]]:
    """Rows of recorded chunks for every update: one per true past, at a noise level of its own.

    Levels are those of the world's full rollout, as videos are imagined with it after training.

    Args:
        world: an ``Encoder``.
        futures: of the step; those after imagined pasts are left out. A first chunk has no imagined past.
        scenarios: one per group.
        request: of the step.
        num_updates: of the step.
    """
    assert isinstance(world, Encoder)
    updates: list[list[Rows]] = [[] for _ in range(num_updates)]
    begun = 0
    for part in futures:
        own = scenarios[begun : begun + len(part.groups)]
        begun += len(own)
        if request.chunk > 0 and not part.groups[0].true_past:
            continue
        start, stop = request.span
        clean = world.encode(true_frames(world, own, stop))[:, :, start:stop].to(part.clean_BCKHW)
        for update, rows in enumerate(updates):
            noisy, sigma = noised(world, clean, own, request, [update])
            rows.append(Rows(clean, noisy, sigma, torch.ones_like(sigma), part.actions, part.context))
    return updates


def noised(
    world: WorldModel[Any],
    clean_PCKHW: Tensor,
    scenarios: Sequence[Scenario],
    request: RolloutRequest,
    numbers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Rows of recorded chunks with one level and noise for every number, and the levels; P * len(numbers) of them.

    Levels are those of the world's full rollout; draws depend on the step, the scenario, the chunk and the number.
    """
    levels = world.spec.sigmas()[:-1]
    generators = [
        generator_for(*request.keys, "data", s.id, request.chunk, number)
        for s in scenarios
        for number in numbers
    ]
    places = [int(torch.randint(len(levels), (), generator=g)) for g in generators]
    noise = torch.stack([torch.randn(clean_PCKHW.shape[1:], generator=g) for g in generators]).to(clean_PCKHW)
    sigma = levels[places].to(clean_PCKHW)
    return corrupt(clean_PCKHW.repeat_interleave(len(numbers), 0), noise, sigma), sigma


def add_share(parameters: Sequence[nn.Parameter], backward: Callable[[], float], share: float) -> float:
    """Add a second gradient, scaled to a share of the norm of the one that the parameters hold.

    A fixed weight would drown the rewards whenever their signal is small, as Muon gives every update one size.

    Args:
        parameters: with their first gradients.
        backward: fills the gradients with the second ones.
        share: of the first gradient's norm.

    Returns:
        What ``backward`` returns.
    """
    first = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    result = backward()
    scale = share * _norm(first) / max(_norm([p.grad for p in parameters]), 1e-12)
    for parameter, grad in zip(parameters, first, strict=True):
        if parameter.grad is None:
            parameter.grad = grad
        elif grad is None:
            parameter.grad.mul_(scale)
        else:
            parameter.grad = grad.add_(parameter.grad, alpha=scale)
    return result


def _norm(grads: Sequence[Tensor | None]) -> float:
    return float(whole(torch.nn.utils.get_total_norm([grad for grad in grads if grad is not None])))
