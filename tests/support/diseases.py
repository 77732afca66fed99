"""Diseases planted for real: toy runs whose configuration, critics or world are broken in one way each.

``STRENGTHS[disease]`` lists how strong it is planted. The doctor's limits were set on seeds 0 to 2 with the first
strength and some others; those after the first and ``MILD`` ones are for tests and ``benchmarks/doctor.py`` alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from toy_runs import QUICK
from toy_truth import ideal_engine, with_truth

from worldcompass.doctor import Diagnosis, diagnose, read_record
from worldcompass.errors import StoppedRun
from worldcompass.rewards.retry import FailedTry, Tries, score_with_retries
from worldcompass.rewards.truth_paired import TwoSided
from worldcompass.toy import ToyCleanliness, ToyNet, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import NonFiniteUpdate, adamw
from worldcompass.training.policy import Decay
from worldcompass.training.probe import HeldOut
from worldcompass.types import Group, Scores

HEALTHY = QUICK.changed(steps=40)
STILL_SPREAD = 0.1  # of the toy's latents, so that what moves in its pictures is what the weights do


@dataclasses.dataclass(frozen=True)
class Patient:
    """A toy run about to be made."""

    config: Config = HEALTHY
    critics: Sequence[Any] = (ToyObedience(), ToyCleanliness())
    world: Callable[[], ToyWorld] = ToyWorld
    held_out: HeldOut | None = None
    spread: float = 0.5
    known: bool = False
    """Whether the scenarios have an engine's continuation, the imagination of an ideal toy."""

    def changed(self, **config: Any) -> Patient:
        return dataclasses.replace(self, config=self.config.changed(**config))


class Scored:
    """A critic made of a formula over a group."""

    def __init__(self, name: str, formula: Callable[[Group], torch.Tensor]) -> None:
        self.name, self.formula = name, formula

    def __call__(self, group: Group) -> Scores:
        values = self.formula(group).float()
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


class Abstaining:
    """Gives the scores of another critic for a share of the candidates."""

    def __init__(self, critic: Any, share: float) -> None:
        self.name, self.critic, self.share = critic.name, critic, share

    def __call__(self, group: Group) -> Scores:
        values = self.critic(group).values_G
        ranks = group.frames_GF3hw.float().mean((1, 2, 3, 4)).argsort().argsort()
        return Scores(values, ranks < self.share * len(values))


class Slow:
    """Takes its time."""

    def __init__(self, critic: Any, seconds: float) -> None:
        self.name, self.critic, self.seconds = critic.name, critic, seconds

    def __call__(self, group: Group) -> Scores:
        time.sleep(self.seconds)
        return self.critic(group)


class Unsteady(ToyCleanliness):
    """As if in another process: its first tries fail, on average so many of each group."""

    at_once = 1

    def __init__(self, failures: float) -> None:
        self.failures, self.groups, self.left = failures, 0, 0
        self._tries = Tries(4, lambda _: None)

    @property
    def tries(self) -> tuple[int, int]:
        return self._tries.made, self._tries.failed

    def __call__(self, group: Group) -> Scores:
        self.groups += 1
        self.left = int(self.groups * self.failures) - int((self.groups - 1) * self.failures)

        def attempt() -> Scores:
            if self.left:
                self.left -= 1
                raise FailedTry("no connection")
            return super(Unsteady, self).__call__(group)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return score_with_retries("the critic", attempt, self._tries)


class Failing:
    """Returns a NaN from a step on, and says it is valid."""

    name = "obedience"

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, group: Group) -> Scores:
        self.calls -= 1
        scores = ToyObedience()(group)
        return scores if self.calls >= 0 else Scores(scores.values_G * torch.nan, scores.valid_G)


class UnboundWorld(ToyWorld):
    """Its network has layers that no prediction uses."""

    def __init__(self) -> None:
        super().__init__()
        self.net.ghosts = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))


class NarrowingNet(ToyNet):
    """How far its futures spread is learned too."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.log_spread = nn.Parameter(torch.zeros(1, 1))


class NarrowingWorld(ToyWorld):
    """A world that can learn to imagine always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = NarrowingNet()

    def predict_clean(self, noisy_BCKHW, sigma_B, actions, context):
        spread = (4 * self.net.log_spread).exp().clamp(1e-3, 1.0)
        with patch("worldcompass.toy.SPREAD", 0.5 * spread):
            return super().predict_clean(noisy_BCKHW, sigma_B, actions, context)


