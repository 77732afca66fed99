"""Visual odometry with OpenCV: no weights, no training, any video; the length unit is arbitrary.

Corners are tracked from frame to frame over one step, by Lucas-Kanade in both directions from a start that DIS flow
predicts. Rotation and direction of translation minimise the Sampson distance of the epipolar constraint under a
Cauchy loss (Levenberg-Marquardt). The best of several starts wins, as RANSAC's five-point solution alone confuses
a small turn with a small sidestep. When a rotation alone explains the tracks, the translation is zero. Points that
survive into the next step transfer the scale. The unit is the median depth of the first view that moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.rewards.cameras import CameraPath, steps_of

Array = np.ndarray

WORKING_WIDTH = 320  # pixels: larger frames are shrunk, smaller ones enlarged
MAX_POINTS = 400
POINT_QUALITY, POINT_DISTANCE = 0.005, 6  # of cv2.goodFeaturesToTrack; pixels
WINDOW, LEVELS = (15, 15), 1  # of the tracker: pixels, halvings
STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.02)  # iterations, pixels
ROUND_TRIP = 0.7  # pixels: largest error of a track after forward and backward tracking
FEWEST_POINTS = 12  # with fewer points nothing is estimated
ENOUGH_INLIERS = 40  # with fewer inliers the confidence is lower
NOISE = 0.5  # pixels: scale of the Cauchy loss
INLIER = 1.0  # pixels to the epipolar line
TURN_INLIER = (
    1.5  # pixels to the predicted point; larger, as a point has one more direction of error than a line
)
# Share of the inliers of the full motion that a rotation alone must explain for a translation of zero.
STILL = 0.8
# Sine of a translation's elevation above which it counts as a change of pitch, as no action moves the camera up.
RISING = 0.8
SHEARED = 3.0  # pixels: inliers of a change of pitch, which game engines may draw as a shift of the picture
FEWEST_COMMON = 8  # points that must survive to transfer the scale
# Initial directions of translation (camera axes); the five-point solution is one more.
STARTS = ((0, 0, 1), (1, 0, 0), (1, 0, 1), (-1, 0, 1), (0, 1, 0))
ITERATIONS = 10


@dataclass(frozen=True)
class TwoView:
    """Motion between two views: point ``p`` of the first is ``rotation @ p + translation`` in the second."""

    rotation_33: Array
    direction_3: Array
    """Unit translation; zeros when there was none."""
    nearness_N: Array
    """Length of the translation divided by each point's depth in the first view."""
    inlier_N: Array
    """bool: points that the motion explains."""
    confidence: float
    """Share of inliers, lower when they are few; in [0, 1]."""


@dataclass
class _Map:
    """Points tracked across steps, in pixels of the current frame, with 1 / depth where known (else NaN)."""

    pixels_N2: Array = field(default_factory=lambda: np.zeros((0, 2)))
    inverse_depth_N: Array = field(default_factory=lambda: np.zeros(0))
    median_depth: float | None = None
    """Median depth of the last view that moved; None before the first."""


class Odometry:
    """A camera estimator without weights; needs the camera's intrinsics.

    With ``per_view`` every step's length is in units of the median depth of its view, instead of one unit for the
    whole video. A motion then has a similar length in every scene, as a threshold needs. Comparisons of whole paths
    need the one unit.
    """

    name = "odometry"

    def __init__(self, per_view: bool = False) -> None:
        self.per_view = per_view

    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """See ``CameraEstimator``; runs on the CPU in about 0.1 s per step.

        Raises:
            ValueError: when F is not 1 + every * S.
        """
        steps = steps_of(frames_VF3hw, every)
        intrinsics = intrinsics_4.detach().cpu().float()
        videos = [self._video(video, intrinsics, every) for video in frames_VF3hw.cpu()]
        poses, confidence = zip(*videos, strict=True)
        return CameraPath(
            torch.stack(poses),
            intrinsics.expand(len(videos), steps + 1, 4),
            torch.stack(confidence),
        )

    def _video(self, frames_F3hw: Tensor, intrinsics_4: Tensor, every: int) -> tuple[Tensor, Tensor]:
        """Poses (S + 1, 4, 4) and confidences (S,) of one video."""
        grey = _grey(frames_F3hw)
        camera = _camera_matrix(intrinsics_4, grey.shape[1:])
        pose, poses, confidence, points = np.eye(4), [np.eye(4)], [], _Map()
        for start in range(0, len(grey) - 1, every):
            step, trust = _step(grey[start : start + every + 1], camera, points, self.per_view)
            pose = pose @ step
            poses.append(pose)
            confidence.append(trust)
        return torch.tensor(np.stack(poses), dtype=torch.float32), torch.tensor(
            confidence, dtype=torch.float32
        )


