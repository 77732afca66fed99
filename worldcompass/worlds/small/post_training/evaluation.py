"""Evaluation of a small world by its held-out judge: weights, the base and the engine.

Measurements are stored in files of a folder and not repeated, so that a stopped evaluation resumes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import (
    KINDS,
    Judge,
    Measure,
    Measured,
    Reader,
    evaluation_of,
    imagine_all,
    measure,
    per_depth,
    pool,
    read_measured,
    scenarios_hash,
    with_ways,
)
from worldcompass.media import video
from worldcompass.media.progress import progress
from worldcompass.runs.atomic import write_json, write_tensors
from worldcompass.runs.folder import RunFolder, claim, weights_folder
from worldcompass.runs.results import Evaluation, Results, write_results
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.small.weights import WeightFiles

SHOWN_PER_KIND = 2  # scenarios of each kind in the before/after video
FILMSTRIP_EVERY = 12  # frames between the pictures of a filmstrip
SCALE = 3  # of the pictures in videos and filmstrips


@dataclass(frozen=True)
class Exam:
    """How a world is evaluated: who reads its videos."""

    judge: Judge
    """Held out from training."""
    reader: Reader
    """The reward's, which is only reported."""
    measures: Mapping[str, Measure] = field(default_factory=dict[str, Measure])
    """Of the world's own, by name."""


@dataclass(frozen=True)
class Evaluator:
    """Measures engine and models on scenarios, once per folder."""

    folder: RunFolder
    scenarios: Sequence[Scenario]
    exam: Exam
    played_every: int = 1
    """The way ``play`` is measured on every so many scenarios of a region and a kind, which saves time."""

    def engine(self, spec: WorldSpec) -> Measured:
        """Measures of the engine's videos, the upper bound."""
        path = self.folder.evaluation("engine")
        if not path.exists():
            videos = torch.stack([s.truth.frames_F3hw for s in self.scenarios if s.truth is not None])
            write_json(path, self._measured(videos, self.scenarios, spec).to_json())
        return read_measured(path)

    def _measured(self, videos_VF3hw: Tensor, scenarios: Sequence[Scenario], spec: WorldSpec) -> Measured:
        exam = self.exam
        return measure(videos_VF3hw, scenarios, spec, exam.judge, exam.reader, more=exam.measures)

    def model(self, name: str, world: WorldModel[Any], seeds: Sequence[int]) -> dict[str, Measured]:
        """Measures of a model's videos of all scenarios with every seed, by way of walking."""
        return {way: self._walked(name, world, seeds, way) for way in world.spec.ways}

    def _walked(self, name: str, world: WorldModel[Any], seeds: Sequence[int], way: str) -> Measured:
        """Measures in one way of walking; some videos of ``rollout`` are saved for pictures."""
        path = self.folder.evaluation(name, way)
        if not path.exists():
            parts, scenarios = [], self.scenarios if way == ROLLOUT else self._played()
            for seed in seeds:
                with progress(f"evaluating the {name} model, {way}", len(scenarios)) as advance:
                    videos = imagine_all(world, scenarios, seed, on_video=advance, way=way)
                parts.append(self._measured(videos, scenarios, world.spec))
                if way == ROLLOUT and seed == seeds[0]:
                    kept = {f"{i}": videos[i].contiguous() for i in _shown(self.scenarios)}
                    write_tensors(self.folder.videos(name), kept)
            write_json(path, pool(parts).to_json())
        return read_measured(path)

    def _played(self) -> list[Scenario]:
        """The scenarios of the way ``play``; an id ends with its number in the region and of the kind."""
        return [s for s in self.scenarios if int(s.id.rpartition("/")[2]) % self.played_every == 0]

    def pictures(self, spec: WorldSpec) -> None:
        """Write before_after.mp4 and the filmstrips from the saved videos of ``base`` and ``trained``."""
        before, after = (load_file(self.folder.videos(name)) for name in ("base", "trained"))
        panels = []
        for key in sorted(before, key=int):
            scenario = self.scenarios[int(key)]
            assert scenario.truth is not None
            columns: list[Tensor] = [before[key], after[key], scenario.truth.frames_F3hw]
            names, keys = (
                ["before", "after", "engine"],
                spec.keys_of_frames(scenario.actions)[: len(before[key])],
            )
            large = [video.above_keys(video.enlarge(video.to_array(c), SCALE), keys) for c in columns]
            panels.append(video.side_by_side(large, names, scale=1))
            strip = video.filmstrips(columns, names, FILMSTRIP_EVERY, SCALE, keys)
            video.save_png(self.folder.filmstrips / f"{scenario.id.replace('/', '_')}.png", strip)
        video.write_mp4(self.folder.comparison, video.stack_rows(panels), spec.fps)


