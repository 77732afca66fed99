"""Before a run: is there something to learn from its rewards, and does the optimiser keep it?

From the same weights, steps with other prompts and other noise give gradients. What these have in common is signal,
and the rest is noise of the draw: independent noise in so many dimensions has a cosine of 0. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from worldcompass.errors import UnfitInputs
from worldcompass.statistics import LEVEL, Estimate, student
from worldcompass.training.optim import MakeOptimizer, adamw, muon, normalised_sgd
from worldcompass.training.preflight import prepare
from worldcompass.training.run import Parts, Run
from worldcompass.training.selection import Draw, at_first, at_level, at_levels, share_out
from worldcompass.training.step import Scored, backward, cache_targets, compare, imagine_and_score, select

LEAST_STEPS = 4  # for an interval
OPTIMISERS: tuple[MakeOptimizer, ...] = (normalised_sgd, muon, adamw)
Gradient = list[Tensor]
"""Of every trainable parameter, of length 1 in all."""


@dataclass(frozen=True)
class Agreement:
    """How much the gradients of different steps have in common."""

    what: str
    """Which rewards and noise levels the gradients are of."""
    cosine: Estimate
    """Mean cosine of the gradients of two steps."""

    @property
    def steps_for_half(self) -> float:
        """Steps whose mean gradient would be signal by half of its square; infinite where nothing is in common.

        Of gradients that share a part c of their square, the mean of n has the part ``c / (c + (1 - c) / n)``.
        """
        common = self.cosine.mean
        return (1 - common) / common if common > 0 else float("inf")


@dataclass(frozen=True)
class Reach:
    """How far an optimiser's step goes where other steps want to go."""

    optimiser: str
    cosine: Estimate
    """Of the step by the mean gradient of all other steps with the gradient of the one that was left out."""


@dataclass(frozen=True)
class LearningSignal:
    """What a recipe's rewards offer to learn, at the weights before training."""

    steps: int
    groups: int
    """Of a step."""
    agreements: Sequence[Agreement]
    """First as the recipe trains, then each reward alone, then each noise level alone."""
    reaches: Sequence[Reach]
    """First the plain gradient's, as the recipe trains, then the optimisers'; the recipe's own is the second."""

    @property
    def found(self) -> bool:
        """Whether the interval of what the recipe trains on lies above 0."""
        return self.agreements[0].cosine.rises

    def kept(self, reach: Reach) -> float:
        """The share of the gradient's reach that an optimiser's step keeps."""
        return reach.cosine.mean / self.reaches[0].cosine.mean


def measure_signal(
    parts: Parts, steps: int = 8, on_step: Callable[[int], None] = lambda step: None
) -> LearningSignal:
    """Compare the gradients of some steps from the weights before training.

    Keeps all gradients on the CPU in bfloat16: their number times two bytes for each trainable parameter.

    Args:
        parts: of the run; its weights stay as they are.
        steps: number of steps, 4 or more.
        on_step: called after each step with its number, from 1.

    Raises:
        UnfitInputs: when inputs do not fit together, when nothing is rewarded, or with several processes.
    """
    if parts.config.learning.teacher == "recordings":
        raise UnfitInputs(
            "this recipe learns from recordings: there are no rewards whose signal could be measured"
        )
    if steps < LEAST_STEPS:
        raise UnfitInputs(f"{steps} steps are too few to compare: take {LEAST_STEPS} or more")
    run = prepare(parts)
    if run.team.size > 1:
        raise UnfitInputs("the signal is measured by one process: start it without a launcher")
    found: dict[str, list[Gradient]] = {}
    for step in range(1, steps + 1):
        for what, gradient in gradients(run, step).items():
            found.setdefault(what, []).append(gradient)
        on_step(step)
    whole = next(iter(found.values()))
    return LearningSignal(
        steps,
        parts.config.sampling.prompts_per_step,
        [Agreement(what, agreement(several)) for what, several in found.items()],
        [Reach(name, reach(run.policy.parameters, make, whole)) for name, make in _optimisers(run).items()],
    )