def two_view(first_N2: Array, second_N2: Array, focal: float) -> TwoView:
    """Motion between two views from the positions of N points.

    Args:
        first_N2: positions on the plane at depth 1 (pixels minus centre, over focal length).
        second_N2: positions of the same points in the second view.
        focal: focal length in pixels, as thresholds are in pixels.
    """
    if len(first_N2) < FEWEST_POINTS:
        empty = np.zeros(len(first_N2))
        return TwoView(np.eye(3), np.zeros(3), empty, empty.astype(bool), 0.0)
    a, b = (np.column_stack([p, np.ones(len(p))]) for p in (first_N2, second_N2))
    turn = _best_turn(a, b, focal)
    left_over = focal * np.linalg.norm(_project(a @ turn.T) - b[:, :2], axis=1)
    starts = [(turn, np.array(s, float)) for s in STARTS] + _five_point(a, b, focal)
    fits = [_refine(rotation, _unit(direction), a, b, focal) for rotation, direction in starts]
    rotation, direction, _ = min(fits, key=lambda fit: fit[2])
    inlier = np.abs(_sampson(rotation, direction, a, b, focal)) < INLIER
    pitching = abs(direction[1]) > RISING
    turned = left_over < (SHEARED if pitching else TURN_INLIER)
    if pitching or turned.sum() >= STILL * inlier.sum():
        return TwoView(turn, np.zeros(3), np.zeros(len(a)), turned, _confidence(turned))
    nearness = _nearness(rotation, direction, a, b)
    # Visible points are in front of the camera.
    if np.median(nearness[inlier] if inlier.any() else nearness) < 0:
        direction, nearness = -direction, -nearness
    inlier &= nearness > -NOISE / focal
    return TwoView(rotation, direction, nearness, inlier, _confidence(inlier))


def _step(grey_Fhw: Array, camera_33: Array, points: _Map, per_view: bool) -> tuple[Array, float]:
    """``previous_from_current`` pose (4, 4) of one step and its confidence; updates ``points``."""
    _top_up(points, grey_Fhw[0])
    arrived_N2, alive = _track(grey_Fhw, points.pixels_N2)
    first, second, known = points.pixels_N2[alive], arrived_N2[alive], points.inverse_depth_N[alive]
    focal, centre = np.diag(camera_33)[:2], camera_33[:2, 2]
    a, b = (first - centre) / focal, (second - centre) / focal
    seen = two_view(a, b, float(focal.mean()))
    if per_view:
        known, points.median_depth = np.full(len(known), np.nan), None
    length = _length(seen, known, points.median_depth)
    translation = length * seen.direction_3
    usable = seen.inlier_N & (seen.nearness_N > NOISE / focal.mean()) & (length > 0)
    inverse = np.where(usable, seen.nearness_N / max(length, 1e-12), known)
    if usable.any():
        points.median_depth = float(np.median(1 / inverse[usable]))
    rays = np.column_stack([a, np.ones(len(a))]) @ seen.rotation_33.T
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = rays[:, 2] / inverse + translation[2]
        points.inverse_depth_N = np.where(depth > 0, 1 / depth, np.nan)
    points.pixels_N2 = second
    keep = seen.inlier_N if seen.confidence else np.ones(len(second), bool)
    points.pixels_N2, points.inverse_depth_N = second[keep], points.inverse_depth_N[keep]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = seen.rotation_33.T, -seen.rotation_33.T @ translation
    return pose, seen.confidence


def _length(seen: TwoView, known_N: Array, median_depth: float | None) -> float:
    """Length of the translation in the unit of known inverse depths, or else of the median depth (1 when None)."""
    if not seen.direction_3.any() or not seen.inlier_N.any():
        return 0.0
    common = seen.inlier_N & np.isfinite(known_N) & (known_N > 0)
    if common.sum() >= FEWEST_COMMON:
        return float(max(0.0, np.median(seen.nearness_N[common] / known_N[common])))
    return float(max(0.0, np.median(seen.nearness_N[seen.inlier_N]))) * (median_depth or 1.0)


