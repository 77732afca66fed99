"""Clip-level against whole-video rollout on the embedded world: forward passes and seconds, both batched.

``python benchmarks/rollout.py`` prints a table for N = 4, 8, 16 clips and G = 12 candidates. Both kinds run in
turn in one process, so their ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.types import Scenario
from worldcompass.worlds.doom.world import SPEC, load_doom_world


def scenario(num_chunks: int) -> Scenario:
    labels = torch.randint(0, 81, (4 * num_chunks,), generator=torch.Generator().manual_seed(0))
    labels[0] = 0
    image = torch.randint(0, 255, (3, 48, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Scenario("bench", SPEC.actions.commanded(labels), image_3hw=image)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[4, 8, 16], metavar="N")
    parser.add_argument("--candidates", type=int, default=12, metavar="G")
    parser.add_argument("--steps", type=int, default=6, metavar="S", help="denoising steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per row instead of a table"
    )
    args = parser.parse_args()
    world = load_doom_world()
    sigmas = SPEC.sigmas(args.steps)
    if not args.json:
        print(
            f"threads {torch.get_num_threads()}, G = {args.candidates}, {args.steps} denoising steps, medians"
        )
        print(f"{'N':>3} {'clip passes':>12} {'whole passes':>13} {'clip s':>8} {'whole s':>8} {'ratio':>6}")
    for clips in args.clips:
        times: dict[str, list[float]] = {"clip": [], "whole": []}
        passes = {}
        request = RolloutRequest([scenario(clips)], clips - 1, 4, args.candidates, (0,), sigmas)
        for repeat in range(args.repeats + 1):
            for name, rollout in (("clip", imagine_groups), ("whole", imagine_whole_videos)):
                begun = time.perf_counter()
                futures = rollout(world, request)
                if repeat:  # the first round warms up
                    times[name].append(time.perf_counter() - begun)
                passes[name] = sum(f.forward_passes for f in futures)
        clip, whole = (statistics.median(times[n]) for n in ("clip", "whole"))
        ratio = statistics.median(w / c for c, w in zip(times["clip"], times["whole"], strict=True))
        row = {"clips": clips, "passes": passes, "seconds": {"clip": clip, "whole": whole}, "ratio": ratio}
        text = (
            f"{clips:>3} {passes['clip']:>12} {passes['whole']:>13} {clip:>8.2f} {whole:>8.2f} {ratio:>6.2f}"
        )
        print(json.dumps(row) if args.json else text, flush=True)


if __name__ == "__main__":
    main()
