"""Evaluation on the embedded world by the held-out judge: weights, the base and the engine.

Measurements are stored in files of a folder and not repeated, so that a stopped evaluation resumes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import (
    KINDS,
    Judge,
    Measured,
    evaluation_of,
    imagine_all,
    measure,
    per_depth,
    pool,
    read_measured,
)
from worldcompass.media import video
from worldcompass.media.progress import progress
from worldcompass.runs.atomic import write_json, write_tensors
from worldcompass.runs.folder import RunFolder, claim, weights_folder
from worldcompass.runs.results import Evaluation, Results, write_results
from worldcompass.types import Scenario
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all, scenarios_hash
from worldcompass.worlds.doom.world import WEIGHTS, DoomWorld, load_doom_world, shipped_weights

HORIZONS = {125: 8, 253: 16, 381: 24}
"""Frames of a rollout: its chunks of 4 latents."""
LATENTS_PER_CHUNK = 4
SHOWN_PER_KIND = 2  # scenarios of each kind in the before/after video
FILMSTRIP_EVERY = 12  # frames between the pictures of a filmstrip


@dataclass(frozen=True)
class Evaluator:
    """Measures engine and models on scenarios, once per folder."""

    folder: RunFolder
    scenarios: Sequence[Scenario]
    judge: Judge
    reader: LabelReader

    def engine(self, spec: WorldSpec) -> Measured:
        """Measures of the engine's videos, the upper bound."""
        path = self.folder.evaluation("engine")
        if not path.exists():
            videos = torch.stack([s.truth.frames_F3hw for s in self.scenarios if s.truth is not None])
            measured = measure(videos, self.scenarios, spec, self.judge, self.reader)
            write_json(path, measured.to_json())
        return read_measured(path)

    def model(self, name: str, world: WorldModel[Any], seeds: Sequence[int]) -> Measured:
        """Measures of a model's videos of all scenarios with every seed; some videos are saved for pictures."""
        path = self.folder.evaluation(name)
        if not path.exists():
            parts = []
            for seed in seeds:
                with progress(f"evaluating the {name} model", len(self.scenarios)) as advance:
                    videos = imagine_all(world, self.scenarios, seed, on_video=advance)
                parts.append(measure(videos, self.scenarios, world.spec, self.judge, self.reader))
                if seed == seeds[0]:
                    kept = {f"{i}": videos[i].contiguous() for i in _shown(self.scenarios)}
                    write_tensors(self.folder.videos(name), kept)
            write_json(path, pool(parts).to_json())
        return read_measured(path)

    def pictures(self, fps: float) -> None:
        """Write before_after.mp4 and the filmstrips from the saved videos of ``base`` and ``trained``."""
        before, after = (load_file(self.folder.videos(name)) for name in ("base", "trained"))
        panels = []
        for key in sorted(before, key=int):
            scenario = self.scenarios[int(key)]
            assert scenario.truth is not None
            columns: list[Tensor] = [before[key], after[key], scenario.truth.frames_F3hw]
            names = ["before", "after", "engine"]
            panels.append(video.side_by_side(columns, names, scale=3))
            strip = video.filmstrips(columns, names, every=FILMSTRIP_EVERY)
            video.save_png(self.folder.filmstrips / f"{scenario.id.replace('/', '_')}.png", strip)
        video.write_mp4(self.folder.comparison, video.stack_rows(panels), fps)


def compare(checkpoints: Sequence[Path], out: Path, frames: int, seed: int, device: str) -> Results:
    """Score weights on the fixed scenarios; write ``out/results.json``, and pictures if there are weights.

    Args:
        checkpoints: run folders or folders of weights, which are evaluated together as ``trained`` (several seeds
        of
            one recipe) and compared with the shipped base. Without any, only the base is evaluated.
        out: a new folder, or one with the same evaluation, which resumes.
        frames: length of the rollouts, a key of ``HORIZONS``; shorter horizons are also reported.
        seed: of the noise.
        device: a device of PyTorch, such as ``cuda``.

    Raises:
        UserError: when weights are missing or wrong, or ``out`` holds something else.
    """
    begun, folder = time.monotonic(), RunFolder(out)
    weights = [weights_folder(path, WEIGHTS.net) for path in checkpoints]
    worlds = [load_doom_world(path, device) for path in weights]
    _claim(folder, [path / WEIGHTS.net for path in (shipped_weights(), *weights)], frames, seed)
    base, plans = load_doom_world(device=device), evaluation_plans()
    with progress("replaying the scenarios in the engine", len(plans)) as advance:
        scenarios = replay_all(plans, LATENTS_PER_CHUNK * HORIZONS[frames], advance)
    evaluator = Evaluator(folder, scenarios, load_judge(), LabelReader(load_critics().motion))
    of_engine = evaluator.engine(base.spec)
    of_base = evaluator.model("base", base, [seed])
    of_trained = _trained(evaluator, worlds, seed)
    sides = {"engine": of_engine, "base": of_base} | ({"trained": of_trained} if of_trained else {})
    results = Results(
        evaluation=evaluation_of(of_engine, pool([of_base] * max(1, len(worlds))), of_trained),
        scenarios_hash=scenarios_hash(scenarios),
        seconds=time.monotonic() - begun,
        horizons={n: _within(n, sides, len(worlds)) for n in HORIZONS if n <= frames},
        per_depth={name: per_depth(side) for name, side in sides.items()},
    )
    write_results(folder.results, results)
    if worlds:
        evaluator.pictures(base.spec.fps)
    return results


def _trained(evaluator: Evaluator, worlds: Sequence[DoomWorld], seed: int) -> Measured | None:
    parts = [
        evaluator.model(f"trained_{i + 1}" if i else "trained", world, [seed])
        for i, world in enumerate(worlds)
    ]
    return pool(parts) if parts else None


def _within(frames: int, sides: dict[str, Measured], runs: int) -> Evaluation:
    """The evaluation of the rollouts' first frames."""
    part = {name: side.first(HORIZONS[frames]) for name, side in sides.items()}
    return evaluation_of(part["engine"], pool([part["base"]] * max(1, runs)), part.get("trained"))


def _claim(folder: RunFolder, weights: Sequence[Path], frames: int, seed: int) -> None:
    """Create the folder, or check that it holds the same evaluation."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    facts = {"weights": digests, "frames": frames, "seed": seed}
    found = claim(folder.path, folder.evaluated, facts, "an evaluation")
    if found is not None and found != facts:
        changed = ", ".join(name for name in facts if found.get(name) != facts[name])
        raise UserError(f"{folder.path} holds an evaluation with other {changed}: choose another --out")


def _shown(scenarios: Sequence[Scenario]) -> list[int]:
    """Indices of the scenarios in the before/after video: the first of each kind on different maps."""
    shown = []
    for kind in KINDS:
        rows = [i for i, s in enumerate(scenarios) if s.kind == kind and s.id.endswith("/0")]
        shown += rows[:SHOWN_PER_KIND]
    return shown
