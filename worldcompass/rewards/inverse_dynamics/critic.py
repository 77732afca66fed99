"""The critic: are the controls that the frames show the ones that were commanded?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.errors import UnfitInputs, UserError
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.inverse_dynamics.file import Facts, load_reader
from worldcompass.rewards.inverse_dynamics.network import ControlReader
from worldcompass.rewards.inverse_dynamics.panel import Panel, scale_of
from worldcompass.rewards.inverse_dynamics.sight import looked_at, resized, windows
from worldcompass.types import Group, Scores
from worldcompass.world import WorldSpec

BATCH = 128  # latents of one pass
RATE = 0.02  # share by which a world's frame rate may differ from the recordings'


@dataclass(frozen=True)
class Reading:
    """What a reader says of N latents."""

    panel: Panel
    shares_NTL: Tensor
    """Probabilities of all values of all controls, one control after the other."""
    shown_N: Tensor
    """Probability that the frames show this world."""

    def of(self, axis: int) -> Tensor:
        """The distribution of one control, (N, T, L)."""
        return self.shares_NTL.split(self.panel.sizes, -1)[axis]

    def ways(self) -> Tensor:
        """What was read, (N, T, A): the likeliest level, or the mean of a control without levels."""
        found = []
        for axis, own in enumerate(self.panel.axes):
            shares, scale = self.of(axis), scale_of(own)
            found.append(shares @ scale if own.levels is None else scale[shares.argmax(-1)])
        return torch.stack(found, -1)

    def agreement(self, ways_NTA: Tensor) -> Tensor:
        """How near each control is to a command, between 0 and 1; (N, T, A)."""
        axes = range(len(self.panel.axes))
        return torch.stack([self.panel.agreement(a, self.of(a), ways_NTA[..., a]) for a in axes], -1)


@torch.no_grad()
def read(net: ControlReader, windows_NW3hw: Tensor) -> Reading:
    """What a network reads in uint8 windows of any size; on the CPU."""
    device, shares, shown = next(net.parameters()).device, list[Tensor](), list[Tensor]()
    for part in windows_NW3hw.split(BATCH):
        small = resized(part.flatten(0, 1), net.size).unflatten(0, part.shape[:2])
        logits, real = net(looked_at(small).to(device))
        each = [own.softmax(-1) for own in logits.split(net.panel.sizes, -1)]
        shares.append(torch.cat(each, -1).cpu())
        shown.append(real.sigmoid().cpu())
    return Reading(net.panel, torch.cat(shares), torch.cat(shown))


class InverseDynamics:
    """How well the frames show the commanded controls, mean over the latents' settings; between 0 and 1.

    A setting's score is the mean agreement of the controls that are commanded to move, times that of the worst one
    that is to rest, times the probability that the frames show this world at all. So a frozen picture earns nothing
    where motion is commanded, and noise or a blank picture earns nothing anywhere. Agreement is divided by what
    the engine's own frames reach in held-out recordings, and limited to 1: nothing is earned beyond the truth.

    Controls that cannot be read count nowhere.
    """

    name = "inverse_dynamics"

    def __init__(self, net: ControlReader, facts: Facts) -> None:
        self.net, self.facts = net, facts
        self.needs: tuple[Need, ...] = (facts.panel.gives,)

    @classmethod
    def load(cls, path: Path | str, spec: WorldSpec | None = None) -> Self:
        """The critic of a file made by ``worldcompass critics train``.

        Args:
            path: of the file.
            spec: of the world to score; not checked when None.

        Raises:
            UserError: when the file cannot be read.
            UnfitInputs: when it was made for other controls or another rate.
        """
        net, facts = load_reader(Path(path))
        critic = cls(net, facts)
        if spec is not None and (why := critic.misfit(spec)):
            raise UnfitInputs(f"{path} {why}")
        return critic

    def misfit(self, spec: WorldSpec) -> str:
        """Why it cannot score a world, to end a sentence; empty if it can."""
        own, panel = self.facts, Panel.of(spec.actions)
        again = "train one from recordings of this world with 'worldcompass critics train'"
        if not own.panel.same(panel):
            return f"reads {own.panel.describe()}, but {spec.name} has {panel.describe()}: {again}"
        if own.frames_per_latent != spec.frames_per_latent:
            return (
                f"reads latents of {own.frames_per_latent} frames, but those of {spec.name} have"
                f" {spec.frames_per_latent}: {again}"
            )
        if abs(own.fps / spec.fps - 1) > RATE:
            return f"reads {own.fps:g} frames per second, but {spec.name} shows {spec.fps:g}: {again}"
        return ""

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when no latent moves (only a start image).

        Raises:
            ValueError: when the latents have another number of frames, or other controls.
        """
        if group.frames_per_latent != self.facts.frames_per_latent:
            raise ValueError(
                f"expected latents of {self.facts.frames_per_latent} frames, as in the recordings that this critic"
                f" learned from, got {group.frames_per_latent}"
            )
        frames, actions = group.transitions()
        if len(actions) == 0 or not any(self.facts.counted):
            return abstain(group)
        if group.truth is not None:  # what happened there: fingers that close on a thing stop
            happened = group.truth.actions
            actions = happened.latents(len(happened) - len(actions), len(happened))
        wanted_KTA = self.facts.panel.ways(actions).cpu()
        seen = windows(frames, group.frames_per_latent)
        reading = read(self.net, seen.flatten(0, 1))
        scores_NT = self.scored(reading, wanted_KTA.repeat(len(frames), 1, 1))
        scores_GKT = scores_NT.unflatten(0, seen.shape[:2]).float()
        values_G = scores_GKT.mean((1, 2))
        return Scores(values_G, torch.ones(len(values_G), dtype=torch.bool), scores_GKT.mean(2))

    def scored(self, reading: Reading, wanted_NTA: Tensor) -> Tensor:
        """Scores of settings for commands, (N, T)."""
        facts = self.facts
        moves = facts.panel.signs(wanted_NTA) != 0
        moving, resting = (
            torch.tensor([getattr(r, name) for r in facts.reads]) for name in ("moving", "resting")
        )
        agreed = (reading.agreement(wanted_NTA) / torch.where(moves, moving, resting)).clamp_max(1)
        counted = torch.tensor(facts.counted)
        asked, rests = moves & counted, ~moves & counted
        moved = torch.where(asked, agreed, 0).sum(-1) / asked.sum(-1)
        moved = torch.where(asked.any(-1), moved, 1)
        rested = torch.where(rests, agreed, 1).amin(-1)
        return moved * rested * (reading.shown_N / facts.shown).clamp_max(1)[:, None]


def inverse_dynamics(path: str | Path, spec: WorldSpec | None = None) -> InverseDynamics:
    """The critic of a file made by ``worldcompass critics train``, see ``InverseDynamics.load``."""
    return InverseDynamics.load(path, spec)


def of_recipe(path: str, spec: WorldSpec) -> InverseDynamics:
    """The critic of a recipe's setting ``inverse_dynamics``.

    Raises:
        UserError: when the setting is empty, or the file cannot be read or does not fit the world.
    """
    if not path:
        raise UserError(
            "inverse_dynamics names no file: set it to one made by 'worldcompass critics train', or its weight to 0"
        )
    return InverseDynamics.load(Path(path).expanduser(), spec)
