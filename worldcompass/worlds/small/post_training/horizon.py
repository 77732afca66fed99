"""Long videos of a small world: imagined chunk by chunk, measured window by window, and stored block by block.

A block is ``BLOCK`` scenarios. Each side of a block is one file, which appears whole or not at all, so that the
same call resumes, and one for more scenarios adds blocks. Memory holds one window of a block's frames, and the
engine's videos of that block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, Measured, measure, read_measured, scenarios_hash
from worldcompass.judging.horizon import BASE, CHANCE, ENGINE, TRAINED, Horizon, rounded, write_horizon
from worldcompass.media import video
from worldcompass.media.progress import progress
from worldcompass.rollout import go_on
from worldcompass.runs.atomic import write_json, write_tensors
from worldcompass.runs.folder import claim, weights_folder
from worldcompass.runs.metrics import read_object
from worldcompass.seeding import Key
from worldcompass.types import Scenario
from worldcompass.version import __version__
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.small.post_training.evaluation import Exam
from worldcompass.worlds.small.weights import WeightFiles

BLOCK = 4  # scenarios that are imagined together
SHOWN = (0, 125, 250, 500, 1000, 1500)  # frames of a filmstrip, and then every thousandth
SCALE = 3  # of its pictures
WITHIN_A_WINDOW = ("drift",)  # measures that compare with a window's first frame, and so say nothing of depth


@dataclass(frozen=True)
class Asked:
    """What is to be imagined."""

    frames: int = 1500
    """After the start image."""
    window: int = 100
    """Frames between two values of a measure."""
    scenarios: int = 8
    seed: int = 0
    """Of the noise; the scenarios are the same for every seed."""

    def check(self, spec: WorldSpec) -> None:
        """Refuse numbers that do not fit.

        Raises:
            UserError: names the option.
        """
        if self.window % spec.frames_per_latent:
            raise UserError(
                f"--window {self.window} is no multiple of {spec.frames_per_latent}, the frames of one command"
            )
        if self.frames % self.window:
            raise UserError(f"--frames {self.frames} is no multiple of the window of {self.window} frames")
        if self.scenarios % BLOCK:
            raise UserError(
                f"--scenarios {self.scenarios} is no multiple of {BLOCK}, which are imagined together"
            )

    def latents(self, spec: WorldSpec) -> int:
        """Latents of a scenario: whole chunks that hold all frames."""
        length = spec.ways[ROLLOUT].chunk_length
        return -(-(1 + self.frames // spec.frames_per_latent) // length) * length


@dataclass(frozen=True)
class LongWorld:
    """What is needed of a world whose engine can play for long."""

    spec: WorldSpec
    weights: WeightFiles
    load: Callable[[Path | None, str], WorldModel[Any]]
    """The world of a folder of weights, or the shipped one, on a device."""
    scenarios: Callable[[int, int], Sequence[Scenario]]
    """(block, latents) -> its ``BLOCK`` scenarios with the engine's continuation, always the same ones."""
    exam: Callable[[], Exam]
    """The rule is applied to its own measures too: higher is better, and the engine is above chance."""


