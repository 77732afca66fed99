"""The worlds of ``--world``: the embedded one, or the world that a function of the user returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError

EMBEDDED = "doom"
HELP = "doom, or your own FILE.py:FUNCTION, called with a folder of weights (or None) and a device"


def world_maker(source: str) -> Callable[[Path | None, str], Any]:
    """The function that makes the ``WorldModel`` of ``--world`` from a folder of weights, or None, and a device.

    Raises:
        UserError: for another name; the returned function raises it when the user's function returns no world.
    """
    if source == EMBEDDED:
        from worldcompass.worlds.doom.world import load_doom_world

        return load_doom_world
    if not source.partition(":")[0].endswith(".py"):
        raise UserError(f"--world is {source}: expected {EMBEDDED} or FILE.py:FUNCTION")
    from worldcompass.critic import FAILURES, error_line
    from worldcompass.recipes.load import load_recipe
    from worldcompass.world import WorldSpec

    make: Callable[..., Any] = load_recipe(source)

    def checked(weights: Path | None, device: str) -> Any:
        try:
            world = make(weights, device)
        except FAILURES as error:
            raise UserError(
                f"{source} failed to make a world ({error_line(error)}): it must accept a folder of weights, or"
                " None, and a device"
            ) from error
        if not isinstance(getattr(world, "spec", None), WorldSpec):
            raise UserError(
                f"{source} returned {type(world).__name__}: expected a world that check_world_model accepts"
            )
        return world

    return checked
