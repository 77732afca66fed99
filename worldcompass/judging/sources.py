"""The videos that a judge compares: the real thing, what a perfect network could show of it, and the models.

All videos follow the same commands from the same starts and have one length. *Reachable truth* is the real video
through the world's autoencoder (``worldcompass.reachable``); models are compared with it, since no weights of the
network can show more. The other episodes are the judge's floor: how far real videos lie from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs

BASE, TRAINED = "base", "trained"
LEAST_SCENARIOS = 8  # for an interval


@dataclass(frozen=True)
class Steps:
    """One chunk of every scenario after its true past, where the truth is known frame by frame."""

    first_frame: int
    """Index of the chunk's first frame in the scenario's video."""
    models_KST3hw: Mapping[str, Tensor]
    """Model -> its chunks, uint8 sRGB, for every seed."""


@dataclass(frozen=True)
class Sources:
    """Equally long uint8 sRGB videos of the same S scenarios, with K seeds of every model."""

    scenarios: tuple[str, ...]
    """Ids."""
    groups: tuple[str, ...]
    """The start that a scenario may share with others, such as map and place; no fold splits a group."""
    regions: tuple[str, ...]
    """The part of the world that a scenario shows, such as its map; without parts, its recording's name."""
    engine_SF3hw: Tensor
    """The real videos."""
    other_SF3hw: Tensor
    """Real videos of other episodes, with other starts and commands; row by row from the same regions."""
    reachable_SF3hw: Tensor
    """The real videos through the autoencoder."""
    models_KSF3hw: Mapping[str, Tensor]
    """Model -> its videos for every seed: of the noise, or of post-training."""
    steps: Steps | None = None

    def __post_init__(self) -> None:
        """Refuse videos that do not belong together.

        Raises:
            UnfitInputs: with the source that does not fit, or when there are too few scenarios.
        """
        count, shape = len(self.scenarios), tuple(self.engine_SF3hw.shape)
        if count < LEAST_SCENARIOS:
            raise UnfitInputs(
                f"a judge needs {LEAST_SCENARIOS} scenarios or more for an interval, got {count}"
            )
        if len(set(self.scenarios)) != count:
            raise UnfitInputs("a scenario occurs twice: give every scenario an id of its own")
        if not count == len(self.groups) == len(self.regions) == shape[0]:
            raise UnfitInputs(
                f"{count} scenarios have {len(self.groups)} groups, {len(self.regions)} regions and"
                f" {shape[0]} videos: give one of each"
            )
        for name, videos in {"other": self.other_SF3hw, "reachable": self.reachable_SF3hw}.items():
            _fits(name, videos, shape)
        seeds = {len(videos) for videos in self.models_KSF3hw.values()}
        if len(seeds) != 1:
            raise UnfitInputs(f"the models have different numbers of seeds, {sorted(seeds)}: give one number")
        for name, videos in self.models_KSF3hw.items():
            for part in videos:
                _fits(name, part, shape)

    @property
    def seeds(self) -> int:
        """K."""
        return len(next(iter(self.models_KSF3hw.values())))

    @property
    def frames(self) -> int:
        """F."""
        return self.engine_SF3hw.shape[1]

    @property
    def rows(self) -> tuple[str, ...]:
        """Scenario of every row of ``flat``."""
        return self.scenarios * self.seeds

    def flat(self, model: str) -> Tensor:
        """A model's videos of all seeds, one seed after the other; (K * S, F, 3, h, w)."""
        return self.models_KSF3hw[model].flatten(0, 1)

    def with_models(self, models_KSF3hw: Mapping[str, Tensor]) -> Sources:
        """The same real videos beside other models, without steps."""
        return replace(self, models_KSF3hw=models_KSF3hw, steps=None)

    def first(self, frames: int) -> Sources:
        """The first frames of every video, without steps."""
        models = {name: v[:, :, :frames] for name, v in self.models_KSF3hw.items()}
        return replace(
            self,
            engine_SF3hw=self.engine_SF3hw[:, :frames],
            other_SF3hw=self.other_SF3hw[:, :frames],
            reachable_SF3hw=self.reachable_SF3hw[:, :frames],
            models_KSF3hw=models,
            steps=None,
        )

    def select(self, rows: Sequence[int]) -> Sources:
        """Some of the scenarios; the other episodes keep the same rows."""
        index = torch.tensor(list(rows))

        def names(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[i] for i in rows)

        def models(videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: v[:, index] for name, v in videos.items()}

        return Sources(
            names(self.scenarios),
            names(self.groups),
            names(self.regions),
            self.engine_SF3hw[index],
            self.other_SF3hw[index],
            self.reachable_SF3hw[index],
            models(self.models_KSF3hw),
            self.steps and Steps(self.steps.first_frame, models(self.steps.models_KST3hw)),
        )


STRETCHES = {"the whole video": 0.0, "its end": 0.75}
"""Stretches that are judged, by the share of the video before them. Errors add up, and people judge where a video
ends as much as how it begins: a mean over the whole video would hide a collapse behind a good start."""


@dataclass(frozen=True)
class Windows:
    """Short stretches of every video, spread over its length."""

    starts: tuple[int, ...]
    """First frame of each, rising; as many for every depth."""
    length: int
    """Frames."""
    depths: int
    """Equal parts of the video, from its start to its end."""
    depth_of: tuple[int, ...] = field(default=())
    """Depth of every window."""

    def inside(self, stretch: str) -> tuple[int, ...]:
        """Windows of one of ``STRETCHES``."""
        first = depths_of(stretch, self.depths)[0]
        return tuple(i for i, depth in enumerate(self.depth_of) if depth >= first)


def depths_of(stretch: str, depths: int) -> tuple[int, ...]:
    """Depths of one of ``STRETCHES``."""
    return tuple(range(round(STRETCHES[stretch] * depths), depths))


def windows(frames: int, depths: int = 8, per_depth: int = 2, length: int = 9) -> Windows:
    """Windows at equal distances, without the start image, which every model is given.

    Raises:
        UnfitInputs: when the videos are too short for one window in every depth.
    """
    count = depths * per_depth
    last = frames - length
    if last < count:
        raise UnfitInputs(
            f"videos have {frames} frames, a judge needs {count + length} or more: imagine longer videos"
        )
    starts = tuple(round(1 + i * (last - 1) / (count - 1)) for i in range(count))
    return Windows(starts, length, depths, tuple(i // per_depth for i in range(count)))


def _fits(name: str, videos: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(videos.shape) != shape or videos.dtype != torch.uint8:
        raise UnfitInputs(
            f"the videos of {name} are {videos.dtype} {tuple(videos.shape)}, those of the engine uint8 {shape}:"
            " judge videos of one world, one size and one length"
        )
