"""Accuracy of critics and judge on held-out episodes, unseen maps and degraded pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldcompass.actions import ROTATIONS, TRANSLATIONS
from worldcompass.geometry import NUM_ROTATIONS, split_label
from worldcompass.worlds.doom.critic_training.data import cached_features, load_clips, read_clips
from worldcompass.worlds.doom.critics.judge import Judge, match_volumes, mirror_volumes
from worldcompass.worlds.doom.critics.motion import (
    MotionCritic,
    features_of,
    labels_of,
    mirror_features,
    mirrored_probabilities,
)
from worldcompass.worlds.doom.critics.realism import ALL_KINDS, STILL_KINDS, degrade
from worldcompass.worlds.doom.critics.weights import Critics
from worldcompass.worlds.doom.engine.collect import map_of
from worldcompass.worlds.doom.engine.facts import ACTIONS, FRAMES_PER_LATENT

READERS = ("critic", "judge")
STRENGTHS = (0.0, 0.2, 0.4, 0.7, 1.0)  # of degradations in the report
TESTED_CLIPS, TESTED_FRAMES = 800, 300  # of the unseen maps, for robustness


@dataclass(frozen=True)
class Accuracy:
    """Percent of right labels, overall and by part, kind and map."""

    latents: int
    exact: float
    translation: float
    rotation: float
    kinds: Mapping[str, float]
    maps: Mapping[str, float]
    confusion: Sequence[Sequence[Sequence[int]]]
    """Counts (2, 9 true, 9 found), of translations and of rotations."""


@dataclass(frozen=True)
class ActionsReport:
    """How well critic and judge read actions."""

    splits: Mapping[str, Mapping[str, Accuracy]]
    """By split and reader."""
    page: str
    """Markdown."""


@dataclass(frozen=True)
class RobustnessReport:
    """What critic and judge still see in degraded frames."""

    actions: Mapping[str, Sequence[float]]
    """Percent of exact actions by reader, at each of ``STRENGTHS``."""
    realism: Mapping[str, Mapping[str, float]]
    """Percent of frames scored above their degraded copy, by reader and ``kind@strength``."""
    page: str
    """Markdown."""


def accuracy_report(
    data: Path, critic: MotionCritic, judge: Judge, splits: tuple[str, ...] = ("heldout", "unseen")
) -> ActionsReport:
    """Accuracy of the actions that critic and judge read, per split."""
    report: dict[str, dict[str, Accuracy]] = {}
    cache = data.parent / "features"
    for split in splits:
        clips = load_clips(data, split)
        flow = cached_features(cache, clips, f"{split}-flow", features_of, None).float()
        volumes = cached_features(cache, clips, f"{split}-matches", match_volumes, None)
        maps = [
            map_of(shard)
            for shard in clips.shards
            for episode in shard
            for _ in range(len(episode.cameras_F5) // FRAMES_PER_LATENT)
        ]
        found = {
            "critic": _read(critic, flow, mirror_features),
            "judge": _read(judge.reader, volumes, mirror_volumes),
        }
        report[split] = {who: accuracy(labels, clips.labels_N, maps) for who, labels in found.items()}
    return ActionsReport(report, _page(report))


def robustness_report(data: Path, critics: Critics, judge: Judge, seed: int) -> RobustnessReport:
    """Accuracy of actions and realism on degraded frames of unseen maps."""
    rng = np.random.default_rng((seed, 4))
    clips = load_clips(data, "unseen")
    chosen = rng.choice(len(clips), min(TESTED_CLIPS, len(clips)), replace=False)
    every = [clip for episode in clips.episodes() for clip in read_clips(episode)]
    labels, picked = clips.labels_N[chosen], [every[i] for i in chosen]
    read: dict[str, list[float]] = {who: [] for who in READERS}
    for strength in STRENGTHS:
        frames = np.stack([degrade(c, strength, rng, STILL_KINDS) if strength else c for c in picked])
        tensor = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
        for who, net in zip(READERS, (critics.motion, judge), strict=True):
            right = labels_of(net.probabilities(tensor)).cpu() == labels
            read[who].append(round(100 * float(right.double().mean()), 1))
    pairs = [clip[[0, -1]] for clip in picked[:TESTED_FRAMES]]
    scores = (critics.realism.score, judge.realism)
    realism = {w: _ranked(f, pairs, seed) for w, f in zip(READERS, scores, strict=True)}
    lines = [
        "",
        "## Degraded frames",
        "",
        f"Exact actions in percent, {len(chosen)} latents of unseen maps:",
        "",
    ]
    lines += ["| strength | critic | judge |", "|---|---|---|"]
    lines += [f"| {s} | {c} | {j} |" for s, c, j in zip(STRENGTHS, *(read[w] for w in READERS), strict=True)]
    lines += ["", f"Percent of {len(pairs)} unseen frames scored above their degraded copy:", ""]
    lines += ["| kind | strength | critic realism | judge realism |", "|---|---|---|---|"]
    lines += [
        f"| {k.replace('@', ' | ')} | {v} | {realism['judge'][k]} |" for k, v in realism["critic"].items()
    ]
    return RobustnessReport(read, realism, "\n".join(lines) + "\n")


def _ranked(score: Callable[[Tensor], Tensor], pairs: list[np.ndarray], seed: int) -> dict[str, float]:
    """Percent of frames with a score above their degraded copy, by ``kind@strength``."""
    rng = np.random.default_rng((seed, 5))

    def scores(clips: list[np.ndarray]) -> Tensor:
        return score(torch.from_numpy(np.stack([clip[-1] for clip in clips])).permute(0, 3, 1, 2))

    clean, result = scores(pairs), {}
    for kind in ALL_KINDS:
        for strength in (0.2, 0.5, 1.0):
            worse = scores([kind(pair, strength, rng) for pair in pairs])
            result[f"{kind.__name__}@{strength}"] = round(100 * float((worse < clean).double().mean()), 1)
    return result


@torch.no_grad()
def _read(net: nn.Module, features: Tensor, mirror: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([labels_of(mirrored_probabilities(net, part, mirror)) for part in features.split(256)])


def accuracy(found_N: Tensor, true_N: Tensor, maps: list[str]) -> Accuracy:
    """Compare labels that were found with true ones, of latents of these maps."""
    exact = (found_N == true_N).double()
    found, true = split_label(found_N), split_label(true_N)
    kinds = np.array([ACTIONS.kind(int(label)) for label in true_N])
    names = np.array(maps)

    def percent(right: Tensor, rows: np.ndarray | None = None) -> float:
        chosen = right if rows is None else right[torch.from_numpy(rows)]
        return round(100 * float(chosen.double().mean()), 1) if len(chosen) else float("nan")

    return Accuracy(
        latents=len(true_N),
        exact=percent(exact),
        translation=percent(found[0] == true[0]),
        rotation=percent(found[1] == true[1]),
        kinds={kind: percent(exact, kinds == kind) for kind in ("none", "basic", "combined")},
        maps={name: percent(exact, names == name) for name in sorted(set(maps))},
        confusion=[confusion(f, t) for f, t in zip(found, true, strict=True)],
    )


def confusion(found_N: Tensor, true_N: Tensor) -> list[list[int]]:
    """Counts (9 true, 9 found)."""
    return torch.bincount(NUM_ROTATIONS * true_N + found_N, minlength=81).reshape(9, 9).tolist()


def _page(report: Mapping[str, Mapping[str, Accuracy]]) -> str:
    """The report in Markdown."""
    lines = ["| maps | reader | latents | exact (81) | translation | rotation | none | basic | combined |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for split, readers in report.items():
        for who, row in readers.items():
            shares = [row.exact, row.translation, row.rotation, *row.kinds.values()]
            lines.append(
                f"| {split} | {who} | {row.latents} | " + " | ".join(f"{s:.1f}" for s in shares) + " |"
            )
    lines += [
        "",
        "Percent of latents. By map, exact:",
        "",
        "| maps | map | critic | judge |",
        "|---|---|---|---|",
    ]
    for split, readers in report.items():
        for name, value in readers["critic"].maps.items():
            lines.append(f"| {split} | {name} | {value:.1f} | {readers['judge'].maps[name]:.1f} |")
    for split, readers in report.items():
        for who, row in readers.items():
            for words, names, table in zip(
                ("translation", "rotation"), (TRANSLATIONS, ROTATIONS), row.confusion, strict=True
            ):
                lines += [
                    "",
                    f"### {split}, {who}: {words}",
                    "",
                    "Rows: the engine's action; columns: the read action.",
                    "",
                ]
                lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
                lines += [
                    f"| {n} | " + " | ".join(map(str, r)) + " |" for n, r in zip(names, table, strict=True)
                ]
    return "\n".join(lines) + "\n"
