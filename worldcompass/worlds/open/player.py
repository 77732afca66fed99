"""Open checkpoints in the player: walks start from prepared images, whose states the encoders have made before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.player.starts import Start
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.open.evaluation import blank_world, use_weights
from worldcompass.worlds.open.recipe import OpenRecipe, OpenWorld

GROUP = "Prepared images"


class PreparedWorld:
    """A world whose scenarios need only the name of a prepared image; otherwise that of ``OpenWorld``."""

    def __init__(
        self,
        world: OpenWorld,
        conditioning: Mapping[str, Mapping[str, Tensor]],
        first_latent: Callable[[Mapping[str, Tensor]], Tensor | None],
    ) -> None:
        self.world, self.conditioning, self.first_latent = world, conditioning, first_latent
        self.spec, self.net = world.spec, world.net
        self.attend, self.remember, self.decode = world.attend, world.remember, world.decode

    def begin(self, scenarios: Sequence[Scenario]) -> Any:
        """See ``WorldModel``.

        Raises:
            UserError: for a picture that was not prepared.
        """
        unknown = [scenario.id for scenario in scenarios if scenario.id not in self.conditioning]
        if unknown:
            raise UserError(
                f"{self.spec.name} starts from prepared images only: add the picture with worldcompass prepare"
            )
        return self.world.begin([replace(s, conditioning=self.conditioning[s.id]) for s in scenarios])

    @torch.no_grad()
    def predict_clean(self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: Any) -> Tensor:
        """See ``WorldModel``."""
        return self.world.predict_clean(noisy_BCKHW, sigma_B, actions, context)


def prepared_world(recipe: OpenRecipe, weights: Path | None, device: str) -> PreparedWorld:
    """The recipe's world for play, with its own weights or those of a run, a folder or a file.

    Raises:
        UserError: when a file is missing or does not fit.
    """
    world = blank_world(recipe, device)
    use_weights(world.net, weights, recipe, device)
    found = recipe.scenarios_along(recipe.chunk, recipe.config.seed)
    conditioning = {scenario.id: scenario.conditioning or {} for scenario in found}
    return PreparedWorld(world, conditioning, recipe.first_latent)


@torch.no_grad()
def prepared_starts(world: PreparedWorld, most: int = 12) -> tuple[Start, ...]:
    """The first prepared images, as the autoencoder shows them."""
    return tuple(_start(world, name) for name in list(world.conditioning)[:most])


def _start(world: PreparedWorld, name: str) -> Start:
    spec, latent = world.spec, world.first_latent(world.conditioning[name])
    if latent is None:  # it starts from words alone
        return Start(name, name, GROUP, torch.zeros(3, *spec.frame_size, dtype=torch.uint8))
    latent = latent.float().to(next(world.net.parameters()).device)
    picture: Any = world.decode(latent[None, :, None], world.begin([_still(world, name)]))[0, 0].cpu()
    return Start(name, name, GROUP, picture)


def _still(world: PreparedWorld, name: str) -> Scenario:
    return Scenario(name, world.spec.actions.commanded(torch.zeros(1, dtype=torch.long)))
