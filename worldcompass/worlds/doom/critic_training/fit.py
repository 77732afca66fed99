"""Training of critics and judge on engine data, for ``worldcompass doom critics``, and tests on unseen maps.

Three files: ``motion_critic.safetensors`` and ``realism.safetensors`` (split ``critic``) are rewards, and
``judge.safetensors`` (split ``judge``) only scores evaluations. Files hold float16 weights with metadata about
their training. Files with the same seed and data are skipped, so that a stopped training resumes with the next
file; delete a file to train it again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from worldcompass.errors import UserError
from worldcompass.geometry import split_label
from worldcompass.runs.atomic import write_json, write_text
from worldcompass.worlds.doom.critic_training.data import cached_features, load_clips, track
from worldcompass.worlds.doom.critic_training.report import READERS, accuracy_report, robustness_report
from worldcompass.worlds.doom.critics.judge import Judge, match_volumes, mirror_volumes
from worldcompass.worlds.doom.critics.motion import MotionCritic, features_of, mirror_features, mirror_labels
from worldcompass.worlds.doom.critics.realism import Realism, degrade
from worldcompass.worlds.doom.critics.weights import (
    load,
    load_critics,
    load_judge,
    read_facts,
    save,
    tensors_of,
)
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.small import data as recordings

POOL_FRAMES = 12_000  # training frames of a realism network
CLEAN_SHARE = 0.3  # share of undegraded frames
MOTION_WEIGHT = 0.5  # of the regression, relative to the two classifications


@dataclass(frozen=True)
class Part:
    """Training settings of one network."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.05


PARTS = {
    "motion_critic": Part(2000, 256, 2e-3),
    "realism": Part(1000, 64, 2e-3),
    "reader": Part(1800, 192, 2e-3),
    "texture": Part(1500, 64, 2e-3),
}


def fit(
    net: nn.Module, part: Part, words: str, seed: int, loss_of: Callable[[torch.Generator], Tensor]
) -> None:
    """Train a network in place by AdamW, with warm-up and cosine decay over a fixed number of steps."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), part.learning_rate, weight_decay=part.weight_decay)
    net.train()
    smooth, begun = 0.0, time.monotonic()
    for step in track(list(range(part.steps)), f"training: {words}"):
        rate = (
            part.learning_rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / part.steps))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 300 == 299:
            print(
                f"{words}: step {step + 1}, loss {smooth:.3f}, {time.monotonic() - begun:.0f} s", flush=True
            )
    net.eval()


def mixed_batch(sources: list[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random rows, an equal share from every source; (rows, indices)."""
    indices = torch.randint(len(sources[0]), (count,), generator=generator)
    rows = [source[part] for source, part in zip(sources, indices.chunk(len(sources)), strict=True)]
    return torch.cat(rows).float() if rows[0].is_floating_point() else torch.cat(rows), indices


def train_motion_critic(data: Path, cache: Path, seed: int) -> MotionCritic:
    """Train the interaction critic: cross-entropy of translation and rotation, and regression of the motion."""
    clips = load_clips(data, "critic")
    rng = np.random.default_rng((seed, 0))
    sources = [
        cached_features(cache, clips, f"critic-flow-{seed}", features_of, None),
        cached_features(cache, clips, f"critic-flow-{seed}-degraded", features_of, rng),
    ]
    torch.manual_seed(seed)
    net, part = MotionCritic(), PARTS["motion_critic"]
    mirror_motion = torch.tensor([-1.0, 1.0, -1.0, 1.0])

    def loss_of(generator: torch.Generator) -> Tensor:
        features, indices = mixed_batch(sources, part.batch, generator)
        labels, motion = clips.labels_N[indices], clips.motion_N4[indices]
        if torch.rand((), generator=generator) < 0.5:
            features, labels, motion = (
                mirror_features(features),
                mirror_labels(labels),
                motion * mirror_motion,
            )
        translation, rotation, found = net(features)
        return label_loss(translation, rotation, labels) + MOTION_WEIGHT * smooth_l1_loss(
            found, motion, beta=0.3
        )

    fit(net, part, "motion critic", seed, loss_of)
    return net


def train_reader(judge: Judge, data: Path, cache: Path, seed: int) -> None:
    """Train the judge's reader of actions in place: cross-entropy of translation and rotation."""
    clips = load_clips(data, "judge")
    rng = np.random.default_rng((seed, 1))
    sources = [
        cached_features(cache, clips, f"judge-matches-{seed}", match_volumes, None),
        cached_features(cache, clips, f"judge-matches-{seed}-degraded", match_volumes, rng),
    ]
    part = PARTS["reader"]

    def loss_of(generator: torch.Generator) -> Tensor:
        volumes, indices = mixed_batch(sources, part.batch, generator)
        labels = clips.labels_N[indices]
        if torch.rand((), generator=generator) < 0.5:
            volumes, labels = mirror_volumes(volumes), mirror_labels(labels)
        translation, rotation = judge.reader(volumes)
        return label_loss(translation, rotation, labels)

    fit(judge.reader, part, "judge, actions", seed + 1000, loss_of)


