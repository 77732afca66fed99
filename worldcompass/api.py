"""The package in five lines: load a world, imagine along a path, score a video, post-train.

These functions are shortcuts to other modules and are also attributes of ``worldcompass``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.media.video import check_aspect, fit, read_image
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS
from worldcompass.rewards.video_score import read_for, score_video
from worldcompass.rollout import imagine_video
from worldcompass.types import Scenario
from worldcompass.world import WorldModel, WorldSpec

MAX_PATH_LATENTS = 10_000  # limit of a path, about 40 minutes of video


def load_world(
    weights: str | Path | None = None, device: str = "cpu", name: str | None = None
) -> WorldModel[Any]:
    """An embedded world.

    Args:
        weights: folder of weights or of a finished run; those of the package when None.
        device: a device of PyTorch, such as ``cuda``.
        name: ``doom``, or ``hands``, a gripper over a table; when None the world of ``weights``, else ``doom``.

    Raises:
        UserError: when there is no such world, or the weights are missing or do not fit.
    """
    from worldcompass.runs.folder import weights_folder

    if (name := name or world_of_weights(weights) or DOOM) not in EMBEDDED:
        raise UserError(f"there is no embedded world {name!r}: choose {' or '.join(EMBEDDED)}")
    if name == HANDS:
        from worldcompass.worlds.hands.world import load_hands_world as load
    else:
        from worldcompass.worlds.doom.world import load_doom_world as load
    folder = None if weights is None else weights_folder(Path(weights), weights_file(name))
    return load(folder, device)


def world_of_weights(weights: str | Path | None) -> str | None:
    """The embedded world whose weights a folder, or the run in it, holds; None without one."""
    from worldcompass.runs.folder import RunFolder

    if weights is None:
        return None
    folders = (RunFolder(Path(weights)).weights, Path(weights))
    held = (name for name in EMBEDDED if any((folder / weights_file(name)).is_file() for folder in folders))
    return next(held, None)


def weights_file(name: str) -> str:
    """The name of the file that holds an embedded world's weights."""
    from worldcompass.worlds.doom.world import WEIGHTS as DOOM_WEIGHTS
    from worldcompass.worlds.hands.world import WEIGHTS as HANDS_WEIGHTS

    return {DOOM: DOOM_WEIGHTS, HANDS: HANDS_WEIGHTS}[name].net


def imagine(
    world: WorldModel[Any],
    image: str | Path | Tensor,
    path: str,
    seed: int = 0,
    num_steps: int | None = None,
    chunk_length: int | None = None,
) -> Tensor:
    """Imagine a video from an image along a path; uint8 (F, 3, h, w), F = 4 M + 1 for M moves.

    Args:
        world: see ``load_world``, or any adapter that starts from an image.
        image: file, or uint8 (3, h, w) with an aspect up to 4 : 1; it is cropped and resized to the world's.
        path: pose string such as ``w-3, right-1, w+left-4``: keys, and the number of latents to hold them.
        seed: of the noise.
        num_steps: denoising steps; the world's default when None.
        chunk_length: latents per chunk; the world's default when None.

    Raises:
        UserError: for a path or an image that cannot be read.
    """
    composites = parse(world.spec, path)
    picture = read_image(Path(image)) if isinstance(image, str | Path) else image
    check_aspect(picture.shape[-1], picture.shape[-2])
    start = fit(picture[None], world.spec.frame_size)[0]
    actions = world.spec.actions.commanded(composites)
    return imagine_video(world, [Scenario("imagine", actions, start)], (seed,), chunk_length, num_steps)[0]


def score(
    video: Tensor | str | Path,
    path: str,
    critics: Sequence[Critic] | None = None,
    spec: WorldSpec | None = None,
) -> dict[str, float | None]:
    """Score how well a video follows a path, by critic; None when a critic abstains.

    The video is one group with one candidate. Frames are cropped and resized to the critics' world.

    Args:
        video: uint8 frames (F, 3, h, w) or a file; the first frame is the start image. Of a file no more frames are
            read than the path needs, in the size of the critics' world.
        path: the pose string that the video should follow.
        critics: the embedded world's interaction and quality critics when None.
        spec: of the critics' world; the embedded one's when None.

    Raises:
        UserError: when path and video differ in length, or a critic cannot score them.
    """
    known = spec or _doom_spec()
    composites = parse(known, path)
    frames = video if isinstance(video, Tensor) else read_for(Path(video), composites, known)
    return score_video(frames, known.actions.commanded(composites), critics or _doom_critics(), known)


def post_train(recipe: str, out: str | Path, device: str = "cpu", resume: bool = False) -> Path:
    """Run a recipe (``doom_full``, ``my_recipe.py:name``) like ``worldcompass train`` and return its folder.

    Raises:
        UserError: for an unknown recipe, or a folder that holds another run.
    """
    from worldcompass.recipes.load import make_recipe
    from worldcompass.training.of_recipe import running

    made = make_recipe(recipe)
    with running(made):
        made.run(Path(out), device, resume)
    return Path(out)


def parse(spec: WorldSpec, path: str) -> Tensor:
    """The composites of a user's path; see ``ActionSpace.parse``.

    Raises:
        UserError: when the path is invalid or too long.
    """
    try:
        return spec.actions.parse(path, MAX_PATH_LATENTS)
    except ValueError as why:
        raise UserError(str(why)) from None


def _doom_spec() -> WorldSpec:
    from worldcompass.worlds.doom.world import SPEC

    return SPEC


def _doom_critics() -> tuple[Critic, ...]:
    from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
    from worldcompass.worlds.doom.rewards.quality import VisualQuality

    return InteractionFollowing(), VisualQuality()
