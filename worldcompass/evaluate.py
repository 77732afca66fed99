"""Evaluation on fixed scenarios with a held-out judge, the engine as upper bound, and paired bootstrap intervals.

Higher is better for every score. No score here is a reward; ``critic_accuracy`` is only reported.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.errors import UserError
from worldcompass.rollout import imagine_video
from worldcompass.runs.metrics import read_object
from worldcompass.runs.results import SIDES, ActionCounts, Count, Curve, Depths, Evaluation
from worldcompass.statistics import UNKNOWN, Crossing, Estimate
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel, WorldSpec

MEASURES = ("judge_accuracy", "critic_accuracy", "quality", "sharpness", "flicker", "drift", "colour")
SHARES = ("judge_accuracy", "critic_accuracy")  # measures between 0 and 1
FOLLOWED = "judge_accuracy"  # the measure of the gap
KINDS = ("combined", "basic")  # of ``ActionSpace.kind``
MOST_COUNTED = 1000  # composites
HELD_OUT, UNSEEN = "heldout", "unseen"  # prefixes of scenario ids: new starts on known maps, and unknown maps


Measure = Callable[[Tensor, Scenario], np.ndarray]
"""(video uint8 (F, 3, h, w), its scenario) -> a value of each frame (F,), higher is better."""


class Reader(Protocol):
    """Reads actions from pixels."""

    def labels(self, frames_PF3hw: Tensor) -> Tensor:
        """Composite action of every latent, int64 (P, M); latent 0 is 0. F is ``spec.num_frames(0, M)``."""
        ...


class Judge(Reader, Protocol):
    """Reads actions and realism from pixels; held out from training."""

    def realism(self, frames_F3hw: Tensor) -> Tensor:
        """Realism of each frame, float32 (F,)."""
        ...


@dataclass(frozen=True)
class Measured:
    """Measures of V videos of D chunks each, by chunk."""

    scenarios: tuple[str, ...]
    kinds: tuple[str, ...]
    values_VD: Mapping[str, np.ndarray]
    asked_VM: np.ndarray
    """Commanded action of every latent, int."""
    read_VM: np.ndarray
    """Action of every latent as read by the judge, int."""

    def select(self, prefix: str) -> Measured:
        """The videos of scenarios whose id starts with ``prefix``."""
        return self._rows([i for i, own in enumerate(self.scenarios) if own.startswith(prefix)])

    def _rows(self, rows: Sequence[int]) -> Measured:
        return Measured(
            tuple(self.scenarios[i] for i in rows),
            tuple(self.kinds[i] for i in rows),
            {name: v[rows] for name, v in self.values_VD.items()},
            self.asked_VM[rows],
            self.read_VM[rows],
        )

    def only(self, scenarios: Collection[str]) -> Measured:
        """The videos of these scenarios."""
        return self._rows([i for i, own in enumerate(self.scenarios) if own in scenarios])

    def first(self, chunks: int, latents_per_chunk: int = 4) -> Measured:
        """The first chunks of every video."""
        values = {name: v[:, :chunks] for name, v in self.values_VD.items()}
        latents = chunks * latents_per_chunk
        return replace(
            self, values_VD=values, asked_VM=self.asked_VM[:, :latents], read_VM=self.read_VM[:, :latents]
        )

    def of_kind(self, kind: str) -> dict[str, np.ndarray]:
        """Every measure of the videos of one kind, by chunk; (V', D)."""
        rows = np.array([k == kind for k in self.kinds])
        return {name: values[rows] for name, values in self.values_VD.items()}

    def to_json(self) -> dict[str, Any]:
        """Lists for ``from_json``."""
        values = {name: v.round(6).tolist() for name, v in self.values_VD.items()}
        actions = {"asked": self.asked_VM.tolist(), "read": self.read_VM.tolist()}
        return {"scenarios": list(self.scenarios), "kinds": list(self.kinds), "values": values, **actions}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measured:
        """The inverse of ``to_json``; ``asked`` and ``read`` are optional.

        Raises:
            ValueError: with the part that is missing or malformed.
        """
        try:
            scenarios, kinds = tuple(data["scenarios"]), tuple(data["kinds"])
            values = {name: np.array(v, float) for name, v in data["values"].items()}
            nothing = [[]] * len(scenarios)
            asked, read = (np.array(data.get(name, nothing), int) for name in ("asked", "read"))
        except (KeyError, TypeError, AttributeError, OverflowError) as why:
            raise ValueError(f"{why} is missing or malformed") from None
        if not all(isinstance(word, str) for word in (*scenarios, *kinds)):
            raise ValueError("scenarios or kinds are malformed: expected names")
        tables = {**values, "asked": asked, "read": read}
        if flat := next((name for name, part in tables.items() if part.size and part.ndim != 2), None):
            raise ValueError(f"{flat} is malformed: expected a list for each video")
        for name, part in {"kinds": kinds, **tables}.items():
            if len(part) != len(scenarios):
                raise ValueError(f"{name} has {len(part)} videos, scenarios has {len(scenarios)}")
        return Measured(scenarios, kinds, values, asked, read)


def read_measured(path: Path) -> Measured:
    """Read the measures of a model or the engine from a run's folder.

    Raises:
        UserError: when the file is missing or malformed.
    """
    data = read_object(path, "an evaluation")
    if not data:
        raise UserError(f"{path.parent} is not a finished run: {path.name} is missing")
    try:
        return Measured.from_json(data)
    except ValueError as why:
        raise UserError(f"{path} is not an evaluation: {why}") from None


def imagine_all(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    seed: int,
    batch: int = 12,
    on_video: Callable[[int], None] = lambda done: None,
    way: str = ROLLOUT,
) -> Tensor:
    """Imagine videos of all scenarios in batches, uint8 (V, F, 3, h, w); noise depends on seed and scenario.

    Args:
        way: of walking, one of ``spec.ways``.
    """
    videos, walking = [], world.spec.ways[way]
    for start in range(0, len(scenarios), batch):
        part = scenarios[start : start + batch]
        keys = ("evaluation", seed)
        videos.append(imagine_video(world, part, keys, walking.chunk_length, walking.num_steps).cpu())
        on_video(min(len(scenarios), start + batch))
    return torch.cat(videos)


def scenarios_hash(scenarios: Sequence[Scenario], space: ActionSpace) -> str:
    """SHA-256 over ids, commands and start images."""
    digest = hashlib.sha256()
    for scenario in scenarios:
        assert scenario.image_3hw is not None
        digest.update(scenario.id.encode())
        digest.update(space.composites(scenario.actions).numpy().tobytes())
        digest.update(scenario.image_3hw.contiguous().numpy().tobytes())
    return digest.hexdigest()


def measure(
    videos_VF3hw: Tensor,
    scenarios: Sequence[Scenario],
    spec: WorldSpec,
    judge: Judge,
    critic: Reader,
    chunk: int = 4,
    more: Mapping[str, Measure] | None = None,
) -> Measured:
    """Score videos against their scenarios' commands and the engine's frames.

    Args:
        videos_VF3hw: uint8, of a model or of the engine, which gives the upper bound.
        scenarios: of the videos, with the engine's continuation.
        spec: of the world.
        judge: reads actions and realism.
        critic: reads actions for ``critic_accuracy``.
        chunk: latents per chunk.
        more: further measures of the world's own, by name.

    Raises:
        ValueError: when a scenario lacks the engine's continuation.
    """
    labels_VM = torch.stack([spec.actions.composites(s.actions) for s in scenarios])
    latents = labels_VM.shape[1]
    own = more or {}
    values: dict[str, list[np.ndarray]] = {name: [] for name in (*MEASURES, *own)}
    read = []
    for video, scenario, labels in zip(videos_VF3hw, scenarios, labels_VM, strict=True):
        if scenario.truth is None:
            raise ValueError(f"scenario {scenario.id} has no engine truth: evaluation needs it")
        truth = scenario.truth.frames_F3hw[: len(video)]
        realism = judge.realism(video).numpy()
        per_frame = {
            "quality": realism,
            "sharpness": -np.abs(np.log(_sharpness(video) / _sharpness(truth))),
            "flicker": _flicker(video),
            "drift": -np.abs(realism - realism[0]),
            "colour": -np.abs(_colour(video) - _colour(truth)).mean(1),
            **{name: of(video, scenario) for name, of in own.items()},
        }
        for name, reader in (("judge_accuracy", judge), ("critic_accuracy", critic)):
            found = reader.labels(video[None])[0]
            values[name].append(_by_chunk((found == labels).numpy().astype(float)[1:], latents, chunk, 1))
            if reader is judge:
                read.append(found.numpy())
        for name, frames in per_frame.items():
            moving = frames[spec.first_latent_frames :]
            values[name].append(_by_chunk(moving, latents, chunk, spec.frames_per_latent))
    kinds = tuple(s.kind for s in scenarios)
    stacked = {name: np.stack(v) for name, v in values.items()}
    return Measured(tuple(s.id for s in scenarios), kinds, stacked, labels_VM.numpy(), np.stack(read))


def _by_chunk(values: np.ndarray, latents: int, chunk: int, per_latent: int) -> np.ndarray:
    """Means over the moving latents of each chunk; the first chunk excludes the start image."""
    borders = [0] + [per_latent * (stop - 1) for stop in range(chunk, latents + 1, chunk)]
    return np.array([values[a:b].mean() for a, b in itertools.pairwise(borders)])


def _colour(frames_F3hw: Tensor) -> np.ndarray:
    """Mean of every channel, in shares of 255; (F, 3)."""
    return (frames_F3hw.float().mean((2, 3)) / 255).numpy()


def _luma(frames_F3hw: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])
    return torch.einsum("fchw,c->fhw", frames_F3hw.float() / 255, weights)


