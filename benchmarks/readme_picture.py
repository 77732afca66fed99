"""The moving picture of the README: a run's evaluation videos next to the engine's, with the keys that are held.

Shows every scenario of combined actions whose videos the run keeps, good or bad.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from safetensors.torch import load_file

from worldcompass.media import video
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.world import SPEC

EVERY = 2  # frames of the videos for one of the picture, which keeps the file small
SCALE = 4
QUALITY = 75  # of WebP, 0 to 100
COLUMNS = ("before", "after", "game")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("docs/images/before_after.webp"))
    args = parser.parse_args()
    before, after = (load_file(args.run / f"videos_{name}.safetensors") for name in ("base", "trained"))
    plans = {index: plan for index, plan in enumerate(evaluation_plans()) if str(index) in before}
    rows = []
    for index, plan in plans.items():
        if plan.kind == "combined":
            imagined = [side[str(index)].numpy() for side in (before, after)]
            [scenario] = replay_all([plan], 1 + len(imagined[0]) // SPEC.frames_per_latent)
            assert scenario.truth is not None
            columns = [*imagined, scenario.truth.frames_F3hw.numpy()]
            rows.append(_with_keys(columns, scenario.actions.labels_K.tolist()))
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
        names = [*COLUMNS[:-1], f"{COLUMNS[-1]}    keys: {held}"]
        latents.append(video.side_by_side([column[start:stop] for column in columns], names, SCALE))
        start = stop
    return np.concatenate(latents)


if __name__ == "__main__":
    main()
