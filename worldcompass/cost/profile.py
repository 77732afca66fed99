"""A profile of a training step: time per part, compared with the machine's rate for matrix products.

The step is the one that a run takes (``training.loop.take_step``), unchanged. Its inputs (world, critics,
objective, optimiser, averages) are metered. One run of the step counts floating-point operations and others measure
seconds, as counting takes time. Every run starts from the initial weights, so all do the same work.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from worldcompass.cost.kernels import CPU_KERNELS
from worldcompass.critic import Critic, Learner, Need, needs_of
from worldcompass.rollout import device_of
from worldcompass.training.config import Config
from worldcompass.training.loop import take_step
from worldcompass.training.preflight import prepare
from worldcompass.training.run import Parts, Run
from worldcompass.training.stretch import stretch_of_step
from worldcompass.types import Group, Scores
from worldcompass.world import Context

REST = "advantages, choice, vitals"  # time outside of all metered parts
# Part of the time between the end of a metered part and the beginning of the next one.
AFTERWARDS = {"objective": "backward, clipping", "optimiser": REST, "averages": REST}
MATRIX_SIZE = 1536  # of the square matrices that measure the machine's rate
MATRIX_SECONDS = 0.5  # duration of this measurement, before and after the steps

Clock = Literal["wall", "cpu"]
"""``wall`` is time as people wait for it; ``cpu`` is what this process computes, on all its threads."""
CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Cost:
    """The cost of one part of a step."""

    seconds: float
    """Median over the timed steps."""
    flops: int
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add is two."""


@dataclass(frozen=True)
class Profile:
    """The parts of one step, which add up to the step."""

    step: int
    chunk: int
    device: str
    threads: int
    clock: Clock
    """Of all seconds."""
    steps_timed: int
    seconds: float
    """Median duration of a whole step, without saving and logging."""
    slowest: float
    """Duration of the slowest timed step, seconds."""
    passes: float
    """Forward passes of rollout, targets and updates; a backward pass counts as two."""
    matrix_flops_per_second: float
    """The machine's rate for square matrix products in the network's dtype."""
    parts: dict[str, Cost]

    def share_of_matrix_rate(self, part: str) -> float:
        """A part's rate of operations as a share of the machine's rate for matrix products, 0 to 1."""
        cost = self.parts[part]
        return cost.flops / cost.seconds / self.matrix_flops_per_second if cost.seconds else 0.0


