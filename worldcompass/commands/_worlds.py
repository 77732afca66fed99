"""The worlds of ``--world``: an embedded one, or the world that a function of the user returns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS, OPEN

if TYPE_CHECKING:
    from torch import Tensor

HELP = (
    "doom, hands, your own FILE.py:FUNCTION, called with a folder of weights (or None) and a device, or in play"
    " and judge a recipe of an open checkpoint, such as worldplay_8b"
)


def add_world(
    parser: argparse.ArgumentParser, text: str = HELP, choices: Sequence[str] | None = None
) -> None:
    """``--world``; read it with ``world_of``."""
    text += " (default: the world of the run, without a run doom)"
    parser.add_argument("--world", choices=choices, default=None, metavar="WORLD", help=text)


def world_of(named: str | None, runs: Iterable[Path | None]) -> str:
    """The name of ``--world``; without one the embedded world whose weights the first run holds, else Doom."""
    from worldcompass.api import world_of_weights

    return named or next((found for run in runs if (found := world_of_weights(run))), DOOM)


def is_open(source: str) -> bool:
    """Whether ``--world`` names a recipe of an open checkpoint, such as ``worldplay_8b:lora``."""
    return source.partition(":")[0] in OPEN


def open_recipe(source: str, assignments: Sequence[str] = ()) -> Any:
    """The recipe of an open checkpoint of this name, with changed settings.

    Raises:
        UserError: for another recipe or setting.
    """
    from worldcompass.recipes.load import make_recipe
    from worldcompass.recipes.overrides import override
    from worldcompass.worlds.open.recipe import OpenRecipe

    recipe = override(make_recipe(source), list(assignments))
    if not isinstance(recipe, OpenRecipe):
        raise UserError(
            f"{source} is no recipe of an open checkpoint: expected one such as worldplay_8b:lora"
        )
    return recipe


def check_world(source: str) -> None:
    """Refuse a name of ``--world`` that means nothing.

    Raises:
        UserError: lists what is expected.
    """
    from worldcompass.recipes.load import parts_of

    if source not in EMBEDDED and not is_open(source) and not parts_of(source)[0].endswith(".py"):
        raise UserError(
            f"there is no world {source!r}: expected {', '.join(EMBEDDED)}, FILE.py:FUNCTION, or a recipe of an"
            f" open checkpoint, of {', '.join(OPEN)}"
        )


def world_maker(source: str, assignments: Sequence[str] = ()) -> Callable[[Path | None, str], Any]:
    """The function that makes the ``WorldModel`` of ``--world`` from a folder of weights, or None, and a device.

    Raises:
        UserError: for another name; the returned function raises it when the user's function returns no world.
    """
    if source in EMBEDDED:
        from worldcompass.api import load_world

        return partial(load_world, name=source)
    if is_open(source):
        from worldcompass.worlds.open.player import prepared_world

        recipe = open_recipe(source, assignments)
        recipe.check_world()
        return partial(prepared_world, recipe)
    from worldcompass.critic import FAILURES, error_line
    from worldcompass.recipes.load import load_recipe

    check_world(source)
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


def start_picture(source: str) -> Tensor:
    """The picture that a world starts from when its user names none; uint8 (3, h, w).

    Raises:
        UserError: for a world that has none.
    """
    if source != HANDS:
        raise UserError(
            f"--world {source} has no picture of its own: name one to start from with --image FILE"
        )
    from worldcompass.worlds.hands.starts import scene_starts

    return scene_starts()[0].image_3hw


def check_picture(file: Path, image_3hw: Tensor) -> None:
    """Refuse a picture that the Hands world cannot start from.

    Raises:
        UserError: names the file.
    """
    from worldcompass.media.video import check_aspect, fit
    from worldcompass.worlds.hands.facts import FRAME_SIZE
    from worldcompass.worlds.hands.recognise import check_scene

    check_aspect(image_3hw.shape[-1], image_3hw.shape[-2])
    try:
        check_scene(fit(image_3hw[None], FRAME_SIZE)[0])
    except UserError as why:
        raise UserError(f"{file}: {why}") from why
