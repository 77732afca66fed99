"""The demo's whole training step beside a sequential form of it: what each saving saves, in one run.

``python benchmarks/step.py`` times the step of the demo's recipe on the Doom world in eight forms, in turn, so that
their ratios hold on a busy machine. The second does one thing at a time: a candidate alone with a copy of the
prefix, a noise level alone in a forward pass, weights swapped in and out for every level; ``times`` counts from
there. The first attends its prefix anew for every candidate as well. Each further form has one saving more; the
last is the step as it is. All take the same step: the weights after it are compared. Below stands what scoring
through files, an MP4 per candidate and a JPEG per frame, would add.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import cv2
import torch
from torch import Tensor

from worldcompass.guidance import Guidance
from worldcompass.media import video
from worldcompass.recipes.demo import demo
from worldcompass.recipes.overrides import override
from worldcompass.rollout import (
    Futures,
    Rollout,
    RolloutRequest,
    chunk_actions,
    chunk_noise,
    heated,
    imagine_chunk,
    imagine_groups,
    imagine_past,
    make_group,
    past_generators,
    prefix_passes,
    spread_guidance,
)
from worldcompass.training.preflight import prepare
from worldcompass.training.run import Parts, Run
from worldcompass.training.selection import Rows
from worldcompass.training.step import cache_targets, predict, request_of_step, train_step
from worldcompass.types import Actions
from worldcompass.world import Context, WorldModel

JPEG_QUALITY = 95
Prefix = Literal["anew", "copied", "shared"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Form:
    """One way to carry out the same step."""

    name: str
    rollout: Rollout
    swap_once: bool
    micro_rows: int
    in_pieces: bool = False
    """Whether a batch is cut into pieces that fit into a processor's cache, as ``DoomWorld`` does on a CPU."""


def prefix_of_candidate(
    world: WorldModel[Any], context: Context, actions: Actions, attended: Context, prefix: Prefix
) -> Context:
    """What one candidate looks back at."""
    if prefix == "anew":
        return world.attend(context, actions)
    return copy.deepcopy(attended) if prefix == "copied" else attended


def rollout_in_turn(prefix: Prefix, batched: bool = False) -> Rollout:
    """A rollout scenario by scenario; candidates one by one, or in a batch.

    Args:
        prefix: attended anew for every candidate, attended once and copied, or one that all share.
    """

    def imagine(world: WorldModel[Any], request: RolloutRequest) -> list[Futures]:
        chunk, length, keys, sigmas = request.chunk, request.chunk_length, request.keys, request.sigmas
        result = []
        for scenario in request.scenarios:
            past = imagine_past(world, [scenario], chunk, length, [(*keys, "past", scenario.id)], sigmas)
            actions = chunk_actions(world, [scenario], chunk, length)
            generators = past_generators([(*keys, "past", scenario.id)], chunk)
            attended = heated(world, world.attend(past.context, actions, generators), request.temperature)
            row_keys = [
                (*keys, "future", scenario.id, chunk, request.siblings(scenario).noise_G[g])
                for g in request.own
            ]
            guidance = spread_guidance(world, request, [scenario])
            cleans, frames = [], []
            for rows in torch.arange(len(row_keys)).split(len(row_keys) if batched else 1):
                noise = chunk_noise(world, length, [row_keys[row] for row in rows])
                own = prefix_of_candidate(world, past.context, actions, attended, prefix)
                weights = None if guidance is None else Guidance(guidance.weight_B[rows])
                cleans.append(imagine_chunk(world, own, actions, noise, sigmas, weights))
                frames.append(world.decode(cleans[-1], own))
            group = make_group(world, scenario, torch.cat(frames), past.frames_PF3hw[0], *request.span)
            passes = past.forward_passes + len(row_keys) * (len(sigmas) - 1) + prefix_passes(past.context)
            result.append(Futures((group,), torch.cat(cleans), actions, attended, passes))
        return result

    return imagine


def targets_in_turn(run: Run, updates: list[list[Rows]]) -> list[list[Rows]]:
    """The fixed predictions with the weights swapped in and out again for every forward pass."""
    everywhere = max(run.config.learning.kl_weight, run.config.learning.mean_weight) > 0
    result = []
    for u, micro_batches in enumerate(updates):
        rows_of_update = []
        for m, rows in enumerate(micro_batches):
            with run.policy.behaviour(), torch.no_grad():
                rows = replace(rows, behaviour_BCKHW=predict(run, rows))
            if everywhere or u == m == 0:
                with run.policy.reference(), torch.no_grad():
                    rows = replace(rows, reference_BCKHW=predict(run, rows))
            rows_of_update.append(rows)
        result.append(rows_of_update)
    return result


def forms(micro_rows: int) -> list[Form]:
    """From one thing at a time to the step as it is."""
    batched = rollout_in_turn("shared", batched=True)
    return [
        Form("one at a time, prefix anew", rollout_in_turn("anew"), False, 1),
        Form("prefix attended once and copied", rollout_in_turn("copied"), False, 1),
        Form("prefix shared", rollout_in_turn("shared"), False, 1),
        Form("candidates in one batch", batched, False, 1),
        Form("weights swapped once", batched, True, 1),
        Form("scenarios in one batch", imagine_groups, True, 1),
        Form("noise levels in one forward", imagine_groups, True, micro_rows),
        Form("batches in pieces for the cache", imagine_groups, True, micro_rows, in_pieces=True),
    ]


