"""Watching a video for its instructions: a value per moment, by the engine's truth or by pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from worldcompass.worlds.hands.scripts import Look
from worldcompass.worlds.hands.sight import ColourEye, Eye
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.tasks import Instruction, Seen, done_in_pixels, done_in_truth, instructions


@dataclass(frozen=True)
class Done:
    """Which instructions have been done."""

    wanted: tuple[Instruction, ...]
    latents: int = 0
    """So far, without the start picture's."""
    since: tuple[tuple[Instruction, int], ...] = ()
    """Each that is done, with the number of latents after which it was."""

    def after(self, shows: Callable[[Instruction], bool]) -> Done:
        """After one more latent; what is done stays done."""
        latents, known = self.latents + 1, {one for one, _ in self.since}
        new = tuple((one, latents) for one in self.wanted if one not in known and shows(one))
        return replace(self, latents=latents, since=self.since + new)

    def __contains__(self, wanted: Instruction) -> bool:
        """Whether an instruction has been done."""
        return any(one == wanted for one, _ in self.since)


@dataclass(frozen=True)
class TruthWatch:
    """Watches the engine."""

    scene: Scene
    done: Done

    @staticmethod
    def start(scene: Scene, wanted: tuple[Instruction, ...] | None = None) -> TruthWatch:
        """At a scene's start, watching for some instructions or for all of the scene."""
        return TruthWatch(scene, Done(instructions(scene) if wanted is None else wanted))

    def after(self, look: Look) -> TruthWatch:
        """After a latent that ends with this truth."""
        return replace(self, done=self.done.after(lambda one: done_in_truth(one, self.scene, look)))


@dataclass(frozen=True)
class PixelWatch:
    """Watches pictures and the commands that they answer."""

    eye: Eye
    seen: Seen
    done: Done

    @staticmethod
    def start(scene: Scene, start_3hw: Tensor, wanted: tuple[Instruction, ...] | None = None) -> PixelWatch:
        """At a scene's start picture, watching for some instructions or for all of the scene."""
        eye = ColourEye(scene, start_3hw)
        seen = Seen.start(scene, eye(start_3hw[None])[0])
        return PixelWatch(eye, seen, Done(instructions(scene) if wanted is None else wanted))

    def after(self, controls_4: np.ndarray, last_3hw: Tensor) -> PixelWatch:
        """After a latent of these controls that ends with this picture."""
        seen = self.seen.after(controls_4, self.eye(last_3hw[None])[0])
        return replace(self, seen=seen, done=self.done.after(lambda one: done_in_pixels(one, seen)))