def _sharpness(frames_F3hw: Tensor) -> np.ndarray:
    """Mean absolute difference of neighbouring luma pixels per frame, with a floor for flat walls."""
    luma = _luma(frames_F3hw)
    across = luma.diff(dim=-1).abs().mean(dim=(1, 2)) + luma.diff(dim=-2).abs().mean(dim=(1, 2))
    return across.clamp_min(2e-3).numpy()


def _flicker(frames_F3hw: Tensor) -> np.ndarray:
    """Minus the mean absolute second difference of the luma in time, per frame; the ends copy their neighbours."""
    luma = _luma(frames_F3hw)
    second = (luma[2:] - 2 * luma[1:-1] + luma[:-2]).abs().mean(dim=(1, 2))
    return -torch.cat([second[:1], second, second[-1:]]).numpy()


def evaluation_of(engine: Measured, base: Measured, trained: Measured | None) -> Evaluation:
    """The evaluation on held-out starts, and on unseen places if there are any.

    Base and trained may be pooled over several runs. An engine or a base that all runs share is measured once.
    """

    def summary(prefix: str) -> Evaluation:
        sides = {"engine": engine, "base": base} | ({} if trained is None else {"trained": trained})
        counts = {name: counted for name, side in sides.items() if (counted := followed(side.select(prefix)))}
        return replace(summarise(*_matched(prefix, engine, base, trained)), counts=counts)

    unseen = any(scenario.startswith(UNSEEN) for scenario in base.scenarios)
    return replace(summary(HELD_OUT), unseen=summary(UNSEEN) if unseen else None)


