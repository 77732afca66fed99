"""A user's recordings of the real thing: a folder of videos, each with its actions in a JSON file next to it.

``lake.mp4`` has its actions in ``lake.json``: ``{"path": "w-3, w+left-4"}`` in the world's own words, the values
of its controls, ``{"controls": {"x": [0.5, 1, 0], "jump": [0, 1, 1]}}``, or another form that the world reads. The
video shows the start's frames, and then those of a latent for every action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.controls import Controls
from worldcompass.errors import UserError
from worldcompass.media.video import VIDEOS, frame_rate, read_video
from worldcompass.runs.reading import read_json, reason
from worldcompass.runs.requirements import visible
from worldcompass.types import Actions, ControlValues, Scenario, Truth
from worldcompass.world import WorldSpec

RATE = 0.02  # share by which a video's frame rate may differ from the world's

ReadActions = Callable[[Path, ActionSpace], Actions]
"""(JSON file, action space) -> the actions of a recording, latent 0 being the start."""


@dataclass(frozen=True)
class Recording:
    """A video with its actions."""

    video: Path
    actions: Actions

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.video.stem

    def scenario(
        self, spec: WorldSpec, shown: Callable[[Tensor], Tensor] = lambda frames: frames
    ) -> Scenario:
        """The recording as a scenario with its continuation, held in memory.

        Args:
            spec: of the world; frames are cropped and resized to its size.
            shown: applied to the frames of the continuation.

        Raises:
            UserError: when the video cannot be read or is shorter than its actions.
        """
        needed = spec.num_frames(0, len(self.actions))
        frames = read_video(self.video, max_frames=needed, size=spec.frame_size)
        if len(frames) < needed:
            raise UserError(
                f"{self.video} has {len(frames)} frames, {len(self.actions)} latents need {needed}: use a longer"
                " recording, or ask for fewer latents"
            )
        truth = Truth(shown(frames), self.actions)
        return Scenario(self.name, self.actions, image_3hw=frames[0], truth=truth)


def actions_in(file: Path, space: ActionSpace) -> Actions:
    """The actions of a file that holds a path or the values of controls.

    A path is ``{"path": "w-3, w+left-4"}``. Values are ``{"controls": {"x": [0.5, 1, 0], "jump": [0, 1, 1]}}``: of
    every control as many numbers as the latents after the start have settings, in the order of time.

    Raises:
        UserError: when it cannot be read.
    """
    raw = json_in(file)
    if isinstance(space, Controls) and isinstance(raw, dict) and isinstance(raw.get("controls"), dict):
        return _values_in(file, raw["controls"], space)
    return path_in(file, space)


def _values_in(file: Path, values: Mapping[str, object], space: Controls) -> ControlValues:
    if values.keys() != set(space.axes):
        raise UserError(
            f"{file} has the controls {', '.join(values) or 'none'}: expected {', '.join(space.axes)}"
        )
    try:
        columns = torch.tensor([values[name] for name in space.axes], dtype=torch.float32)
    except (TypeError, ValueError) as why:
        raise UserError(f"{file} has controls that are not lists of numbers of one length ({why})") from why
    latents, rest = divmod(columns.shape[-1], space.per_latent) if columns.ndim == 2 else (0, 1)
    if rest or not latents:
        raise UserError(
            f"{file} has controls of the shape {tuple(columns.shape[1:])}: expected a list for each, of a multiple"
            f" of {space.per_latent} numbers"
        )
    start = torch.zeros(1, space.per_latent, len(space.axes))
    actions = ControlValues(torch.cat([start, columns.T.reshape(latents, space.per_latent, -1)]))
    try:
        space.check(actions)
    except ValueError as why:
        raise UserError(f"{file}: {why}") from why
    return actions


def path_in(file: Path, space: ActionSpace) -> Actions:
    """The actions of a file that holds ``{"path": "w-3, w+left-4"}``.

    Raises:
        UserError: when it cannot be read.
    """
    raw = json_in(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("path"), str):
        raise UserError(f'{file} has no path: expected {{"path": "{", ".join(space.examples)}"}}')
    try:
        return space.along(raw["path"])
    except ValueError as why:
        raise UserError(f"{file}: {why}") from why


def json_in(file: Path) -> object:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return read_json(file)
    except (OSError, ValueError) as why:
        raise UserError(
            f"{file} is not readable JSON ({reason(why)}): expected the actions of a recording"
        ) from why


def read_recordings(
    folder: Path, spec: WorldSpec, num_latents: int | None, read: ReadActions = actions_in
) -> list[Recording]:
    """The recordings of a folder in the order of their names, each cut to ``num_latents``, or whole for None.

    Args:
        folder: of videos and JSON files.
        spec: of the world.
        num_latents: of each, including the start image's.
        read: reads a JSON file.

    Raises:
        UserError: see ``videos_in``; or when actions are missing, unreadable or too few, or a video has another
            frame rate than the world.
    """
    return [_recording(video, spec, num_latents, read) for video in videos_in(folder)]


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder by name.

    Raises:
        UserError: when there are none, or two share a name.
    """
    videos = [path for path in visible(folder, "*") if path.suffix.lower() in VIDEOS]
    if not videos:
        raise UserError(
            f"{folder} holds no recordings: expected {', '.join(VIDEOS)} files, each with a .json"
        )
    names = [video.stem for video in videos]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{folder} holds two videos named {repeated}: rename one")
    return videos


def _recording(video: Path, spec: WorldSpec, num_latents: int | None, read: ReadActions) -> Recording:
    file = video.with_suffix(".json")
    if not file.is_file():
        raise UserError(f"{video} has no actions: expected them in {file}")
    actions = read(file, spec.actions)
    if num_latents is not None and len(actions) < num_latents:
        raise UserError(
            f"{file} holds {len(actions)} latents, {num_latents} are needed: use a longer recording, or ask for"
            " fewer latents"
        )
    rate = frame_rate(video)
    if rate is not None and abs(rate / spec.fps - 1) > RATE:
        raise UserError(
            f"{video} has {rate:g} frames per second, {spec.name} shows {spec.fps:g}: resample the video, and its"
            " actions with it"
        )
    return Recording(video, actions.latents(0, len(actions) if num_latents is None else num_latents))