def _grey(frames_F3hw: Tensor) -> Array:
    """uint8 (F, h, w) at the working width, with equalised local contrast to find corners in dark rooms."""
    height, width = frames_F3hw.shape[-2:]
    size = (WORKING_WIDTH, round(height * WORKING_WIDTH / width))
    method = cv2.INTER_AREA if width > WORKING_WIDTH else cv2.INTER_CUBIC
    even = cv2.createCLAHE(2.0, (4, 4))
    pictures = frames_F3hw.permute(0, 2, 3, 1).contiguous().numpy()
    return np.stack(
        [
            even.apply(cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), size, interpolation=method))
            for p in pictures
        ]
    )


def _camera_matrix(intrinsics_4: Tensor, size: tuple[int, ...]) -> Array:
    fx, fy, cx, cy = intrinsics_4.tolist()
    height, width = size
    return np.array([[fx * width, 0, cx * width - 0.5], [0, fy * height, cy * height - 0.5], [0, 0, 1]])


def _top_up(points: _Map, grey_hw: Array) -> None:
    """Add corners where none is tracked."""
    free = np.full(grey_hw.shape, 255, np.uint8)
    for x, y in points.pixels_N2.round().astype(int):
        cv2.circle(free, (int(x), int(y)), POINT_DISTANCE, 0, -1)
    wanted = MAX_POINTS - len(points.pixels_N2)
    if wanted <= 0:
        return
    found = cv2.goodFeaturesToTrack(grey_hw, wanted, POINT_QUALITY, POINT_DISTANCE, mask=free, blockSize=5)
    if found is not None:
        points.pixels_N2 = np.concatenate([points.pixels_N2, found[:, 0].astype(float)])
        points.inverse_depth_N = np.concatenate([points.inverse_depth_N, np.full(len(found), np.nan)])


def _track(grey_Fhw: Array, pixels_N2: Array) -> tuple[Array, Array]:
    """Positions in the last frame of points of the first, and which of them were tracked throughout."""
    alive = np.ones(len(pixels_N2), bool)
    if not len(pixels_N2):
        return pixels_N2, alive
    now = pixels_N2.astype(np.float32)[:, None]
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for before, after in pairwise(grey_Fhw):
        there, found = _follow(before, after, now, dense)
        back, returned = _follow(after, before, there, dense)
        alive &= found & returned & (np.abs(back - now).max((1, 2)) < ROUND_TRIP)
        now = there
    height, width = grey_Fhw.shape[1:]
    x, y = now[:, 0].T
    alive &= (x > 2) & (x < width - 3) & (y > 2) & (y < height - 3)
    return now[:, 0].astype(float), alive


def _follow(
    before_hw: Array, after_hw: Array, pixels_N12: Array, dense: cv2.DISOpticalFlow
) -> tuple[Array, Array]:
    """Positions in the next frame of points of one frame, and whether they were found.

    Tracking starts from dense flow, as points on repeated texture would otherwise match their neighbours.
    """
    # None, not zeros: OpenCV uses any array as an initial flow, which changes the result.
    flow_hw2 = dense.calc(before_hw, after_hw, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    x, y = np.clip(pixels_N12[:, 0].round().astype(int), 0, np.array(before_hw.shape[::-1]) - 1).T
    start = (pixels_N12 + flow_hw2[y, x][:, None]).astype(np.float32)
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before_hw, after_hw, pixels_N12, start, None, None, WINDOW, LEVELS, STOP, cv2.OPTFLOW_USE_INITIAL_FLOW
    )  # pyright: ignore[reportCallIssue, reportArgumentType]
    return there, found[:, 0] == 1


def _best_turn(a_N3: Array, b_N3: Array, focal: float) -> Array:
    """The rotation that best maps rays to rays (Kabsch, iteratively reweighted)."""
    from_N3, to_N3 = (p / np.linalg.norm(p, axis=1, keepdims=True) for p in (a_N3, b_N3))
    weight, rotation = np.ones(len(a_N3)), np.eye(3)
    for _ in range(ITERATIONS):
        u, _, vt = np.linalg.svd((to_N3 * weight[:, None]).T @ from_N3)
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error = focal * np.linalg.norm(_project(a_N3 @ rotation.T) - b_N3[:, :2], axis=1)
        weight = 1 / (1 + (error / max(0.3, float(np.median(error)))) ** 2)
    return rotation