def _matched(
    prefix: str, engine: Measured, base: Measured, trained: Measured | None
) -> tuple[Measured, Measured, Measured | None]:
    """Video by video: engine and base repeated for every run that shares them, where the id begins so."""
    videos = len((trained or base).scenarios)
    of_engine, of_base = (
        pool([side.select(prefix)] * (videos // len(side.scenarios))) for side in (engine, base)
    )
    return of_engine, of_base, None if trained is None else trained.select(prefix)


def with_ways(by_way: Mapping[str, Evaluation]) -> Evaluation:
    """The evaluation of ``rollout``, which carries those of the other ways of walking."""
    return replace(by_way[ROLLOUT], ways={name: found for name, found in by_way.items() if name != ROLLOUT})


def followed(measured: Measured) -> dict[str, Count]:
    """Latents that show the command, by kind of actions; empty for measures without actions."""
    asked, right = measured.asked_VM[:, 1:], (measured.asked_VM == measured.read_VM)[:, 1:]
    rows = {kind: [i for i, own in enumerate(measured.kinds) if own == kind] for kind in KINDS}
    return {kind: Count(int(right[of].sum()), asked[of].size) for kind, of in rows.items() if asked[of].size}


def summarise(engine: Measured, base: Measured, trained: Measured | None) -> Evaluation:
    """Scores of each kind of action.

    Several videos of a scenario are of several seeds; intervals are over scenarios and seeds (``Crossing``).
    ``difference`` and ``gap_closed`` are paired by video.
    """
    sides: dict[str, dict[str, dict[str, Estimate]]] = {side: {} for side in SIDES}
    closed = {}
    for kind in KINDS:
        names = [s for s, k in zip(base.scenarios, base.kinds, strict=True) if k == kind]
        if not names:
            continue
        crossing = Crossing.of(names)
        columns = {
            side: {name: values_VD.mean(1) for name, values_VD in of.items()}
            for side, of in _columns(kind, engine, base, trained).items()
        }
        if trained is not None:
            engine_V, base_V, trained_V = (columns[c][FOLLOWED] for c in ("engine", "base", "trained"))
            closed[kind] = crossing.share_closed(engine_V, base_V, trained_V)
        for side, values in columns.items():
            found = {name: crossing.mean(values_V) for name, values_V in values.items()}
            shares = {} if side == "difference" else {n: found[n].within(0, 1) for n in SHARES if n in found}
            sides[side][kind] = found | shares
    engine_scores, base_scores, trained_scores, differences = (sides[side] for side in SIDES)
    return Evaluation(engine_scores, base_scores, trained_scores, differences, closed)


def _columns(
    kind: str, engine: Measured, base: Measured, trained: Measured | None
) -> dict[str, dict[str, np.ndarray]]:
    """By side and measure: the values of the videos of one kind, (V', D); ``difference`` is paired."""
    columns = {"engine": engine.of_kind(kind), "base": base.of_kind(kind)}
    if trained is not None:
        columns["trained"] = trained.of_kind(kind)
        columns["difference"] = {n: v - columns["base"][n] for n, v in columns["trained"].items()}
    return columns


def gap_share(found: Evaluation, kind: str) -> Estimate:
    """The share of the gap that training closed; unknown when not measured or when the gap is not resolved.

    The gap is resolved when the engine's 95% interval lies above the base's. Dividing by less gives any number.
    """
    closed = found.gap_closed.get(kind, UNKNOWN)
    base, engine = (found.score(side, kind, FOLLOWED) for side in ("base", "engine"))
    return closed if engine.low > base.high else replace(UNKNOWN, n=closed.n)


def gap_text(found: Evaluation, kind: str, between: str = " ") -> str:
    """``gap_share`` as text: a dash when not measured, ``gap not resolved`` when it is not."""
    share = gap_share(found, kind)
    return share.in_percent(between, none="–" if share.n is None else f"gap not{between}resolved")


def per_depth(sides: Mapping[str, Measured]) -> Mapping[str, Depths]:
    """Mean of each chunk by side and kind with 95% intervals, on held-out starts.

    The means over chunks are the scores of ``evaluation_of``, with intervals of the same kind.

    Args:
        sides: ``engine``, ``base`` and, if there are trained weights, ``trained``.
    """
    engine, base, trained = _matched(HELD_OUT, sides["engine"], sides["base"], sides.get("trained"))
    found: dict[str, Depths] = {}
    for kind in KINDS:
        names = [s for s, k in zip(base.scenarios, base.kinds, strict=True) if k == kind]
        if names:
            crossing = Crossing.of(names)
            for side, values in _columns(kind, engine, base, trained).items():
                curves = {n: _curve(crossing.means(v)) for n, v in values.items()}
                found[side] = {**found.get(side, {}), kind: curves}
    return found


def _curve(chunks_D: Sequence[Estimate]) -> Curve:
    mean, low, high = (
        tuple(round(getattr(e, part), 4) for e in chunks_D) for part in ("mean", "low", "high")
    )
    return Curve(mean, low, high)


def per_action(measured: Measured, space: ActionSpace, chunk: int = 4) -> ActionCounts:
    """Counts of each composite action, commanded and followed, per chunk; without the start image.

    Empty for a world with more than ``MOST_COUNTED`` composites: nobody reads a table of them.
    """
    if space.num_composites > MOST_COUNTED:
        return ActionCounts([], [])
    asked, read = measured.asked_VM, measured.read_VM
    counts: tuple[list[list[int]], list[list[int]]] = [], []
    for first in range(0, asked.shape[1] - chunk + 1, chunk):
        part = slice(max(first, 1), first + chunk)
        wanted, right = asked[:, part], asked[:, part] == read[:, part]
        for of, labels in zip(counts, (wanted, wanted[right]), strict=True):
            of.append(np.bincount(labels.ravel(), minlength=space.num_composites).tolist())
    return ActionCounts(*counts, space.rows, space.columns)


def pool(parts: Sequence[Measured]) -> Measured:
    """Combine the videos of several seeds; resampling keeps those of a scenario together by its name."""
    values = {name: np.concatenate([p.values_VD[name] for p in parts]) for name in parts[0].values_VD}
    scenarios = tuple(s for p in parts for s in p.scenarios)
    asked, read = (np.concatenate([getattr(p, name) for p in parts]) for name in ("asked_VM", "read_VM"))
    return Measured(scenarios, tuple(k for p in parts for k in p.kinds), values, asked, read)
