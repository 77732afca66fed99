"""Write episodes as videos with their controls beside them: what the commands of the package read.

python pusht_export.py --data data/pusht --out recordings --split heldout
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pusht_measure import episodes_of
from pusht_world import FPS, SPEC
from worldcompass.media.video import write_mp4

SCALE = (
    4  # videos halve the resolution of colours; written larger, and averaged down when read, nothing is lost
)


def export(data: Path, out: Path, split: str, count: int) -> None:
    """Write the first episodes of a split."""
    out.mkdir(parents=True, exist_ok=True)
    for index, episode in enumerate(episodes_of(data, split, count)):
        file = out / f"{index:04d}.mp4"
        frames = torch.from_numpy(np.array(episode.frames_Fhw3)).movedim(-1, 1)
        write_mp4(file, frames.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3), FPS)
        given = np.asarray(episode.controls_M22)[1:].reshape(-1, len(SPEC.actions.axes))
        controls = {axis: np.round(given[:, i], 4).tolist() for i, axis in enumerate(SPEC.actions.axes)}
        file.with_suffix(".json").write_text(json.dumps({"controls": controls}), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("recordings"), metavar="FOLDER")
    parser.add_argument("--split", default="heldout", metavar="NAME")
    parser.add_argument("--episodes", type=int, default=64, metavar="N")
    parser.add_argument("--quick", action="store_true", help="two episodes, to see that it works")
    args = parser.parse_args(arguments)
    export(args.data, args.out, args.split, 2 if args.quick else args.episodes)


if __name__ == "__main__":
    main()