def look_far(
    of: LongWorld, checkpoint: Path | None, out: Path, asked: Asked, device: str, command: str = ""
) -> Horizon:
    """Imagine long videos and measure them; write ``out/horizon.json`` and a filmstrip of every scenario.

    Args:
        of: the world.
        checkpoint: run folder or folder of weights, compared with the shipped base; None for the base alone.
        out: a new folder, or one of the same call, which is resumed.
        asked: how many and how long.
        device: a device of PyTorch, such as ``cuda``.
        command: stored with the result.

    Raises:
        UserError: when weights are missing or wrong, numbers do not fit, or ``out`` holds something else.
    """
    asked.check(of.spec)
    folders = {BASE: None} | (
        {} if checkpoint is None else {TRAINED: weights_folder(checkpoint, of.weights.net)}
    )
    weights = {name: of.weights.fingerprint(folder) for name, folder in folders.items()}
    _claim(out, of.spec.name, weights, asked)
    worlds = {name: of.load(folder, device) for name, folder in folders.items()}
    ruler = Ruler(of, asked)
    blocks = [Block(out, number, ruler) for number in range(asked.scenarios // BLOCK)]
    chunks = asked.latents(of.spec) // of.spec.ways[ROLLOUT].chunk_length
    work = chunks * (1 + len(worlds))  # the engine's videos take about as long as a model's
    with progress(f"long videos of {of.spec.name}", work * len(blocks)) as advance:
        if not blocks[0].file(ENGINE).exists():
            advance(0)  # the engine's videos count at their end: they are not what was finished before
        for index, block in enumerate(blocks):
            block.run(worlds, lambda done, index=index: advance(done + index * work))
    found = Horizon(
        of.spec.name, asked.frames, asked.window, asked.seed,
        hashlib.sha256("".join(block.hash() for block in blocks).encode()).hexdigest(),
        weights, blocks[0].ruled(), _joined(blocks, (ENGINE, CHANCE, *worlds)), __version__, command,
    )  # fmt: skip
    write_horizon(out / "horizon.json", found)
    for block in blocks:
        block.filmstrips([*worlds, ENGINE])
    return found


def _claim(out: Path, world: str, weights: Mapping[str, str], asked: Asked) -> None:
    """Create the folder, or check that it holds the same videos."""
    facts = {"world": world, "weights": dict(weights), **vars(asked)}
    del facts["scenarios"]  # there may be more of them later
    found = claim(out, out / "asked.json", facts, "long videos")
    if found is not None and found != facts:
        changed = ", ".join(name for name in facts if found.get(name) != facts[name])
        raise UserError(f"{out} holds long videos with other {changed}: choose another --out")


def _joined(blocks: Sequence[Block], sides: Sequence[str]) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for side in sides:
        parts = [read_measured(block.file(side)) for block in blocks]
        values = {m: np.concatenate([p.values_VD[m] for p in parts]) for m in parts[0].values_VD}
        scenarios, kinds = (tuple(x for p in parts for x in getattr(p, n)) for n in ("scenarios", "kinds"))
        nothing = np.zeros((len(scenarios), 0), int)
        found[side] = Measured(scenarios, kinds, values, nothing, nothing)
    return found


@dataclass(frozen=True)
class Ruler:
    """Measures windows of videos; judges are loaded when the first is needed."""

    of: LongWorld
    asked: Asked

    @cached_property
    def exam(self) -> Exam:
        """Who judges."""
        return self.of.exam()

    def window(self, frames_VF3hw: Tensor, scenarios: Sequence[Scenario], index: int) -> Measured:
        """Measures of one window of V videos.

        Args:
            frames_VF3hw: uint8, the window with the frame before it.
            scenarios: of the videos, whole.
            index: of the window.
        """
        exam, spec, size = self.exam, self.of.spec, self.asked.window
        parts = [part_of(s, spec, index * size, size) for s in scenarios]
        latents = len(parts[0].actions)
        found = measure(frames_VF3hw, parts, spec, exam.judge, exam.reader, latents, exam.measures)
        values = {name: v for name, v in found.values_VD.items() if name not in WITHIN_A_WINDOW}
        return rounded(replace(found, values_VD=values))


def part_of(scenario: Scenario, spec: WorldSpec, first: int, count: int) -> Scenario:
    """``count`` frames of a scenario after frame ``first``, which comes along as its latent 0."""
    start = first // spec.frames_per_latent
    stop = start + count // spec.frames_per_latent + 1
    truth = scenario.truth
    assert truth is not None
    truth = truth.part(slice(first, first + count + 1), start, stop)
    return replace(scenario, actions=scenario.actions.latents(start, stop), truth=truth)


@dataclass(frozen=True)
class Block:
    """Some scenarios: the files of what was measured on them."""

    folder: Path
    number: int
    ruler: Ruler

    def file(self, side: str) -> Path:
        """The measures of a side."""
        return self.folder / "blocks" / f"{self.number}_{side}.json"

    def pictures(self, side: str) -> Path:
        """Some frames of a side's videos."""
        return self.folder / "blocks" / f"{self.number}_{side}.safetensors"

    @property
    def facts(self) -> Path:
        """The hash of the scenarios, and the measures of the rule."""
        return self.folder / "blocks" / f"{self.number}.json"

    def hash(self) -> str:
        """Of the scenarios."""
        return str(read_object(self.facts, "a block of scenarios")["hash"])

    def ruled(self) -> tuple[str, ...]:
        """Measures of the rule."""
        return tuple(map(str, read_object(self.facts, "a block of scenarios")["ruled"]))

    def run(self, worlds: Mapping[str, WorldModel[Any]], on_chunk: Callable[[int], None]) -> None:
        """Measure every side that has no file yet; ``on_chunk`` gets the chunks so far, the engine's too."""
        spec, asked = self.ruler.of.spec, self.ruler.asked
        chunks = asked.latents(spec) // spec.ways[ROLLOUT].chunk_length
        if any(not self.file(side).is_file() for side in (ENGINE, CHANCE, *worlds)):
            scenarios = self.ruler.of.scenarios(self.number, asked.latents(spec))
            self._engine(scenarios)
            on_chunk(chunks)
            for index, (name, world) in enumerate(worlds.items(), 1):
                if not self.file(name).is_file():
                    frames = imagined(world, scenarios, ("horizon", asked.seed))
                    self._measure(name, _counted(frames, on_chunk, index * chunks), scenarios)
        on_chunk((1 + len(worlds)) * chunks)

    def _engine(self, scenarios: Sequence[Scenario]) -> None:
        """The engine's videos: each against its own scenario, and against another one, which gives chance."""
        truth = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
        found = {"hash": scenarios_hash(scenarios, self.ruler.of.spec.actions)}
        if self.facts.is_file() and self.hash() != found["hash"]:
            raise UserError(
                f"the engine plays other scenarios than before in {self.folder}: choose another --out"
            )
        write_json(self.facts, {**found, "ruled": [FOLLOWED, *self.ruler.exam.measures]})
        for side, videos in ((ENGINE, truth), (CHANCE, truth.roll(-1, 0))):
            if not self.file(side).is_file():
                self._measure(side, iter([videos]), scenarios)

    def _measure(self, side: str, frames: Iterator[Tensor], scenarios: Sequence[Scenario]) -> None:
        """Measure videos that come in pieces (V, F, 3, h, w), and keep some of their frames."""
        asked = self.ruler.asked
        rest, first, index = (
            next(frames),
            0,
            0,
        )  # frames in hand, the number of their first one, and the window
        found: list[Measured] = []
        shown: dict[int, Tensor] = {}
        while True:
            here = range(first, first + rest.shape[1])
            shown |= {f: rest[:, f - first].clone() for f in shown_of(asked.frames) if f in here}
            while rest.shape[1] > asked.window and index < asked.frames // asked.window:
                found.append(self.ruler.window(rest[:, : asked.window + 1], scenarios, index))
                rest, first, index = rest[:, asked.window :], first + asked.window, index + 1
            coming = next(frames, None)
            if coming is None:
                break
            rest = torch.cat([rest, coming], 1)
        values = {name: np.concatenate([w.values_VD[name] for w in found], 1) for name in found[0].values_VD}
        write_tensors(self.pictures(side), {str(f): x.contiguous() for f, x in shown.items()})
        write_json(self.file(side), replace(found[0], values_VD=values).to_json())

    def filmstrips(self, sides: Sequence[str]) -> None:
        """Write a picture of every scenario: a row a side, the frames of ``shown_of`` from left to right."""
        pictures = {side: load_file(self.pictures(side)) for side in sides}
        frames = shown_of(self.ruler.asked.frames)
        for row, name in enumerate(read_measured(self.file(BASE)).scenarios):
            columns = [torch.stack([of[str(f)][row] for f in frames]) for of in pictures.values()]
            strip = video.filmstrips(columns, sides, 1, SCALE, [f"frame {f}" for f in frames])
            video.save_png(self.folder / "filmstrips" / f"{name.replace('/', '_')}.png", strip)


def shown_of(frames: int) -> list[int]:
    """The frames that a filmstrip shows of a video of so many frames after the first; the last is among them."""
    usual = [*SHOWN, *range(2000, frames, 1000)]
    return [*(f for f in usual if f < frames), frames]


def imagined(
    world: WorldModel[Any], scenarios: Sequence[Scenario], keys: tuple[Key, ...]
) -> Iterator[Tensor]:
    """The frames of ``imagine_video`` chunk by chunk, (V, F, 3, h, w) each, so that none need be kept."""
    length = world.spec.ways[ROLLOUT].chunk_length
    sigmas = world.spec.sigmas(world.spec.ways[ROLLOUT].num_steps)
    row_keys = [(*keys, s.id) for s in scenarios]
    context = world.begin(scenarios)
    for chunk in range(len(scenarios[0].actions) // length):
        past = go_on(world, context, scenarios, range(chunk, chunk + 1), length, row_keys, sigmas)
        context = past.context
        yield past.frames_PF3hw.cpu()


def _counted(frames: Iterator[Tensor], on_chunk: Callable[[int], None], before: int) -> Iterator[Tensor]:
    for count, part in enumerate(frames, before + 1):
        yield part
        on_chunk(count)
