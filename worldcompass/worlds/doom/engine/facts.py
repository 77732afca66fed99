"""Facts of the embedded world that model and engine share; importing them needs no engine."""

from __future__ import annotations

from worldcompass.actions import CameraActions
from worldcompass.geometry import LabelThresholds, Motion

FRAME_HEIGHT, FRAME_WIDTH = 48, 64
FRAMES_PER_LATENT = 4
TICS_PER_FRAME = 2
FPS = 35 / TICS_PER_FRAME  # the engine runs 35 tics per second
MOTION = Motion(
    move=22.0, yaw_deg=8.0, pitch_deg=4.8, level=True, substeps=FRAMES_PER_LATENT * TICS_PER_FRAME
)
NOMINAL = (MOTION.move, MOTION.move, MOTION.yaw_deg, MOTION.pitch_deg)  # units of right, forward, yaw, pitch
# Between the two modes of the engine's own motions over one latent: standing still and the nominal motion.
THRESHOLDS = LabelThresholds(move=8.0, yaw_deg=3.0, pitch_deg=1.8)
MAX_PITCH_DEG = 20.0
# Horizontal field of view 90 degrees, 4:3: fx, fy, cx, cy over width and height.
INTRINSICS = (0.5, 2 / 3, 0.5, 0.5)
ACTIONS = CameraActions(MOTION, THRESHOLDS, MAX_PITCH_DEG, INTRINSICS)
# Map units per level of the engine's depth buffer: where frames warped by depth and motion agree best (log 12).
DEPTH_UNIT = 8.25
NEARNESS_SHAPE = (24, 32)  # the resolution at which depth is kept and used
