"""Rewards of a world that is played by keyboard and mouse: its controls read back from the pixels, and quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from worldcompass.critic import Critic
from worldcompass.rewards.paper import PaperRewards, Quality
from worldcompass.runs.requirements import NeededFile, NeededModule
from worldcompass.settings import HARMLESS

INVERSE_DYNAMICS = "inverse_dynamics"  # the name of the critic that reads controls


@dataclass(frozen=True)
class PlayedRewards:
    """Makes both critics and lists the files and packages that they need."""

    controls: Path = Path("critics/inverse_dynamics.safetensors")
    """The critic of controls, made by ``worldcompass critics train`` from recordings of the same world."""
    quality: Quality = "formulas"
    """See ``PaperRewards.quality``."""
    quality_weights: Path = Path("checkpoints/hpsv3/HPSv3.safetensors")
    quality_config: Path = Path("checkpoints/hpsv3/HPSv3_7B.yaml")
    quality_at: str = field(default="", metadata=HARMLESS)
    """Address of a server with the quality critic; in this process if empty."""

    def critics(self, device: str) -> list[Critic]:
        """Both critics, named ``inverse_dynamics`` and ``quality``.

        Raises:
            UserError: when a package, a weight or a server is missing.
        """
        from worldcompass.rewards.inverse_dynamics.critic import inverse_dynamics

        return [inverse_dynamics(self.controls), self._quality.visual_quality(device)]

    def files(self) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins."""
        what = "the critic of controls, made by 'worldcompass critics train' from recordings of this world"
        return (NeededFile(self.controls, what), *self._quality.files())

    def modules(self) -> tuple[NeededModule, ...]:
        """Packages that must be installed before a run begins."""
        return self._quality.modules()

    def gpu_bytes(self) -> int:
        """Assumed GPU memory of the networks in the trainer's process, bytes."""
        return self._quality.gpu_bytes()

    @property
    def _quality(self) -> PaperRewards:
        """The choice of quality critics; the other critic is not made."""
        return PaperRewards(
            cameras="odometry",
            quality=self.quality,
            quality_weights=self.quality_weights,
            quality_config=self.quality_config,
            quality_at=self.quality_at,
        )
