"""The paper's two rewards for real videos, from local weights: obedience of the camera and quality of pictures.

WorldCompass reads cameras with Depth-Anything-3 and judges pictures with HPSv3; weights 2 and 1. Two things differ
from its released code: one threshold for moving instead of the best of three, and steps of whole latents instead of
frames. Neither network has been run on WorldPlay's videos here, and no threshold has been calibrated on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from worldcompass.critic import Critic
from worldcompass.geometry import LabelThresholds
from worldcompass.rewards import depth_anything, hpsv3
from worldcompass.rewards.actions import ActionAccuracy
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.rewards.stability import PictureStability
from worldcompass.runs.requirements import NeededFile, NeededModule
from worldcompass.types import Group, Scores

Cameras = Literal["depth-anything-3", "odometry"]
Quality = Literal["hpsv3-drift", "hpsv3", "formulas"]
INTERACTION, QUALITY = "interaction", "quality"
"""Names of the two rewards, whoever gives them."""

GIB = 1 << 30
# GPU memory of the two networks at work: assumed, not measured.
CAMERAS_BYTES, QUALITY_BYTES = 4 * GIB, 20 * GIB
# Lengths of a step (one latent, 4 frames) from which on it moves, in each estimator's unit: the middle one of the
# released three, which are per frame; the share of the depth in view that `benchmarks/odometry.py --maps critic`
# calibrates on engine videos.
MOVE_DEPTH_ANYTHING, MOVE_ODOMETRY = 4 * 0.005, 0.0413
# Degrees of a step from which on it turns: the released threshold, per frame. Actions turn 2 or 3 per latent.
TURN_DEG = 4 * 0.2
LOOKED_BACK = 2  # frames of the past that any of these critics looks at, besides the video's first one


class _Elsewhere:
    """A critic behind an address, which is sent no more of the past than it looks at: videos may be GiB."""

    at_once = 1

    def __init__(self, address: str, name: str) -> None:
        self.critic, self.name = RemoteCritic(address, name=name), name

    @property
    def tries(self) -> tuple[int, int]:
        """Those of the critic."""
        return self.critic.tries

    def __call__(self, group: Group) -> Scores:
        last = group.past_frames_F3hw[-LOOKED_BACK:]
        return self.critic(replace(group, past_frames_F3hw=last, past_actions=None))


@dataclass(frozen=True)
class PaperRewards:
    """Makes both critics, and says what files and packages they need."""

    cameras: Cameras = "depth-anything-3"
    """Who reads camera paths; ``odometry`` needs no weights."""
    cameras_weights: Path = Path("checkpoints/depth-anything-3")
    """Folder of Depth-Anything-3: config.json, model.safetensors."""
    cameras_at: str = ""
    """Address of a server with the interaction critic (``worldcompass serve-reward``); here when empty."""
    move: float | None = None
    """Length of a latent's step from which on it moves, in the estimator's unit; see ``calibrated_thresholds``."""
    turn_deg: float = TURN_DEG
    """Degrees of a latent's turn from which on it turns."""
    quality: Quality = "hpsv3-drift"
    """``hpsv3-drift`` as the released run: minus the change of HPSv3's score for one fixed sentence since the first
    frame; ``hpsv3``: its mean for the caption; ``formulas``: sharpness, flicker and drift, without weights."""
    quality_weights: Path = Path("checkpoints/hpsv3/HPSv3.safetensors")
    quality_config: Path = Path("checkpoints/hpsv3/HPSv3_7B.yaml")
    """A copy of the package's file that names a local folder of Qwen2-VL-7B-Instruct."""
    quality_at: str = ""
    """Address of a server with the quality critic."""

    def critics(self, device: str) -> list[Critic]:
        """Both, named ``interaction`` and ``quality``.

        Raises:
            UserError: when a package, a weight or a server is missing.
        """
        return [self.interaction(device), self.visual_quality(device)]

    def interaction(self, device: str) -> Critic:
        """Half a point for every latent whose translation is the commanded one, half for its rotation."""
        if self.cameras_at:
            return _Elsewhere(self.cameras_at, INTERACTION)
        if self.cameras == "odometry":
            from worldcompass.rewards.odometry import Odometry

            # Lengths over the depth in view: what counts as moving is then alike in every scene.
            return ActionAccuracy(Odometry(per_view=True), self._thresholds(MOVE_ODOMETRY), name=INTERACTION)
        estimator = depth_anything.DepthAnything3(self.cameras_weights, device)
        return ActionAccuracy(estimator, self._thresholds(MOVE_DEPTH_ANYTHING), name=INTERACTION)

    def visual_quality(self, device: str) -> Critic:
        """Whether pictures stay as good as the first frame, or are good."""
        if self.quality_at:
            return _Elsewhere(self.quality_at, QUALITY)
        if self.quality == "formulas":
            return PictureStability(name=QUALITY)
        if self.quality == "hpsv3":
            scorer = hpsv3.Hpsv3(self.quality_weights, config=self.quality_config, device=device)
            return FrameScore(scorer, QUALITY)
        sentence = hpsv3.QUALITY_SENTENCE
        return ScoreDrift(hpsv3.Hpsv3(self.quality_weights, sentence, self.quality_config, device), QUALITY)

    def files(self) -> tuple[NeededFile, ...]:
        """Weights that must be there before a run begins."""
        files: list[NeededFile] = []
        if self._reads_cameras:
            what = f"Depth-Anything-3, which reads cameras: {depth_anything.GET}; or rewards.cameras=odometry"
            files += [
                NeededFile(self.cameras_weights / name, what) for name in ("config.json", "model.safetensors")
            ]
        if self._judges_pictures:
            what = f"HPSv3, which judges pictures: {hpsv3.GET}; or rewards.quality=formulas"
            files.append(NeededFile(self.quality_weights, what))
            files.append(NeededFile(self.quality_config, f"HPSv3's settings: {hpsv3.GET_CONFIG}"))
        return tuple(files)

    def modules(self) -> tuple[NeededModule, ...]:
        """Packages that must be installed before a run begins."""
        there = [
            (self._reads_cameras, NeededModule("depth_anything_3", depth_anything.INSTALL)),
            (self._judges_pictures, NeededModule("hpsv3", hpsv3.INSTALL)),
        ]
        return tuple(module for needed, module in there if needed)

    def gpu_bytes(self) -> int:
        """Assumed memory of the networks that work in the trainer's process."""
        return CAMERAS_BYTES * self._reads_cameras + QUALITY_BYTES * self._judges_pictures

    @property
    def _reads_cameras(self) -> bool:
        """Whether Depth-Anything-3 runs here."""
        return self.cameras == "depth-anything-3" and not self.cameras_at

    @property
    def _judges_pictures(self) -> bool:
        """Whether HPSv3 runs here."""
        return self.quality != "formulas" and not self.quality_at

    def _thresholds(self, move: float) -> LabelThresholds:
        return LabelThresholds(move if self.move is None else self.move, self.turn_deg, self.turn_deg)