def label_loss(translation: Tensor, rotation: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy of both classes with label smoothing, as engine labels near the thresholds are uncertain."""
    true = split_label(labels_B)
    parts = zip((translation, rotation), true, strict=True)
    return sum(
        (cross_entropy(logits, label, label_smoothing=0.03) for logits, label in parts), torch.zeros(())
    )


def degraded_frames(
    shards: list[recordings.Shard[collect.DoomEpisode]], count: int, rng: np.random.Generator, distance: int
) -> tuple[Tensor, Tensor]:
    """Frames uint8 (B, 3, h, w), degraded at random strengths, and the strengths (B,); some are undegraded.

    Args:
        shards: of engine data.
        count: number of frames.
        rng: random numbers.
        distance: number of frames between a frame and the one that may be blended into it.
    """
    frames, strengths = [], []
    for _ in range(count):
        shard = shards[rng.integers(len(shards))]
        episode = shard[rng.integers(len(shard))].frames_Fhw3
        start = rng.integers(len(episode) - distance)
        pair = np.stack([episode[start], episode[start + distance]])
        strength = 0.0 if rng.random() < CLEAN_SHARE else float(rng.uniform(0.03, 1))
        frames.append(degrade(pair, strength, rng)[1] if strength else pair[1])
        strengths.append(strength)
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), torch.tensor(strengths)


def pool_batch(pool: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random frames and strengths from a pool; half of the batches are mirrored."""
    indices = torch.randint(len(pool[0]), (count,), generator=generator)
    frames = pool[0][indices]
    return frames.flip(-1) if torch.rand((), generator=generator) < 0.5 else frames, pool[1][indices]


def train_realism(data: Path, seed: int) -> Realism:
    """Train the realism critic: regression of the strength of a degradation."""
    shards, part = recordings.load(data, "critic", collect.FORMAT), PARTS["realism"]
    pool = degraded_frames(shards, POOL_FRAMES, np.random.default_rng((seed, 2)), distance=3)
    torch.manual_seed(seed)
    net = Realism()

    def loss_of(generator: torch.Generator) -> Tensor:
        frames, strengths = pool_batch(pool, part.batch, generator)
        return smooth_l1_loss(net(frames), strengths, beta=0.1)

    fit(net, part, "realism critic", seed, loss_of)
    return net


def train_texture(judge: Judge, data: Path, seed: int) -> None:
    """Train the judge's realism in place: classification of engine frames and degraded ones."""
    shards, part = recordings.load(data, "judge", collect.FORMAT), PARTS["texture"]
    pool = degraded_frames(shards, POOL_FRAMES, np.random.default_rng((seed, 3)), distance=4)

    def loss_of(generator: torch.Generator) -> Tensor:
        frames, strengths = pool_batch(pool, part.batch, generator)
        return binary_cross_entropy_with_logits(judge.texture(frames), (strengths == 0).float())

    fit(judge.texture, part, "judge, realism", seed + 2000, loss_of)


def train_critics(data: Path, out: Path, seed: int = 0) -> Path:
    """Train the missing networks in ``out``, write the weights and ``accuracy.md``, and return ``out``.

    Features of the clips are stored in the folder ``features`` next to the data.

    Raises:
        UserError: when ``data`` is not a dataset, or a file in ``out`` belongs to another training.
    """
    recordings.load(data, "critic", collect.FORMAT)
    out.mkdir(parents=True, exist_ok=True)
    cache = data.parent / "features"

    def judge_of() -> nn.Module:
        torch.manual_seed(seed + 1000)
        judge = Judge()
        half = cache / f"judge-reader-{seed}.safetensors"
        if half.is_file():
            judge.reader.load_state_dict(tensors_of(half, "reader"))
        else:
            train_reader(judge, data, cache, seed)
            save(judge.reader, half, "reader", {})
        train_texture(judge, data, seed)
        return judge.eval()

    _part(out, "motion_critic", data, seed, lambda: train_motion_critic(data, cache, seed))
    _part(out, "realism", data, seed, lambda: train_realism(data, seed))
    _part(out, "judge", data, seed, judge_of)
    critics, judge = load_critics(out), load_judge(out)
    found = accuracy_report(data, critics.motion, judge)
    robust = robustness_report(data, critics, judge, seed)
    exact = {
        who: {split: found.splits[split][who].exact for split in ("heldout", "unseen")} for who in READERS
    }
    _note(out, "motion_critic", json.dumps(exact["critic"]))
    _note(out, "realism", json.dumps(robust.realism["critic"]))
    _note(out, "judge", json.dumps({**exact["judge"], "realism": robust.realism["judge"]}))
    splits = {split: {who: asdict(row) for who, row in rows.items()} for split, rows in found.splits.items()}
    of_degraded = {"actions": robust.actions, "realism": robust.realism}
    write_json(out / "accuracy.json", {**splits, "robustness": of_degraded}, indent=1)
    write_text(out / "accuracy.md", found.page + robust.page)
    print(found.page + robust.page)
    return out


def _part(out: Path, name: str, data: Path, seed: int, train: Callable[[], nn.Module]) -> None:
    """Train a network unless its file exists."""
    facts = {"seed": str(seed), "dataset": (data / "dataset.json").read_text(encoding="utf-8")}
    path = out / f"{name}.safetensors"
    if path.is_file():
        found = read_facts(path, name)
        if any(found.get(key) != value for key, value in facts.items()):
            raise UserError(
                f"{path} was trained with another seed or dataset: delete it or choose another --out"
            )
        return
    save(train(), path, name, facts)


def _note(out: Path, name: str, accuracy: str) -> None:
    """Add the measured accuracy to a file's metadata, without changing the weights."""
    path = out / f"{name}.safetensors"
    save(load(name, out), path, name, {**read_facts(path, name), "accuracy": accuracy})
