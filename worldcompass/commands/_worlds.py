"""The worlds that commands show: the embedded one, or what a function of the user's makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError

EMBEDDED = "doom"
HELP = "doom, or FILE.py:FUNCTION of yours, which gets a folder of weights (or None) and a device"


def world_maker(source: str) -> Callable[[Path | None, str], Any]:
    """What makes the ``WorldModel`` named by ``--world``, of a folder of weights, or None, and a device.

    Raises:
        UserError: when it is neither; and, from what is returned, when the user's function makes no world.
    """
    if source == EMBEDDED:
        from worldcompass.worlds.doom.world import load_doom_world

        return load_doom_world
    if not source.partition(":")[0].endswith(".py"):
        raise UserError(f"--world is {source}: expected {EMBEDDED} or FILE.py:FUNCTION")
    from worldcompass.critic import FAILURES, said
    from worldcompass.recipes.load import load_recipe
    from worldcompass.world import WorldSpec

    make: Callable[..., Any] = load_recipe(source)

    def checked(weights: Path | None, device: str) -> Any:
        try:
            world = make(weights, device)
        except FAILURES as error:
            raise UserError(
                f"{source} failed to make a world ({said(error)}): it gets a folder of weights, or None, and a"
                " device"
            ) from error
        if not isinstance(getattr(world, "spec", None), WorldSpec):
            raise UserError(
                f"{source} returned {type(world).__name__}: expected what check_world_model accepts"
            )
        return world

    return checked
