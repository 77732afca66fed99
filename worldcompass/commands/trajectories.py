"""Write camera trajectories as WorldPlay's pose files: JSON, one pose per latent.

Without --path they are random, as in the method's training: motions from a mix, each held for 2 to 16 latents.
Every file has its own seed, made of --seed and its number, so a larger --count keeps the first files. --read shows
which keys the poses of a file mean.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from worldcompass.commands._options import add_out, add_seed, positive
from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass trajectories --count 1000 --latents 128 --out data/poses
  worldcompass trajectories --mix 'move=4, yaw=2, w+left=1' --out data/easy
  worldcompass trajectories --path 'w-15, right-8, w+left-8' --out data/poses
  worldcompass trajectories --read data/poses/path.json    # w-15, right-8, w+left-8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass trajectories``."""
    add_out(parser, "poses", "where the files go")
    add_seed(parser)
    text = "number of random trajectories (default: %(default)s)"
    parser.add_argument("--count", type=positive, default=100, metavar="N", help=text)
    text = "latents of a random trajectory with its start, a multiple of 4 (default: %(default)s)"
    parser.add_argument("--latents", type=positive, default=64, metavar="M", help=text)
    text = (
        "weights of motions: families (move, yaw, pitch, diagonal, turn, move+yaw, move+pitch) or single keys"
    )
    parser.add_argument(
        "--mix", default=None, metavar="NAME=WEIGHT,...", help=f"{text} (default: the method's)"
    )
    text = "one trajectory along this path, such as 'w-3, right-1, w+left-3', instead of random ones"
    parser.add_argument("--path", default=None, metavar="PATH", help=text)
    text = "scene units per latent (default: 0.1, or 0.08 with --path, as WorldPlay does)"
    parser.add_argument("--move", type=float, default=None, metavar="X", help=text)
    text = "degrees per latent (default: 2, or 3 with --path)"
    parser.add_argument("--turn", type=float, default=None, metavar="DEG", help=text)

    text = "print the path that a pose file means, and write nothing"
    parser.add_argument("--read", type=Path, default=None, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the files and print their folder, or print what a file means."""
    if args.read is not None:
        for path in _read(args.read):
            print(path or "the camera stands still")
        from worldcompass.worlds.worldplay.pose_files import CONVENTION

        print(CONVENTION, file=sys.stderr)
        return 0
    from worldcompass.worlds.open.poses import MOTION, TRAINING_MOTION
    from worldcompass.worlds.worldplay import trajectories

    default = TRAINING_MOTION if args.path is None else MOTION
    try:
        motion = trajectories.scaled(default, args.move, args.turn)
        if args.path is None:
            drawn = trajectories.random_trajectories(args.count, args.latents, args.seed, motion, args.mix)
        else:
            drawn = [trajectories.along_path(args.path, motion)]
    except ValueError as mistake:
        raise UserError(str(mistake)) from mistake
    names = [f"{i:05d}.json" for i in range(len(drawn))] if args.path is None else ["path.json"]
    _write(drawn, [args.out / name for name in names])
    print(f"{len(drawn)} trajectories of {len(drawn[0])} latents in {args.out}")
    return 0


def _read(file: Path) -> list[str]:
    from worldcompass.actions import CameraActions
    from worldcompass.worlds.open.poses import MOTION, THRESHOLDS
    from worldcompass.worlds.worldplay.pose_files import read_pose_list

    space = CameraActions(MOTION, THRESHOLDS)
    return [space.path(moves.labels_K.tolist()) for moves in read_pose_list(file)]


def _write(trajectories: list, files: list[Path]) -> None:
    from worldcompass.runs.folder import writable
    from worldcompass.worlds.worldplay.pose_files import write_poses

    if taken := next((file for file in files if file.exists()), None):
        raise UserError(f"{taken} already exists: choose another --out")
    writable(files[0].parent)
    with ExitStack() as undo:  # after a full disk or Ctrl-C the same command starts afresh
        for actions, file in zip(trajectories, files, strict=True):
            undo.callback(file.unlink, missing_ok=True)
            write_poses(actions, file)
        undo.pop_all()
