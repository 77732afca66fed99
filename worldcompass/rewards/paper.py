"""The paper's two rewards for real videos, with local weights: action following and picture quality.

WorldCompass estimates cameras with Depth-Anything-3 and scores frames with HPSv3, with weights 2 and 1. Two things
differ from its released code: one threshold for moving instead of the best of three, and steps of whole latents
instead of frames. Neither network has been run on WorldPlay's videos here, and no threshold is calibrated on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from worldcompass.critic import Critic
from worldcompass.geometry import LabelThresholds
from worldcompass.rewards import depth_anything, hpsv3
from worldcompass.rewards.actions import ActionAccuracy
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.rewards.stability import PictureStability
from worldcompass.runs.requirements import GIB, NeededFile, NeededModule
from worldcompass.settings import HARMLESS
from worldcompass.types import Group, Scores

Cameras = Literal["depth-anything-3", "odometry"]
Quality = Literal["hpsv3-drift", "hpsv3", "formulas"]
INTERACTION, QUALITY = "interaction", "quality"
"""Names of the two rewards, for every choice of critics."""

# GPU memory of the two running networks; assumed, not measured.
CAMERAS_BYTES, QUALITY_BYTES = 4 * GIB, 20 * GIB
# Smallest length of a moving step (one latent, 4 frames), in each estimator's unit. For Depth-Anything-3 it is the
# middle one of the three released thresholds, which are per frame and belong to DA3-GIANT-1.1: each of its networks
# has a scale of its own. For odometry it is the share of the depth in
# view that `benchmarks/odometry.py --maps critic` calibrates on engine videos.
MOVE_DEPTH_ANYTHING, MOVE_ODOMETRY = 4 * 0.005, 0.0413
# Smallest angle of a turning step in degrees: the released threshold is per frame. Actions turn 2 or 3 per latent.
TURN_DEG = 4 * 0.2
PAST_FRAMES = 2  # past frames that these critics read, apart from the video's first frame


class _RemoteOnShortPast:
    """A remote critic that receives only the past frames that it reads, as whole videos may take GiB."""

    at_once = 1

    def __init__(self, address: str, name: str, timeout: float) -> None:
        self.critic, self.name = RemoteCritic(address, name=name, timeout=timeout), name

    @property
    def tries(self) -> tuple[int, int]:
        """Tries of the critic so far, and how many of them failed."""
        return self.critic.tries

    def __call__(self, group: Group) -> Scores:
        last = group.past_frames_F3hw[-PAST_FRAMES:]
        return self.critic(replace(group, past_frames_F3hw=last, past_actions=None))


@dataclass(frozen=True)
class PaperRewards:
    """Makes both critics and lists the files and packages that they need."""

    cameras: Cameras = "depth-anything-3"
    """Estimator of camera paths; ``odometry`` needs no weights."""
    cameras_weights: Path = Path("checkpoints/depth-anything-3")
    """Folder of Depth-Anything-3: config.json, model.safetensors."""
    cameras_at: str = field(default="", metadata=HARMLESS)
    """Address of a server with the interaction critic (``worldcompass serve-reward``); in this process if empty."""
    move: float | None = None
    """Smallest length of a moving latent's step, in the estimator's unit; see ``calibrated_thresholds``."""
    turn_deg: float = TURN_DEG
    """Smallest angle of a turning latent's step, degrees."""
    quality: Quality = "hpsv3-drift"
    """``hpsv3-drift``: minus the change of HPSv3's score for one fixed sentence since the first frame (the released
    run's); ``hpsv3``: its mean for the caption; ``formulas``: sharpness, flicker and drift, without weights."""
    quality_weights: Path = Path("checkpoints/hpsv3/HPSv3.safetensors")
    quality_config: Path = Path("checkpoints/hpsv3/HPSv3_7B.yaml")
    """A copy of the package's file that names a local folder of Qwen2-VL-7B-Instruct."""
    quality_at: str = field(default="", metadata=HARMLESS)
    """Address of a server with the quality critic; in this process if empty."""
    timeout_s: float = field(default=600.0, metadata=HARMLESS)
    """Seconds that a server may take for one group. It scores one after another, so that the last of eight
    processes waits for seven others."""

    def critics(self, device: str) -> list[Critic]:
        """Both critics, named ``interaction`` and ``quality``.

        Raises:
            UserError: when a package, a weight or a server is missing.
        """
        return [self.interaction(device), self.visual_quality(device)]

    def interaction(self, device: str) -> Critic:
        """The critic that gives half a point for each latent's translation and half for its rotation."""
        if self.cameras_at:
            return _RemoteOnShortPast(self.cameras_at, INTERACTION, self.timeout_s)
        if self.cameras == "odometry":
            from worldcompass.rewards.odometry import Odometry

            # Lengths relative to the depth in view, so that one threshold fits every scene.
            return ActionAccuracy(Odometry(per_view=True), self._thresholds(MOVE_ODOMETRY), name=INTERACTION)
        estimator = depth_anything.DepthAnything3(self.cameras_weights, device)
        # The released reward trusts every frame, and nobody has measured what this confidence is worth.
        limits = self._thresholds(MOVE_DEPTH_ANYTHING)
        return ActionAccuracy(estimator, limits, least_confidence=0.0, name=INTERACTION)

    def visual_quality(self, device: str) -> Critic:
        """The critic of picture quality that ``quality`` names."""
        if self.quality_at:
            return _RemoteOnShortPast(self.quality_at, QUALITY, self.timeout_s)
        if self.quality == "formulas":
            return PictureStability(name=QUALITY)
        if self.quality == "hpsv3":
            scorer = hpsv3.Hpsv3(self.quality_weights, config=self.quality_config, device=device)
            return FrameScore(scorer, QUALITY)
        sentence = hpsv3.QUALITY_SENTENCE
        return ScoreDrift(hpsv3.Hpsv3(self.quality_weights, sentence, self.quality_config, device), QUALITY)

    def files(self) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins."""
        files: list[NeededFile] = []
        if self._runs_depth_anything:
            what = f"Depth-Anything-3, which reads cameras: {depth_anything.GET}; or rewards.cameras=odometry"
            files += [
                NeededFile(self.cameras_weights / name, what) for name in ("config.json", "model.safetensors")
            ]
        if self._runs_hpsv3:
            what = f"HPSv3, which judges pictures: {hpsv3.GET}; or rewards.quality=formulas"
            files.append(NeededFile(self.quality_weights, what))
            files.append(NeededFile(self.quality_config, f"HPSv3's settings: {hpsv3.GET_CONFIG}"))
        return tuple(files)

    def modules(self) -> tuple[NeededModule, ...]:
        """Packages that must be installed before a run begins."""
        modules = [
            (self._runs_depth_anything, NeededModule("depth_anything_3", depth_anything.INSTALL)),
            (self._runs_hpsv3, NeededModule("hpsv3", hpsv3.INSTALL)),
        ]
        return tuple(module for needed, module in modules if needed)

    def gpu_bytes(self) -> int:
        """Assumed GPU memory of the networks in the trainer's process, bytes."""
        return CAMERAS_BYTES * self._runs_depth_anything + QUALITY_BYTES * self._runs_hpsv3

    @property
    def _runs_depth_anything(self) -> bool:
        """Whether Depth-Anything-3 runs in this process."""
        return self.cameras == "depth-anything-3" and not self.cameras_at

    @property
    def _runs_hpsv3(self) -> bool:
        """Whether HPSv3 runs in this process."""
        return self.quality != "formulas" and not self.quality_at

    def _thresholds(self, move: float) -> LabelThresholds:
        return LabelThresholds(move if self.move is None else self.move, self.turn_deg, self.turn_deg)
