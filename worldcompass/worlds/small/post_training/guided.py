"""Guidance while sampling, at twice the cost: a rival of post-training that needs no training."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.guidance import Guidance, guided
from worldcompass.rollout import given_whole
from worldcompass.types import Actions
from worldcompass.world import Guidable

W = TypeVar("W")


def with_guidance(world: W, weight: float) -> W:
    """The same world, every estimate guided by the weight: two passes through the network for each.

    Raises:
        UserError: for a negative weight, or a world without guidance.
    """
    if weight < 0:
        raise UserError(f"evaluation_guidance is {weight}: set 0 or more")
    if not weight:
        return world
    if not isinstance(world, Guidable):
        raise UserError("evaluation_guidance needs a world with guidance: set it to 0")
    plain: Any = world
    copied: Any = copy.copy(world)

    def predict_clean(noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: Any) -> Tensor:
        clean = plain.predict_clean(noisy_BCKHW, sigma_B, actions, context)
        if given_whole(context):
            return clean
        weak = plain.predict_clean(noisy_BCKHW, sigma_B, actions, plain.weaken(context))
        found = guided(clean, weak, Guidance(clean.new_full((len(clean),), weight)))
        return found if context.given_K is None else torch.where(context.given_K[:, None, None], clean, found)

    copied.predict_clean = predict_clean
    return copied