def _five_point(a_N3: Array, b_N3: Array, focal: float) -> list[tuple[Array, Array]]:
    """RANSAC's five-point solution as one more start; empty when it has none."""
    matrix, _ = cv2.findEssentialMat(
        a_N3[:, :2].copy(), b_N3[:, :2].copy(), np.eye(3), cv2.RANSAC, 0.99, INLIER / focal, maxIters=200
    )
    if matrix is None or matrix.shape != (3, 3):
        return []
    _, rotation, direction, _ = cv2.recoverPose(matrix, a_N3[:, :2].copy(), b_N3[:, :2].copy(), np.eye(3))
    return [(rotation, direction[:, 0])]


def _refine(
    rotation: Array, direction: Array, a_N3: Array, b_N3: Array, focal: float
) -> tuple[Array, Array, float]:
    """Levenberg-Marquardt on the Cauchy loss of the Sampson distance; rotation, direction, loss."""
    error = _sampson(rotation, direction, a_N3, b_N3, focal)
    loss, damping = _cauchy(error), 1e-3
    for _ in range(ITERATIONS):
        jacobian = _jacobian(rotation, direction, a_N3, b_N3, focal, error)
        weighted = jacobian / (NOISE**2 + error**2)[:, None]
        normal = weighted.T @ jacobian
        normal += damping * np.diag(np.diag(normal) + 1e-9)
        change = -np.linalg.solve(normal, weighted.T @ error)
        new = _moved(rotation, direction, change)
        new_error = _sampson(*new, a_N3, b_N3, focal)
        new_loss = _cauchy(new_error)
        if new_loss >= loss:
            damping *= 10
            continue
        gain = (loss - new_loss) / loss
        (rotation, direction), error, loss, damping = new, new_error, new_loss, damping / 5
        if gain < 1e-4:
            break
    return rotation, direction, loss


def _jacobian(
    rotation: Array,
    direction: Array,
    a_N3: Array,
    b_N3: Array,
    focal: float,
    error: Array,
    size: float = 1e-5,
) -> Array:
    """Finite differences (N, 5) of the Sampson distances along the five degrees of freedom."""
    columns = []
    for change in size * np.eye(5):
        moved = _moved(rotation, direction, change)
        columns.append((_sampson(*moved, a_N3, b_N3, focal) - error) / size)
    return np.stack(columns, 1)


def _moved(rotation: Array, direction: Array, change_5: Array) -> tuple[Array, Array]:
    """Rotation turned by three angles, direction moved along two tangents of the sphere."""
    tangent = _unit(np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))]))
    step = change_5[3] * tangent + change_5[4] * np.cross(direction, tangent)
    return cv2.Rodrigues(change_5[:3])[0] @ rotation, _unit(direction + step)


def _sampson(rotation: Array, direction: Array, a_N3: Array, b_N3: Array, focal: float) -> Array:
    """Signed Sampson distance (N,) in pixels to the epipolar constraint ``b' [t]x R a = 0``."""
    x, y, z = direction
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    to_b, to_a = a_N3 @ essential.T, b_N3 @ essential
    steep = np.sqrt((to_b[:, :2] ** 2).sum(1) + (to_a[:, :2] ** 2).sum(1) + 1e-12)
    return focal * (b_N3 * to_b).sum(1) / steep


def _cauchy(error_N: Array) -> float:
    return float(np.log1p((error_N / NOISE) ** 2).sum())


def _nearness(rotation: Array, direction: Array, a_N3: Array, b_N3: Array) -> Array:
    """Length of the translation over depth for every point, from a least-squares fit of its displacement."""
    ray = a_N3 @ rotation.T
    along = b_N3[:, :2] * direction[2] - direction[:2]
    off = ray[:, :2] - b_N3[:, :2] * ray[:, 2:]
    return (along * off).sum(1) / ((along**2).sum(1) + 1e-9)


def _project(rays_N3: Array) -> Array:
    return rays_N3[:, :2] / rays_N3[:, 2:]


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _confidence(inlier_N: Array) -> float:
    return float(inlier_N.mean() * min(1.0, inlier_N.sum() / ENOUGH_INLIERS))
