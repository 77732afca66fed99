"""Camera actions along paths, for tests in which the world's own scale does not matter."""

from dataclasses import replace

from worldcompass.actions import CameraActions
from worldcompass.geometry import LabelThresholds, Motion

CAMERAS = CameraActions(
    Motion(move=1.0, yaw_deg=10.0, pitch_deg=10.0, level=True),
    LabelThresholds(move=0.5, yaw_deg=5.0, pitch_deg=5.0),
)
parse_path, path_of = CAMERAS.parse, CAMERAS.path


def commanded(labels_M, motion, intrinsics_4):
    """Moves of a camera of this motion and lens."""
    return replace(CAMERAS, motion=motion, intrinsics=tuple(intrinsics_4.tolist())).commanded(labels_M)