def gradients(run: Run, step: int) -> dict[str, Gradient]:
    """The gradients of one step: as the recipe trains, of each reward alone, and of each noise level alone."""
    config = run.config
    names = [critic.name for critic in run.critics]
    weights_R = config.rewards.balance((), names, config.rewards.weights)
    scored = imagine_and_score(run, step)
    draw, count = config.learning.draw, config.learning.noise_levels
    found = {"as trained": gradient(run, scored, weights_R, draw, count)}
    rewarded = [name for name, weight in zip(names, weights_R, strict=True) if weight > 0]
    for name in rewarded if len(rewarded) > 1 else ():
        alone_R = torch.tensor([float(name == other) for other in names]).to(weights_R)
        found[f"{name} alone"] = gradient(run, scored, alone_R, draw, count)
    if draw in (at_levels, at_first):
        for place, sigma in enumerate(scored.request.sigmas[:-1]):
            found[f"noise level {float(sigma):.2f}"] = gradient(run, scored, weights_R, at_level(place), 1)
    run.optimizer.zero_grad(set_to_none=True)
    return found


def gradient(run: Run, scored: Scored, weights_R: Tensor, draw: Draw, noise_levels: int) -> Gradient:
    """The gradient of one update on a step's futures, of length 1; of length 0 where nothing is preferred."""
    chosen = select(run, scored, compare(run, scored, weights_R))
    rows = share_out(chosen, scored.request.sigmas, noise_levels, 1, run.config.learning.micro_rows, draw)
    backward(run, cache_targets(run, rows)[0])
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in run.policy.parameters]
    size = nn.utils.get_total_norm(parts).clamp_min(torch.finfo(torch.float32).tiny)
    return [(part / size).cpu().bfloat16() for part in parts]


def agreement(several: Sequence[Gradient]) -> Estimate:
    """The mean cosine of two of some gradients; Student's interval of the jackknife over them."""
    count = len(several)
    cosines = torch.zeros(count, count, dtype=torch.float64)
    for i, j in combinations(range(count), 2):
        cosines[i, j] = cosines[j, i] = cosine(several[i], several[j])
    whole, of_each = cosines.sum(), 2 * cosines.sum(1)
    middle = float(whole) / (count * (count - 1))
    without = [float(whole - lost) / ((count - 1) * (count - 2)) for lost in of_each]
    return _around(middle, [count * middle - (count - 1) * value for value in without])


def reach(
    parameters: Sequence[nn.Parameter], make: MakeOptimizer | None, several: Sequence[Gradient]
) -> Estimate:
    """The mean cosine of a step by all gradients but one with that one; ``make`` None for the plain gradient.

    The steps share most of their gradients, so the interval is narrower than that of independent values.
    """
    values: list[float] = []
    for place, left_out in enumerate(several):
        others = [one for i, one in enumerate(several) if i != place]
        mean = [torch.stack([part.float() for part in parts]).mean(0) for parts in zip(*others, strict=True)]
        values.append(cosine(mean if make is None else step_of(parameters, make, mean), left_out))
    return _around(fmean(values), values)


@torch.no_grad()
def step_of(parameters: Sequence[nn.Parameter], make: MakeOptimizer, mean: Sequence[Tensor]) -> list[Tensor]:
    """Minus the first step of a new optimiser by a gradient; the parameters stay as they are."""
    before = [p.detach().clone() for p in parameters]
    optimizer = make(parameters, 1.0, 0.0)
    for parameter, part in zip(parameters, mean, strict=True):
        parameter.grad = part.to(parameter)
    optimizer.step()
    steps = [(old - p.detach()).cpu() for old, p in zip(before, parameters, strict=True)]
    for parameter, old in zip(parameters, before, strict=True):
        parameter.copy_(old)
        parameter.grad = None
    return steps


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Of all parameters together; 0 where one of the two has no length."""
    products = torch.zeros(3, dtype=torch.float64)
    for one, two in zip(a, b, strict=True):
        x, y = one.float().flatten(), two.float().flatten()
        products += torch.stack([x @ y, x @ x, y @ y]).double()
    both, size = products[0], (products[1] * products[2]).sqrt()
    return float(both / size) if size > 0 else 0.0


def _around(middle: float, values: Sequence[float]) -> Estimate:
    """Student's interval of the mean of values."""
    width = student(LEVEL, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return Estimate(middle, middle - width, middle + width, len(values))


def _optimisers(run: Run) -> Mapping[str, MakeOptimizer | None]:
    """By name: the plain gradient, the recipe's own, then the others."""
    own = run.config.optimiser.make_optimizer
    others = [make for make in OPTIMISERS if make is not own]
    return {"gradient": None} | {_name(make): make for make in (own, *others)}


def _name(make: MakeOptimizer) -> str:
    return getattr(make, "__name__", type(make).__name__)
