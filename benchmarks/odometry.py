"""OpenCV odometry on engine videos against the engine's exact poses.

``python benchmarks/odometry.py`` plays random episodes on the training and the unseen maps at 320 x 240 (the
odometry's settings were chosen on the critics' maps, ``--maps critic``), estimates the cameras, and prints
rotation error, heading error and the share of right actions. The one threshold for moving is calibrated on the
critics' maps. Milliseconds a step are processor time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.geometry import (
    LabelThresholds,
    camera_motion,
    label_from_motion,
    rotation_angle,
    split_label,
)
from worldcompass.rewards.cameras import CameraPath, calibrated_thresholds
from worldcompass.rewards.odometry import Odometry
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.engine import Engine, poses_from_cameras
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, INTRINSICS, THRESHOLDS
from worldcompass.worlds.doom.engine.maps import CRITIC, TRAINING, UNSEEN, DoomMap

MAPS = {"critic": CRITIC, "training": TRAINING, "unseen": UNSEEN}
# The engine draws pixels 1.2 times as high as wide, as the game did: its vertical focal length is 0.8 heights.
DRAWN_INTRINSICS = (0.5, 0.8, 0.5, 0.5)


@dataclass(frozen=True)
class Seen:
    """One episode: what odometry said and what the engine did."""

    map_name: str
    path: CameraPath
    labels_S: Tensor
    true_SM44: Tensor


def episodes(maps: Sequence[DoomMap], per_map: int, latents: int, size: tuple[int, int], seed: int):
    """Frames (F, 3, h, w) and cameras (F, 5) of random episodes with walls in the way."""
    for doom_map in maps:
        rng = np.random.default_rng((seed, *doom_map.name.encode()))
        with Engine(doom_map, depth=True, frame_size=size) as engine:
            count = 0
            while count < per_map:
                played = collect.play_episode(engine, rng, None, latents)
                if played is not None:
                    count += 1
                    yield doom_map.name, torch.from_numpy(played[0]).movedim(-1, 1), played[1]


def estimate(
    maps: Sequence[DoomMap], args: argparse.Namespace, intrinsics: tuple[float, ...]
) -> tuple[list[Seen], float]:
    estimator, found, seconds = Odometry(per_view=True), [], 0.0
    for name, frames, cameras in episodes(maps, args.episodes, args.latents, tuple(args.size), args.seed):
        begun = time.process_time()
        path = estimator(frames[None], torch.tensor(intrinsics), FRAMES_PER_LATENT)
        seconds += time.process_time() - begun
        poses = poses_from_cameras(cameras)[::FRAMES_PER_LATENT]
        found.append(Seen(name, path, collect.true_labels(cameras)[1:], poses))
    return found, seconds / sum(len(seen.labels_S) for seen in found)


def report(title: str, found: Sequence[Seen], limits: LabelThresholds, seconds: float) -> None:
    labels = torch.cat([seen.labels_S for seen in found])
    motion = torch.cat([seen.path.motion_VS4()[0] for seen in found])
    true = torch.cat([camera_motion(seen.true_SM44[:-1], seen.true_SM44[1:]) for seen in found])
    turn = torch.cat([turn_errors(seen) for seen in found]) / FRAMES_PER_LATENT
    (moved, turned), (did_move, did_turn) = (
        split_label(label_from_motion(motion, limits)),
        split_label(labels),
    )
    moving = did_move > 0
    heading = torch.nn.functional.cosine_similarity(motion[:, :2], true[:, :2]).clamp(-1, 1).acos().rad2deg()
    print(
        f"{title}: {len(labels)} latents, {int(moving.sum())} of them moving, {1000 * seconds:.0f} ms a step"
    )
    print(
        f"  rotation error per frame, degrees: median {turn.median():.3f}, 90% below {turn.quantile(0.9):.3f}"
    )
    print(
        f"  moving latents: heading within 30 degrees {percent(heading[moving] < 30)}, median error"
        f" {heading[moving].median():.1f} degrees; translation class right {percent((moved == did_move)[moving])}"
    )
    print(
        f"  all latents: translation {percent(moved == did_move)}, rotation {percent(turned == did_turn)},"
        f" exact (81) {percent((moved == did_move) & (turned == did_turn))}"
    )
    for name in dict.fromkeys(seen.map_name for seen in found):
        rows = torch.cat([torch.full((len(s.labels_S),), s.map_name == name) for s in found]) & moving
        print(f"    {name:26} heading within 30 degrees {percent(heading[rows] < 30)} of {int(rows.sum())}")


def turn_errors(seen: Seen) -> Tensor:
    """Angle between the seen and the true rotation of every step, degrees."""

    def turns(poses: Tensor) -> Tensor:
        return poses[:-1, :3, :3].transpose(1, 2) @ poses[1:, :3, :3]

    found, true = turns(seen.path.world_from_camera_VS44[0]), turns(seen.true_SM44)
    return rotation_angle(found.transpose(1, 2) @ true)


def percent(right: Tensor) -> str:
    return f"{100 * right.double().mean():.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=["training", "unseen"])
    parser.add_argument("--episodes", type=int, default=2, help="of every map (default: %(default)s)")
    parser.add_argument("--latents", type=int, default=25, help="of an episode (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--nominal-intrinsics", action="store_true", help="the world's instead of the drawn ones"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    intrinsics = INTRINSICS if args.nominal_intrinsics else DRAWN_INTRINSICS
    known, _ = estimate(CRITIC, args, intrinsics)
    limits = calibrated_thresholds([k.path for k in known], [k.labels_S for k in known], THRESHOLDS)
    print(f"threshold for moving, calibrated on the critics' maps: {limits.move:.4f} of the depth in view")
    for name in args.maps:
        found, seconds = (known, float("nan")) if name == "critic" else estimate(MAPS[name], args, intrinsics)
        report(f"{name} maps", found, limits, seconds)


if __name__ == "__main__":
    main()
