"""The judge's real side from recordings: one half is judged, the other half shows how far real videos differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.errors import UserError
from worldcompass.judging.court import Court, Role, Scenes
from worldcompass.judging.filming import AFTER
from worldcompass.judging.sources import LEAST_SCENARIOS
from worldcompass.recordings import ReadActions, Recording, actions_in, read_recordings
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.requirements import digest_of
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel, WorldSpec

JUDGED_WIDTH = 208  # pixels: larger pictures are averaged down by a whole factor
BLOCK = 32  # frames at once


def smaller(frames: Tensor) -> Tensor:
    """Frames (..., 3, h, w), averaged down to at most ``JUDGED_WIDTH``; uint8.

    The judge's networks see patches of some 20 pixels, which should show more than texture.
    """
    height, width = frames.shape[-2:]
    factor = -(-width // JUDGED_WIDTH)
    if factor == 1:
        return frames
    size = (height // factor, width // factor)
    parts = [
        interpolate(block.float(), size, mode="area").round().byte()
        for block in frames.flatten(0, -4).split(BLOCK)
    ]
    return torch.cat(parts).view(*frames.shape[:-2], *size)


def recorded_scenes(
    folder: Path,
    spec: WorldSpec,
    num_latents: int,
    read: ReadActions = actions_in,
    begin: Callable[[Recording, Scenario], Scenario] = lambda recording, scenario: scenario,
) -> Callable[[Role, int], Scenes]:
    """The scenarios of a judge from a folder of recordings, see ``read_recordings``.

    By the order of names every second recording is judged, and the one after it belongs to the floor. All show one
    region, and each is a start of its own.

    Args:
        folder: of the recordings.
        spec: of the world.
        num_latents: of each.
        read: reads the actions.
        begin: adds to a judged scenario what its world starts from.

    Raises:
        UserError: for a length that a judge cannot use; the function raises it for too few recordings.
    """
    chunk = spec.ways[ROLLOUT].chunk_length
    least = (AFTER + 1) * chunk
    if num_latents < least or num_latents % chunk:
        raise UserError(
            f"--latents is {num_latents}: expected a multiple of {chunk}, {least} or more, as a judge looks at a"
            f" chunk after {AFTER} others"
        )

    def scenes(role: Role, count: int) -> Scenes:
        found = read_recordings(folder, spec, num_latents, read)
        if role == "twin" or not LEAST_SCENARIOS <= count <= len(found) // 2:
            raise UserError(
                f"a judge of {count} scenarios needs {2 * max(count, LEAST_SCENARIOS)} recordings, half of them to"
                f" show how far real videos differ; {folder} holds {len(found)}: record more, or change --scenarios"
            )
        judged, others = found[: 2 * count : 2], found[1 : 2 * count : 2]
        return Scenes(
            [begin(recording, recording.scenario(spec)) for recording in judged],
            [recording.name for recording in judged],
            ["recordings"] * count,
            [recording.scenario(spec, smaller) for recording in others],
        )

    return scenes


REMEDY = "use the same recordings"


def own_court(
    make: Callable[[Path | None, str], WorldModel[Any]],
    base: str,
    folder: Path,
    num_latents: int,
    device: str,
) -> Court:
    """The court of a user's own world.

    Args:
        make: the world with a folder of weights, or the base for None, on a device.
        base: says which weights are the base.
        folder: of recordings.
        num_latents: of every video.
        device: of the world.

    Raises:
        UserError: when the world cannot be made, or the length does not fit.
    """
    spec = make(None, device).spec

    def weights(run: Path) -> Path:
        return RunFolder(run).weights if RunFolder(run).weights.is_dir() else run

    def identify(run: Path | None) -> str:
        if run is None:
            return base
        files = sorted(weights(run).glob("*.safetensors"))
        if not files:
            raise UserError(
                f"{run} holds no trained weights: expected a finished run, or a folder of weights"
            )
        return " ".join(map(digest_of, files))

    return Court(
        spec,
        lambda run, device: make(None if run is None else weights(run), device),
        identify,
        recorded_scenes(folder, spec, num_latents),
        REMEDY,
        shown=smaller,
        settings={"recordings": str(folder), "latents": num_latents},
    )