@dataclass(frozen=True)
class Comparison:
    """What is compared on which scenarios."""

    weights: WeightFiles
    load: Callable[[Path | None, str], WorldModel[Any]]
    """The world of a folder of weights, or the shipped one, on a device."""
    scenarios: Callable[[int], Sequence[Scenario]]
    """The fixed scenarios, so many latents long, with the engine's continuation."""
    exam: Callable[[], Exam]
    horizons: Mapping[int, int]
    """Frames of a rollout: its chunks."""


def compare(
    of: Comparison, checkpoints: Sequence[Path], out: Path, frames: int, seed: int, device: str
) -> Results:
    """Score weights on the fixed scenarios; write ``out/results.json``, and pictures if there are weights.

    Args:
        of: the world.
        checkpoints: run folders or folders of weights, which are evaluated together as ``trained`` (several seeds
            of one recipe) and compared with the shipped base. Without any, only the base is evaluated.
        out: a new folder, or one with the same evaluation, which resumes.
        frames: length of the rollouts, a key of the horizons; shorter horizons are also reported.
        seed: of the noise.
        device: a device of PyTorch, such as ``cuda``.

    Raises:
        UserError: when weights are missing or wrong, or ``out`` holds something else.
    """
    begun, folder = time.monotonic(), RunFolder(out)
    assert of.weights.shipped is not None
    weights = [weights_folder(path, of.weights.net) for path in checkpoints]
    worlds = [of.load(path, device) for path in weights]
    _claim(folder, [path / of.weights.net for path in (of.weights.shipped, *weights)], frames, seed)
    base = of.load(None, device)
    scenarios = of.scenarios(base.spec.ways[ROLLOUT].chunk_length * of.horizons[frames])
    evaluator = Evaluator(folder, scenarios, of.exam())
    sides = _sides(evaluator, base, worlds, seed)
    results = Results(
        evaluation=evaluated(sides),
        scenarios_hash=scenarios_hash(scenarios, base.spec.actions),
        walking=base.spec.ways,
        seconds=time.monotonic() - begun,
        horizons={n: evaluated(sides, chunks) for n, chunks in of.horizons.items() if n <= frames},
        per_depth=per_depth(sides[ROLLOUT]),
    )
    write_results(folder.results, results)
    if worlds:
        evaluator.pictures(base.spec)
    return results


Sides = Mapping[str, Measured]
"""Measures of ``engine``, ``base`` and, if there are trained weights, ``trained``."""


def _sides(
    evaluator: Evaluator, base: WorldModel[Any], worlds: Sequence[WorldModel[Any]], seed: int
) -> dict[str, dict[str, Measured]]:
    """Measures of all sides by way of walking; the weights of several seeds are pooled."""
    engine, of_base = evaluator.engine(base.spec), evaluator.model("base", base, [seed])
    trained = [
        evaluator.model(f"trained_{i + 1}" if i else "trained", world, [seed])
        for i, world in enumerate(worlds)
    ]
    return {
        way: {"engine": engine, "base": of_base[way]}
        | ({"trained": pool([one[way] for one in trained])} if trained else {})
        for way in base.spec.ways
    }


def evaluated(sides: Mapping[str, Sides], chunks: int | None = None) -> Evaluation:
    """The evaluation of all ways of walking, within the first chunks of the videos or the whole of them."""
    found = {}
    for way, whole in sides.items():
        part = {name: side.first(chunks) if chunks else side for name, side in whole.items()}
        engine = part["engine"].only(set(part["base"].scenarios))  # fewer scenarios may be played
        found[way] = evaluation_of(engine, part["base"], part.get("trained"))
    return with_ways(found)


def _claim(folder: RunFolder, weights: Sequence[Path], frames: int, seed: int) -> None:
    """Create the folder, or check that it holds the same evaluation."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    facts = {"weights": digests, "frames": frames, "seed": seed}
    found = claim(folder.path, folder.evaluated, facts, "an evaluation")
    if found is not None and found != facts:
        changed = ", ".join(name for name in facts if found.get(name) != facts[name])
        raise UserError(f"{folder.path} holds an evaluation with other {changed}: choose another --out")


def _shown(scenarios: Sequence[Scenario]) -> list[int]:
    """Indices of the scenarios in the before/after video: of each kind the first of each region, then others."""
    shown = []
    for kind in KINDS:
        rows = [i for i, s in enumerate(scenarios) if s.kind == kind]
        firsts = [i for i in rows if scenarios[i].id.endswith("/0")]
        shown += (firsts + [i for i in rows if i not in firsts])[:SHOWN_PER_KIND]
    return shown