class Meter:
    """Divides a growing reading (seconds, operations) among parts; a nested part counts only for itself."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.spent: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.outside = REST
        self._last = read()

    def enter(self, part: str) -> None:
        """Begin a part."""
        self.record()
        self.open.append(part)

    def leave(self) -> None:
        """End the current part and return to the outer one."""
        self.record()
        self.outside = AFTERWARDS.get(self.open.pop(), self.outside)

    def record(self) -> None:
        """Add the reading since the last call to the current part."""
        now = self.read()
        self.spent[self.open[-1] if self.open else self.outside] += now - self._last
        self._last = now


class _Metered:
    """A run whose parts report their beginning and end to a meter, which can be replaced between steps."""

    def __init__(self, parts: Parts) -> None:
        self.meter = Meter(time.perf_counter)
        self.passes = 0.0
        recorded = (
            [(parts.world, "encode", "encode")] if parts.config.learning.teacher == "recordings" else []
        )
        config = parts.config.changed(
            rollout=self._wrap("rollout, rest", parts.config.sampling.rollout),
            objective=self._wrap("objective", parts.config.learning.objective),
        )
        critics = [self._critic(critic) for critic in parts.critics]
        self.run: Run = prepare(replace(parts, critics=critics, config=config))
        for owner, name, part in (
            (parts.world, "begin", "attend, remember"),
            (parts.world, "attend", "attend, remember"),
            (parts.world, "remember", "attend, remember"),
            (parts.world, "decode", "decode"),
            *recorded,
            (parts.world, "predict_clean", self._kind_of_prediction),
            (self.run.optimizer, "step", "optimiser"),
            (self.run.policy, "follow", "averages"),
        ):
            setattr(owner, name, self._wrap(part, getattr(owner, name)))

    def _wrap(self, part: str | Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)  # a rule of the configuration asks which rollout this is
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.meter.enter(part if isinstance(part, str) else part(*args))
            try:
                return call(*args, **kwargs)
            finally:
                self.meter.leave()

        return metered

    def _critic(self, critic: Critic) -> Critic:
        score, needs = self._wrap(f"reward {critic.name}", critic), needs_of(critic)
        if not isinstance(critic, Learner):
            return _MeteredCritic(critic.name, score, needs)
        return _MeteredLearner(
            critic.name, score, needs, critic, self._wrap(f"teach {critic.name}", critic.learn)
        )

    def _kind_of_prediction(self, noisy: Tensor, sigma: Tensor, actions: object, context: Context) -> str:
        if torch.is_grad_enabled():
            return "forward"
        if "rollout, rest" not in self.meter.open:
            return "targets"
        return "candidates" if len(noisy) > context.num_pasts else "past"

    def measure(self, step: int, read: Callable[[], float]) -> dict[str, float]:
        """Run a step from the initial weights; returns the reading of each part."""
        self.run.policy.start_over()
        self.run.optimizer.state.clear()
        for critic in self.run.learners:
            critic.load({})
        self.meter = Meter(read)
        taken = take_step(self.run, step)
        self.passes = (taken.forward_passes or 0.0) + (taken.update_passes or 0.0)
        self.meter.record()
        return self.meter.spent


@dataclass(frozen=True)
class _MeteredCritic:
    name: str
    score: Callable[[Group], Scores]
    needs: frozenset[Need]

    def __call__(self, group: Group) -> Scores:
        return self.score(group)


@dataclass(frozen=True)
class _MeteredLearner(_MeteredCritic):
    learner: Learner
    teach: Callable[[Tensor, tuple[int | str, ...]], Mapping[str, float]]

    def examples(self, groups: Sequence[Group], keys: tuple[int | str, ...]) -> Tensor:
        return self.learner.examples(groups, keys)

    def learn(self, examples: Tensor, keys: tuple[int | str, ...]) -> Mapping[str, float]:
        return self.teach(examples, keys)

    def state(self) -> Mapping[str, Tensor]:
        return self.learner.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.learner.load(state)


def profile(parts: Parts, step: int | None = None, repeats: int = 3, clock: Clock = "wall") -> Profile:
    """Profile one step of a run from its initial weights.

    Args:
        parts: of the run.
        step: number of the step, counted from 1, which sets the chunk; the middle of the curriculum when None.
        repeats: number of timed runs of the step, after one that counts operations and warms up.
        clock: of all seconds; ``cpu`` depends less on what else the machine does.

    Raises:
        ValueError: when configuration, scenarios and critics do not fit together.
    """
    config, device = parts.config, device_of(parts.world)
    step = step or 1 + (config.sampling.last_chunk - config.sampling.first_chunk) // 2
    metered = _Metered(parts)
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        flops = metered.measure(step, counter.get_total_flops)
    now = functools.partial(_now, device, CLOCKS[clock])
    rate = matrix_rate(device, config, now)
    runs = [metered.measure(step, now) for _ in range(repeats)]
    rate = (rate + matrix_rate(device, config, now)) / 2
    totals = [sum(run.values()) for run in runs]
    costs = {
        part: Cost(statistics.median(run[part] for run in runs), int(flops[part]))
        for part in sorted(runs[0], key=lambda part: -runs[0][part])
    }
    return Profile(
        step=step,
        chunk=stretch_of_step(config.sampling, parts.world.spec, step).chunk,
        device=str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads(),
        clock=clock,
        steps_timed=repeats,
        seconds=statistics.median(totals),
        slowest=max(totals),
        passes=metered.passes,
        matrix_flops_per_second=rate,
        parts=costs,
    )


def matrix_rate(device: torch.device, config: Config, now: Callable[[], float]) -> float:
    """Operations per second, on the clock ``now``, of square matrix products in the network's dtype."""
    dtype = torch.bfloat16 if config.optimiser.autocast_bf16 else torch.float32
    a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)  # warms up
    begun, count = now(), 0
    while (spent := now() - begun) < MATRIX_SECONDS:
        torch.mm(a, b)
        count += 1
    return count * 2 * MATRIX_SIZE**3 / spent


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    """The time in seconds after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
