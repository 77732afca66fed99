"""The moving picture of the README: a Hands run's evaluation videos next to the engine's, with the held commands.

Shows every scenario of combined commands whose videos the run keeps, good or bad.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from safetensors.torch import load_file

from worldcompass.media import video
from worldcompass.worlds.hands.evaluation import fixed_scenarios
from worldcompass.worlds.hands.world import SPEC

EVERY = 2  # frames of the videos for one of the picture, which keeps the file small
SCALE = 4
QUALITY = 75  # of WebP, 0 to 100
COLUMNS = ("before", "after", "engine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("docs/images/before_after.webp"))
    args = parser.parse_args()
    before, after = (load_file(args.run / f"videos_{name}.safetensors") for name in ("base", "trained"))
    latents = 1 + len(next(iter(before.values()))) // SPEC.frames_per_latent
    rows = []
    for index, scenario in enumerate(fixed_scenarios(latents)):
        if str(index) in before and scenario.kind == "combined":
            assert scenario.truth is not None
            imagined = [side[str(index)].numpy() for side in (before, after)]
            columns = [*imagined, scenario.truth.frames_F3hw.numpy()]
            rows.append(_with_keys(columns, SPEC.actions.composites(scenario.actions).tolist()))
    frames = video.stack_rows(rows)[::EVERY]
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(frame[::-1].transpose(1, 2, 0)) for frame in frames]
    animation.durations = [round(1000 * EVERY / SPEC.fps)] * len(frames)
    cv2.imwriteanimation(str(args.out), animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    print(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.2f} MB")


def _with_keys(columns: Sequence[np.ndarray], labels: Sequence[int]) -> np.ndarray:
    """The videos under their names, and the held keys next to the name of the last."""
    latents, start = [], 0
    for index, label in enumerate(labels):
        stop = SPEC.num_frames(0, index + 1)
        held = " + ".join(SPEC.actions.words(label)) or "none"
        names = [*COLUMNS[:-1], f"{COLUMNS[-1]}: {held}"]
        latents.append(video.side_by_side([column[start:stop] for column in columns], names, SCALE))
        start = stop
    return np.concatenate(latents)


if __name__ == "__main__":
    main()
