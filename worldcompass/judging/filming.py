"""Making the videos of a judge, each stored once in a folder, so that a stopped judge resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import imagine_all
from worldcompass.reachable import reachable_truth, true_past
from worldcompass.rollout import batches, chunk_actions, chunk_noise, imagine_chunk, past_generators
from worldcompass.runs.atomic import write_tensors
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel

AFTER = 3  # true chunks before the judged one
BATCH = 12  # scenarios at once
OnVideo = Callable[[int], None]
"""Called with the number of finished videos."""


@dataclass(frozen=True)
class Reel:
    """A folder of videos by name."""

    folder: Path

    def take(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The videos of a name, which are made and stored if they are not there yet."""
        path = self._path(name)
        if not path.exists():
            write_tensors(path, {"frames": make().contiguous()})
        return self.stored(name)

    def has(self, name: str) -> bool:
        """Whether the videos of a name are there."""
        return self._path(name).exists()

    def stored(self, name: str) -> Tensor:
        """The stored videos of a name.

        Raises:
            UserError: when the file is damaged.
        """
        path = self._path(name)
        try:
            return load_file(path)["frames"]
        except (SafetensorError, KeyError) as why:
            raise UserError(f"{path} is damaged ({why}): delete it, it is made again") from None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def imagine(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    seed: int,
    on_video: OnVideo,
    batch: int = BATCH,
) -> Tensor:
    """A model's videos, uint8 (S, F, 3, h, w)."""
    return imagine_all(world, scenarios, seed, batch, on_video)


def through_autoencoder(
    world: WorldModel[Any], scenarios: Sequence[Scenario], on_video: OnVideo, batch: int = BATCH
) -> Tensor:
    """Reachable truth of every scenario, uint8 (S, F, 3, h, w)."""
    parts, length = [], world.spec.ways[ROLLOUT].chunk_length
    for part in batches(world, scenarios, batch):
        parts.append(reachable_truth(world, part, length))
        on_video(sum(map(len, parts)))
    return torch.cat(parts)


@torch.no_grad()
def step_after_truth(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    seed: int,
    on_video: OnVideo,
    batch: int = BATCH,
) -> Tensor:
    """One imagined chunk of every scenario after its true past, uint8 (S, T, 3, h, w)."""
    parts, length = [], world.spec.ways[ROLLOUT].chunk_length
    for part in batches(world, scenarios, batch):
        keys = [("judged step", seed, s.id) for s in part]
        past = true_past(world, part, AFTER, length, keys)
        actions = chunk_actions(world, part, AFTER, length)
        attended = world.attend(past.context, actions, past_generators(keys, AFTER))
        noise = chunk_noise(world, length, keys)
        clean = imagine_chunk(world, attended, actions, noise, world.spec.sigmas())
        parts.append(world.decode(clean, attended).cpu())
        on_video(sum(map(len, parts)))
    return torch.cat(parts)