def take_step(run: Run, form: Form, step: int, clock: Callable[[], float]) -> tuple[float, Tensor]:
    """Seconds of the step from the start weights in one form, and the change of all weights."""
    run.policy.start_over()
    run.optimizer.state.clear()
    run = replace(run, config=run.config.changed(rollout=form.rollout, micro_rows=form.micro_rows))
    targets = cache_targets if form.swap_once else targets_in_turn
    with ExitStack() as patches:
        patches.enter_context(patch("worldcompass.training.step.cache_targets", targets))
        if not form.in_pieces:
            for limit in ("ROWS_PER_THREAD", "CLIPS_PER_THREAD"):
                patches.enter_context(patch(f"worldcompass.worlds.small.world.{limit}", sys.maxsize))
        begun = clock()
        train_step(run, step)
        seconds = clock() - begun
    start = run.policy.reference_weights
    return seconds, torch.cat([(p.detach() - start[name]).flatten() for name, p in run.policy.live.items()])


def through_files(parts: Parts, step: int, run: Run, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds to write and read again the candidates of a step, as MP4s and then their frames as JPEGs."""
    scenarios = parts.scenarios[: run.config.sampling.prompts_per_step]
    with run.policy.behaviour():
        futures = imagine_groups(parts.world, request_of_step(run, step, scenarios))
    candidates = [frames for part in futures for group in part.groups for frames in group.frames_GF3hw]
    with tempfile.TemporaryDirectory() as folder:
        begun = clock()
        read = [
            video.read_video(video.write_mp4(Path(folder) / f"{i}.mp4", frames, parts.world.spec.fps))
            for i, frames in enumerate(candidates)
        ]
        after_mp4 = clock()
        for i, frames in enumerate(read):
            _through_jpegs(Path(folder) / f"{i}", frames)
        return {"MP4": after_mp4 - begun, "JPEG": clock() - after_mp4}


def _through_jpegs(stem: Path, frames_F3hw: Tensor) -> None:
    for f, picture in enumerate(frames_F3hw.movedim(1, -1).numpy()):
        path = f"{stem}_{f}.jpg"
        cv2.imwrite(path, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        cv2.imread(path)


def measure(parts: Parts, step: int, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Median seconds of every form, how far each one's weights are from the real step's, and the file traffic."""
    run = prepare(parts)
    seconds: dict[str, list[float]] = {}
    change: dict[str, Tensor] = {}
    every = forms(parts.config.learning.micro_rows)
    _, real = take_step(run, every[-1], step, clock)  # warms up
    for _ in range(repeats):
        for form in every:
            spent, change[form.name] = take_step(run, form, step, clock)
            seconds.setdefault(form.name, []).append(spent)
    return {
        "step": step,
        "threads": torch.get_num_threads(),
        "seconds": {name: statistics.median(spent) for name, spent in seconds.items()},
        "difference": {name: float((d - real).norm() / real.norm()) for name, d in change.items()},
        "files": through_files(parts, step, run, clock),
    }


def lines(found: dict[str, Any]) -> Sequence[str]:
    """The table."""
    seconds, files = found["seconds"], found["files"]
    anew, copied, *_, last = seconds.values()
    rows = [f"step {found['step']}, {found['threads']} thread(s), {found['clock']} seconds"]
    rows.append(f"{'form':<34}{'seconds':>9}{'saved':>9}{'times':>8}{'weights differ by':>19}")
    before = anew
    for name, spent in seconds.items():
        change = f"{found['difference'][name]:.1e}"
        rows.append(f"{name:<34}{spent:>9.2f}{before - spent:>9.2f}{copied / spent:>8.2f}{change:>19}")
        before = spent
    rows.append(
        f"without file traffic: {copied / last:.2f} times faster in sum than with a copied prefix, "
        f"{anew / last:.2f} times than with one attended anew"
    )
    added = sum(files.values())
    rows.append(
        f"scoring through files would add {files['MP4']:.2f} s (MP4) and {files['JPEG']:.2f} s (JPEG), "
        f"{added / last:.0%} of the step"
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=6, metavar="N", help="scenarios of the step")
    parser.add_argument("--candidates", type=int, default=12, metavar="G")
    parser.add_argument("--step", type=int, default=3, help="number of the step; its chunk is the one before")
    text = "cpu counts what this process computes, also beside others (default: %(default)s)"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=text)
    parser.add_argument("--repeats", type=int, default=2, help="timed rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    chosen = min(6, args.candidates // 2)
    settings = {
        "best": chosen,
        "worst": chosen,
        "group_size": args.candidates,
        "prompts_per_step": args.prompts,
    }
    per_map = -(-args.prompts // 4)  # four training maps
    changes = [f"config.{k}={v}" for k, v in settings.items()] + [f"scenarios_per_map={per_map}"]
    parts = override(demo(), changes).parts("cpu")
    found = measure(parts, args.step, args.repeats, CLOCKS[args.clock]) | {"clock": args.clock}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
