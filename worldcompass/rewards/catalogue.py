"""Critics and camera estimators of any world with their requirements, for display only.

An embedded world lists its own in ``rewards/catalogue.py`` of its folder.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from worldcompass.runs.requirements import has_package

INTERACTION, CAMERAS, QUALITY, CONSISTENCY = "interaction", "camera estimator", "quality", "consistency"
THINGS = "things"
LANGUAGE = "language"
NO_WEIGHTS, PACKAGED = "none", "in the package"
OF_ESTIMATOR, OF_SCORER = "those of its estimator", "those of its scorer"
OWN = "Apache-2.0"
JUDGE, JUDGES = "a vision model behind an OpenAI-compatible endpoint", "the judge model's own"


@dataclass(frozen=True)
class Entry:
    """One critic or camera estimator."""

    name: str
    """Unique within its world."""
    kind: str
    where: str
    """``module:Class`` below ``worldcompass``."""
    summary: str
    weights: str = NO_WEIGHTS
    gpu_gib: float = 0.0
    """Practical GPU memory, GiB; 0 when a CPU is enough."""
    license: str = OWN
    """License of third-party code and weights."""
    module: str = ""
    """Python module to install; empty when the core install is enough."""
    install: str = ""
    """How to install it."""
    world: str = ""
    """The embedded world that it belongs to; empty for those of any world."""

    @property
    def full_name(self) -> str:
        """The name, with the world if it belongs to one: ``interaction (doom)``."""
        return f"{self.name} ({self.world})" if self.world else self.name

    @property
    def installed(self) -> bool:
        """Whether its code is installed; weights are checked when it is built."""
        return not self.module or has_package(self.module)

    def load(self) -> Any:
        """The class or function, imported."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(f"worldcompass.{module}"), name)


ENTRIES = (
    Entry(
        "actions",
        INTERACTION,
        "rewards.actions:ActionAccuracy",
        "share of commands followed by the estimated camera, one calibrated threshold",
        weights=OF_ESTIMATOR,
    ),
    Entry(
        "best_of_three",
        INTERACTION,
        "rewards.best_of_three:BestOfThree",
        "the released, optimistic action reward; for comparison only",
        weights=OF_ESTIMATOR,
    ),
    Entry(
        "pose_error",
        INTERACTION,
        "rewards.pose_error:PoseError",
        "rotation and translation error of the path, scale aligned",
        weights=OF_ESTIMATOR,
    ),
    Entry(
        "purity",
        INTERACTION,
        "rewards.purity:DirectionPurity",
        "cosine between estimated and commanded direction",
        weights=OF_ESTIMATOR,
    ),
    Entry(
        "latency",
        INTERACTION,
        "rewards.latency:ResponseLatency",
        "frames until the commanded motion begins",
        weights=OF_ESTIMATOR,
    ),
    Entry(
        "inverse_dynamics",
        INTERACTION,
        "rewards.inverse_dynamics.critic:inverse_dynamics",
        "commanded controls or motions, read by a network that learned from your recordings",
        weights="a file made by worldcompass critics train",
    ),
    Entry("odometry", CAMERAS, "rewards.odometry:Odometry", "OpenCV, any video, arbitrary scale"),
    Entry(
        "depth-anything-3",
        CAMERAS,
        "rewards.depth_anything:DepthAnything3",
        "network, arbitrary scale",
        weights="DA3-BASE (or SMALL, LARGE, GIANT) from depth-anything",
        gpu_gib=4.0,
        license="Apache-2.0; LARGE and GIANT CC BY-NC 4.0",
        module="depth_anything_3",
        install="an environment of its own with: pip install depth-anything-3",
    ),
    Entry(
        "stability",
        QUALITY,
        "rewards.stability:PictureStability",
        "sharpness, flicker and drift, formulas only",
    ),
    Entry(
        "formula",
        QUALITY,
        "rewards.formulas:FormulaCritic",
        "one formula: sharpness, flicker, colours or exposure",
    ),
    Entry(
        "frame_score",
        QUALITY,
        "rewards.frame_score:FrameScore",
        "mean of any scorer of frames",
        weights=OF_SCORER,
    ),
    Entry(
        "score_drift",
        QUALITY,
        "rewards.frame_score:ScoreDrift",
        "drift of any scorer from the first frame",
        weights=OF_SCORER,
    ),
    Entry(
        "hpsv3",
        QUALITY,
        "rewards.hpsv3:Hpsv3",
        "human preference for caption or fixed sentence; scorer",
        weights="HPSv3.safetensors from MizzenAI/HPSv3, Qwen2-VL-7B-Instruct",
        gpu_gib=20.0,
        license="MIT; Qwen2-VL Apache-2.0",
        module="hpsv3",
        install="an environment of its own with: pip install hpsv3",
    ),
    Entry(
        "truth",
        QUALITY,
        "rewards.reference:TrueContinuation",
        "PSNR, SSIM or LPIPS to the engine's true frames",
    ),
    Entry(
        "likeness",
        QUALITY,
        "rewards.truth_paired:TruthPaired",
        "gain-limited fidelity to the engine through the world's autoencoder",
    ),
    Entry(
        "steadiness",
        QUALITY,
        "rewards.truth_paired:TwoSided",
        "distance of colour and flicker from reachable truth's, on both sides",
    ),
    Entry(
        "reality",
        QUALITY,
        "rewards.discriminator:Discriminator",
        "networks that learn with the policy to tell candidates from the engine",
    ),
    Entry(
        "lpips",
        QUALITY,
        "rewards.lpips:Lpips",
        "perceptual similarity, for truth and cycle",
        weights="torchvision's AlexNet as a file",
        license="BSD-2-Clause, backbone BSD-3-Clause",
        module="lpips",
        install="pip install 'worldcompass[rewards]'",
    ),
    Entry(
        "cycle",
        CONSISTENCY,
        "rewards.cycle:CycleClosure",
        "similarity of views at poses to which the camera returns",
    ),
    Entry(
        "instruction",
        LANGUAGE,
        "rewards.language:InstructionScore",
        "a judge model's score of how well a clip follows an instruction",
        weights=JUDGE,
        license=JUDGES,
    ),
    Entry(
        "instruction_rank",
        LANGUAGE,
        "rewards.language:InstructionRank",
        "the same from comparisons of pairs (Bradley-Terry)",
        weights=JUDGE,
        license=JUDGES,
    ),
)
