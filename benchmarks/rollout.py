"""What clip-level rollout saves against whole videos on an embedded world: forward passes, operations, seconds.

``python benchmarks/rollout.py`` prints a table for N = 4, 8, 16 clips and G = 12 candidates. The ratio of passes is
what the algorithm predicts; the ratios of operations and seconds are measured. Operations depend on no machine.
Both kinds run in turn in one process, so the ratio of seconds holds next to other work too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from worldcompass.cost.kernels import CPU_KERNELS
from worldcompass.cost.profile import CLOCKS
from worldcompass.rollout import Futures, Rollout, RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.types import Scenario
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.doom.world import load_doom_world
from worldcompass.worlds.hands.world import load_hands_world

WORLDS: dict[str, Callable[[], WorldModel[Any]]] = {"doom": load_doom_world, "hands": load_hands_world}
ROLLOUTS: dict[str, Rollout] = {"clip": imagine_groups, "whole": imagine_whole_videos}
CHUNK = 4  # latents
HEAD = (
    f"{'N':>3}{'G':>4}{'clip passes':>13}{'whole':>8}{'ratio':>7}{'clip GFLOP':>12}{'whole':>9}{'ratio':>7}"
    f"{'clip s':>9}{'whole':>8}{'ratio':>7}"
)


def scenario(spec: WorldSpec, num_chunks: int) -> Scenario:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, spec.actions.num_composites, (CHUNK * num_chunks,), generator=generator)
    labels[0] = 0
    image = torch.randint(0, 255, (3, *spec.frame_size), generator=generator, dtype=torch.uint8)
    return Scenario("bench", spec.actions.commanded(labels), image_3hw=image)


def operations(call: Callable[[], list[Futures]]) -> tuple[float, int]:
    """GFLOP and forward passes of one rollout; it also warms up."""
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        futures = call()
    return counter.get_total_flops() / 1e9, sum(part.forward_passes for part in futures)


def row_of(world: WorldModel[Any], request: RolloutRequest, repeats: int, now: Callable[[], float]) -> dict:
    """Passes, operations and median seconds of both kinds, and the ratios of whole videos to clips."""
    gflop, passes = {}, {}
    for name, rollout in ROLLOUTS.items():
        gflop[name], passes[name] = operations(lambda rollout=rollout: rollout(world, request))
    seconds: dict[str, list[float]] = {name: [] for name in ROLLOUTS}
    for _ in range(repeats):
        for name, rollout in ROLLOUTS.items():
            begun = now()
            rollout(world, request)
            seconds[name].append(now() - begun)
    pairs = zip(seconds["clip"], seconds["whole"], strict=True)
    ratios = {"passes": passes["whole"] / passes["clip"], "gflop": gflop["whole"] / gflop["clip"]}
    return {
        "clips": request.chunk + 1,
        "candidates": request.group_size,
        "passes": passes,
        "gflop": gflop,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {**ratios, "seconds": statistics.median(whole / clip for clip, whole in pairs)},
    }


def text_of(row: dict) -> str:
    passes, gflop, seconds, ratios = (row[name] for name in ("passes", "gflop", "seconds", "ratios"))
    return (
        f"{row['clips']:>3}{row['candidates']:>4}"
        f"{passes['clip']:>13}{passes['whole']:>8}{ratios['passes']:>7.2f}"
        f"{gflop['clip']:>12.1f}{gflop['whole']:>9.1f}{ratios['gflop']:>7.2f}"
        f"{seconds['clip']:>9.2f}{seconds['whole']:>8.2f}{ratios['seconds']:>7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=tuple(WORLDS), default="doom")
    parser.add_argument("--clips", type=int, nargs="+", default=[4, 8, 16], metavar="N")
    parser.add_argument("--candidates", type=int, nargs="+", default=[12], metavar="G")
    parser.add_argument("--steps", type=int, default=6, metavar="S", help="denoising steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="as worldcompass profile")
    parser.add_argument("--json", action="store_true", help="one JSON object per row instead of a table")
    args = parser.parse_args()
    world = WORLDS[args.world]()
    if not args.json:
        threads = torch.get_num_threads()
        print(f"{args.world}, {threads} thread(s), {args.steps} denoising steps, medians of {args.clock} s")
        print(HEAD)
    for clips in args.clips:
        for candidates in args.candidates:
            sigmas = world.spec.sigmas(args.steps)
            start = [scenario(world.spec, clips)]
            request = RolloutRequest(start, clips - 1, CHUNK, candidates, (0,), sigmas)
            row = row_of(world, request, args.repeats, CLOCKS[args.clock])
            print(json.dumps(row) if args.json else text_of(row), flush=True)


if __name__ == "__main__":
    main()
