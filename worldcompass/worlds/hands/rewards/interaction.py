"""The interaction reward: whether the gripper moves as commanded, read from pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.rewards.abstain import abstain
from worldcompass.types import Group, Scores
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT, NOMINAL
from worldcompass.worlds.hands.rewards.looking import need_latents, reader_or_shipped, shows_gripper

if TYPE_CHECKING:
    from worldcompass.worlds.hands.critics.reader import SceneReader

TOLERANCE = 0.4  # steps by which a motion may miss: the deviation of the kernel


class GripperFollowing:
    """How near each latent's motion is to the command, mean of the plane's and of height and grip; 0 to 1.

    An axis scores ``exp(-e^2 / 2 t^2)`` for a motion that misses by e steps, averaged over what the reader is
    unsure of. Latents that begin or end with a picture without a gripper score 0. Where the engine's continuation
    is known, its motion counts as the command: fingers that close on a thing stop there.
    """

    name = "interaction"
    needs: tuple[Need, ...] = ("controls",)

    def __init__(self, reader: SceneReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        self.reader = reader_or_shipped(reader)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstain when no latent moves (only a start image).

        Raises:
            ValueError: when latents do not have 4 frames, or frames are not 64 x 64.
        """
        need_latents(group)
        frames, actions = group.transitions()
        moving = len(actions)
        if moving == 0:
            return abstain(group)
        wanted = actions if group.truth is None else group.truth.actions
        wanted_K4 = wanted.controls.flat_KA[-moving:].cpu()
        seen = self.reader.read_videos(frames[:, ::FRAMES_PER_LATENT].cpu())
        steps = torch.tensor(NOMINAL).float()
        missed_GK4 = seen.grip_N4.diff(dim=1) / steps - wanted_K4
        unsure_GK4 = (seen.spread_N4[:, 1:].square() + seen.spread_N4[:, :-1].square()) / steps.square()
        hit_GK4 = kernel(missed_GK4, unsure_GK4)
        shown = shows_gripper(seen)
        hit_GK = (hit_GK4[..., :2].prod(-1) + hit_GK4[..., 2:].prod(-1)) / 2
        each_GK = (hit_GK * (shown[:, 1:] & shown[:, :-1])).float()
        return Scores(each_GK.mean(1), torch.ones(len(each_GK), dtype=torch.bool), each_GK)


def kernel(missed: Tensor, variance: Tensor) -> Tensor:
    """The expectation of ``exp(-e^2 / 2 t^2)`` over errors e around ``missed`` with this variance, in steps."""
    wide = TOLERANCE**2 + variance
    return TOLERANCE / wide.sqrt() * (-missed.square() / (2 * wide)).exp()
