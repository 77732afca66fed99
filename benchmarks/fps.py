"""Frames per second of the embedded world, decoding included.

``python benchmarks/fps.py`` imagines videos with chunks of 1 latent (live play) and of 4, one at a time and in
batches of 12, and prints frames per second of all videos together.
"""

from __future__ import annotations

import argparse
import time

import torch

from worldcompass.rollout import imagine_video
from worldcompass.types import Scenario
from worldcompass.worlds.doom.world import SPEC, load_doom_world


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--latents", type=int, default=24, help="length of a video (24 latents are 93 frames)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: the world's own)")
    args = parser.parse_args()
    world = load_doom_world()
    labels = SPEC.actions.parse("w-4, left-4, w+right-4, d-4, up-2, s+left-99")[: args.latents]
    image = torch.randint(0, 255, (3, 48, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    print(f"threads {torch.get_num_threads()}, {args.steps or SPEC.num_steps} denoising steps")
    print(f"{'chunk':>6} {'videos':>7} {'frames/s':>9}")
    for chunk in SPEC.chunk_lengths:
        for videos in (1, 12):
            scenarios = [
                Scenario(str(i), SPEC.actions.commanded(labels), image_3hw=image) for i in range(videos)
            ]
            rates = []
            for _ in range(3):  # the best of three: the machine may be busy
                begun = time.perf_counter()
                frames = imagine_video(world, scenarios, chunk_length=chunk, num_steps=args.steps)
                rates.append(frames.shape[0] * frames.shape[1] / (time.perf_counter() - begun))
            print(f"{chunk:>6} {videos:>7} {max(rates):>9.0f}", flush=True)


if __name__ == "__main__":
    main()
