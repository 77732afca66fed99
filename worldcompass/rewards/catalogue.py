"""What critics and camera estimators there are, and what each needs; for people, nothing is built from it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

INTERACTION, CAMERAS, QUALITY, CONSISTENCY = "interaction", "camera estimator", "quality", "consistency"
NO_WEIGHTS, PACKAGED = "none", "in the package"
OWN = "Apache-2.0"


@dataclass(frozen=True)
class Entry:
    """One critic or camera estimator."""

    name: str
    kind: str
    where: str
    """``module:Class`` below ``worldcompass.rewards``."""
    summary: str
    weights: str = NO_WEIGHTS
    gpu_gib: float = 0.0
    """GPU memory that makes it practical, GiB; 0 where a CPU will do."""
    license: str = OWN
    """Of code and weights that are not this project's."""
    module: str = ""
    """Python module that must be there; empty when the core install is enough."""
    install: str = ""
    """How to get it."""
    tested_on: str = "real"
    """``real``: the package itself runs in tests or benchmarks; ``fake``: a stand-in with its interface."""

    @property
    def installed(self) -> bool:
        """Whether its code is there; weights are looked for when it is built."""
        return not self.module or importlib.util.find_spec(self.module) is not None


ENTRIES = (
    Entry("interaction", INTERACTION, "interaction:InteractionFollowing",
          "probability of the commanded action, embedded world", weights=PACKAGED),
    Entry("actions", INTERACTION, "actions:ActionAccuracy",
          "share of commands seen by any camera estimator, one calibrated threshold"),
    Entry("best_of_three", INTERACTION, "best_of_three:BestOfThree",
          "the released action reward, optimistic: for comparison only"),
    Entry("pose_error", INTERACTION, "pose_error:PoseError",
          "rotation and translation error of the path, scale aligned"),
    Entry("purity", INTERACTION, "purity:DirectionPurity", "cosine between seen and commanded direction"),
    Entry("latency", INTERACTION, "latency:ResponseLatency", "frames until the commanded motion shows"),
    Entry("doom", CAMERAS, "doom_cameras:DoomCameras", "embedded motion critic, map units", weights=PACKAGED),
    Entry("odometry", CAMERAS, "odometry:Odometry", "OpenCV, any video, arbitrary scale"),
    Entry("quality", QUALITY, "quality:VisualQuality",
          "sharpness, flicker, drift and realism, embedded world", weights=PACKAGED),
    Entry("stability", QUALITY, "stability:PictureStability", "sharpness, flicker and drift by formulas alone"),
)  # fmt: skip