class BreakingWorld(ToyWorld):
    """Predicts NaN in the update after some calls with gradient."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def predict_clean(self, *args):
        clean = super().predict_clean(*args)
        if not torch.is_grad_enabled():
            return clean
        self.calls -= 1
        return clean if self.calls >= 0 else clean * torch.nan


def flipped(pred, behaviour, target, advantage_B, beta, given_K):
    return nft_loss(pred, behaviour, target, -advantage_B, beta, given_K)


def coarse(critic: Any, step: float) -> Scored:
    return Scored(critic.name, lambda group: (critic(group).values_G / step).round() * step)


def opposed(strength: float) -> Scored:
    """Obedience turned round, with a little of something else."""
    return Scored(
        "defiance",
        lambda group: -strength * ToyObedience()(group).values_G + ToyCleanliness()(group).values_G,
    )


def stillness(group: Group) -> torch.Tensor:
    return -group.transitions()[0].float().diff(dim=1).abs().mean((1, 2, 3, 4))


def brightness(group: Group) -> torch.Tensor:
    return group.frames_GF3hw.float().mean((1, 2, 3, 4))


def saturation(group: Group) -> torch.Tensor:
    frames = group.frames_GF3hw.float()
    return (frames.amax(2) - frames.amin(2)).mean((1, 2, 3))


def contrast(group: Group) -> torch.Tensor:
    frames = group.frames_GF3hw.float().mean(2)
    return frames.diff(dim=-1).abs().mean((1, 2, 3)) + frames.diff(dim=-2).abs().mean((1, 2, 3))


def grain(group: Group) -> torch.Tensor:
    return -ToyCleanliness()(group).values_G


def clean_judge(videos, scenarios) -> torch.Tensor:
    groups = [Group(v[None], v[:0], v[0], s.actions, 2) for v, s in zip(videos, scenarios, strict=True)]
    return torch.cat([ToyCleanliness()(group).values_G for group in groups])


def held_out() -> HeldOut:
    return HeldOut(clean_judge, toy_scenarios(8, seed=77))


def greyness(group: Group) -> torch.Tensor:
    return -(group.frames_GF3hw.float() - 128).abs().mean((1, 2, 3, 4))


def unbound(share: float) -> str:
    """Targets of adapters, of which a share (1/3, 1/2, 3/4 or 1) are bound to layers that no prediction uses."""
    return r"ghosts\.\d" if share == 1 else rf"ghosts\.[0-{round(2 * share / (1 - share)) - 1}]|inner|outer"


def only(name: str, formula: Callable[[Group], torch.Tensor], beta: float, **patient: Any) -> Patient:
    """One exploitable critic instead of the two honest ones, and updates that go far: ``beta`` small."""
    return Patient(critics=[Scored(name, formula)], **patient).changed(
        steps=100, lr=0.01, make_optimizer=adamw, beta=beta, advantage_clip=0.5
    )


def vivid(beta: float) -> Patient:
    """Local contrast pays, while a critic of weight 0 makes the truth known."""
    patient = only("contrast", contrast, beta, known=True)
    return dataclasses.replace(patient, critics=[*patient.critics, TwoSided()]).changed(
        weights={"steadiness": 0.0}
    )


PLANTS: dict[str, Callable[[float], Patient]] = {
    "no spread": lambda step: Patient(critics=[coarse(ToyObedience(), step), coarse(ToyCleanliness(), step)]),
    "advantages clipped": lambda clip: Patient().changed(advantage_clip=clip),
    "update too small": lambda lr: Patient().changed(lr=lr),
    "update too large": lambda lr: Patient().changed(lr=lr),
    "no gradient": lambda share: Patient(world=UnboundWorld).changed(
        lora=Lora(rank=2, targets=unbound(share))
    ),
    "rewards pull apart": lambda strength: Patient(critics=[ToyObedience(), opposed(strength)]),
    "reward hacking": lambda beta: only("vividness", grain, beta, held_out=held_out()).changed(probe_every=5),
    "motion dying": lambda beta: only("calm", stillness, beta, spread=STILL_SPREAD),
    "exposure running away": lambda beta: only("light", brightness, beta),
    "saturation running away": lambda beta: only("colour", saturation, beta),
    "sharpness running away": lambda beta: only("contrast", contrast, beta),
    "looks spoil": lambda beta: vivid(beta),
    "diversity collapse": lambda beta: only("grey", greyness, beta, world=NarrowingWorld),
    "behaviour too far": lambda decay: Patient().changed(behaviour_decay=Decay(decay, decay, 0.0)),
    "critic abstains": lambda share: Patient(critics=[ToyObedience(), Abstaining(ToyCleanliness(), share)]),
    "critic fails": lambda failures: Patient(critics=[ToyObedience(), Unsteady(failures)]).changed(steps=12),
    "not finite": lambda step: Patient(world=lambda: BreakingWorld(round(2 * step))),
    "slow critic": lambda seconds: Patient(critics=[ToyObedience(), Slow(ToyCleanliness(), seconds)]).changed(
        steps=12
    ),
    "getting worse": lambda lr: Patient().changed(objective=flipped, lr=lr),
}
STRENGTHS: dict[str, tuple[float, ...]] = {
    "no spread": (1.0, 1.5, 3.0),
    "advantages clipped": (0.05, 0.03, 0.08),
    "update too small": (1e-5, 3e-6, 2e-5),
    "update too large": (1.0, 0.5, 2.0),
    "no gradient": (0.75, 1.0, 0.5),
    "rewards pull apart": (2.0, 1.5, 3.0),
    "reward hacking": (1.0, 0.5, 0.2),
    "motion dying": (0.2, 0.12, 0.16),
    "exposure running away": (0.3, 0.15, 0.5),
    "saturation running away": (0.3, 0.15, 0.5),
    "sharpness running away": (0.3, 0.15, 0.5),
    "looks spoil": (0.3, 0.15, 0.5),
    "diversity collapse": (0.3, 0.15, 0.25),
    "behaviour too far": (1.0, 0.98, 0.985),
    "critic abstains": (0.1, 0.0, 0.16),
    "critic fails": (1.0, 0.75, 2.0),
    "not finite": (5, 3, 8),
    "slow critic": (0.03, 0.04),
    "getting worse": (0.03, 0.025, 0.05),
}
MILD: dict[str, float] = {  # chosen before any of them was run: where does the doctor's sight end?
    "no spread": 0.5,
    "advantages clipped": 0.2,
    "update too small": 1e-4,
    "update too large": 0.2,
    "no gradient": 1 / 3,
    "rewards pull apart": 1.0,
    "reward hacking": 2.0,
    "motion dying": 0.3,
    "exposure running away": 1.0,
    "saturation running away": 1.0,
    "sharpness running away": 1.0,
    "looks spoil": 1.0,
    "diversity collapse": 0.5,
    "behaviour too far": 0.95,
    "critic abstains": 0.3,
    "critic fails": 0.25,
    "slow critic": 0.01,
    "getting worse": 0.01,
}
HEALTHY_RUNS: dict[str, Patient] = {
    "plain": Patient(),
    "longer": Patient().changed(steps=120),
    "judged": Patient(held_out=held_out()).changed(probe_every=5),
    "against truth": Patient(critics=(ToyObedience(), ToyCleanliness(), TwoSided()), known=True).changed(
        weights={"steadiness": 0.0}
    ),
    "adapters": Patient().changed(lora=Lora(rank=4, alpha=8)),
    "little noise": Patient(spread=STILL_SPREAD).changed(lr=0.003, steps=80),
}


def run(patient: Patient, seed: int, out: Path, **config: Any) -> None:
    """Make the run; a refused update or a stop by the doctor ends it early."""
    patient = patient.changed(seed=seed, **config)
    ends_early = contextlib.suppress(NonFiniteUpdate, StoppedRun)
    scenarios = toy_scenarios(16, seed=seed)
    if patient.known:
        scenarios = with_truth(ideal_engine(), scenarios)
    with patch("worldcompass.toy.SPREAD", patient.spread), ends_early:
        train(
            patient.world(), patient.critics, scenarios, patient.config, out,
            live=False, held_out=patient.held_out,
        )  # fmt: skip


def course(out: Path) -> list[Diagnosis]:
    """What the doctor said after each step of a finished run."""
    record = read_record(out)
    rows = [
        dataclasses.replace(record, rows=record.rows[:n], events=()) for n in range(1, len(record.rows) + 1)
    ]
    return [diagnose(part) for part in [*rows, record]]
