"""``worldcompass doom critics``: train critics and judge on engine data, test them on maps that neither saw.

Three files: ``motion_critic.safetensors`` and ``realism.safetensors`` (split ``critic``) become rewards,
``judge.safetensors`` (split ``judge``) only scores evaluations. Files are weights in float16 with the facts of
their training as metadata. A file that is there with the same seed and data is kept, so that a training that was
stopped goes on with the next part; delete a file to train it again.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from worldcompass.doom import collect
from worldcompass.doom.engine_facts import FRAMES_PER_LATENT, MOTION
from worldcompass.doom.judge import Judge, match_volumes, mirror_volumes
from worldcompass.doom.motion_critic import (
    CLIP_FRAMES,
    MotionCritic,
    features_of,
    labels_of,
    mirror_features,
    mirror_labels,
    mirrored_probabilities,
)
from worldcompass.doom.realism import ALL_KINDS, STILL_KINDS, Realism, degrade
from worldcompass.errors import UserError
from worldcompass.geometry import (
    NUM_ROTATIONS,
    ROTATIONS,
    TRANSLATIONS,
    kind_of_action,
    level_motion,
    split_label,
)

VERSION = 1
FILES = {"motion_critic": MotionCritic, "realism": Realism, "judge": Judge}
COMMAND = "worldcompass doom critics --data data/doom --out worldcompass/weights"
READERS = ("critic", "judge")
STRENGTHS = (0.0, 0.2, 0.4, 0.7, 1.0)  # of degradations in the report
TESTED_CLIPS, TESTED_FRAMES = 800, 300  # of the unseen maps, for robustness
STRONGEST_AUGMENTATION = 0.7  # of realism.degrade, for clips whose motion is read
POOL_FRAMES = 12_000  # frames that a realism network is trained on
CLEAN_SHARE = 0.3  # of the frames of a batch that stay as the engine drew them
MOTION_WEIGHT = 0.5  # of the regression beside the two classifications


@dataclass(frozen=True)
class Part:
    """How one network is trained."""

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


@dataclass(frozen=True)
class Clips:
    """The moving latents of a split: N clips with what really happened."""

    shards: list[collect.Shard]
    labels_N: Tensor
    motion_N4: Tensor
    """Right, forward, yaw and pitch in units of the nominal motion."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def episodes(self) -> list[np.ndarray]:
        """Frames (F, h, w, 3) of every episode, in the order of the labels."""
        return [episode for shard in self.shards for episode in shard.frames_EFhw3]


def load_clips(data: Path, split: str) -> Clips:
    """All latents but the first of every episode of a split."""
    shards = collect.load(data, split)
    labels, motions = [], []
    scale = torch.tensor([MOTION.move, MOTION.move, MOTION.yaw_deg, MOTION.pitch_deg])
    for shard in shards:
        for cameras in shard.cameras_EF5:
            labels.append(collect.true_labels(cameras)[1:])
            poses = collect.latent_poses(cameras)
            motions.append(level_motion(poses[:-1], poses[1:]) / scale)
    return Clips(shards, torch.cat(labels), torch.cat(motions).float())


def read_clips(episode_Fhw3: np.ndarray) -> np.ndarray:
    """Clips (K, 5, h, w, 3) of an episode of 4 K + 1 frames."""
    starts = range(0, len(episode_Fhw3) - FRAMES_PER_LATENT, FRAMES_PER_LATENT)
    return np.stack([episode_Fhw3[s : s + CLIP_FRAMES] for s in starts])


def cached_features(
    cache: Path, clips: Clips, name: str, measure: Callable[[Tensor], Tensor], rng: np.random.Generator | None
) -> Tensor:
    """What ``measure`` finds in every clip, from ``cache`` when it is there; degraded clips when given ``rng``."""
    path = cache / f"{name}.npy"
    if path.is_file():
        found = np.load(path)
        if len(found) == len(clips):
            return torch.from_numpy(found)
    parts = []
    for episode in track(clips.episodes(), f"looking: {name}"):
        frames = read_clips(episode)
        if rng is not None:
            strengths = rng.uniform(0, STRONGEST_AUGMENTATION, len(frames))
            frames = np.stack(
                [degrade(f, s, rng, STILL_KINDS) for f, s in zip(frames, strengths, strict=True)]
            )
        measured = measure(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
        parts.append(measured.half() if measured.is_floating_point() else measured)
    found = torch.cat(parts)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, found.numpy())
    os.replace(partial, path)
    return found


def track(items: list[Any], words: str) -> Iterator[Any]:
    """The items, with a line of progress and the time that remains."""
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield from progress.track(items, description=words)


def fit(
    net: nn.Module, part: Part, words: str, seed: int, loss_of: Callable[[torch.Generator], Tensor]
) -> None:
    """AdamW with warm-up and cosine over a fixed number of steps, in place."""
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
    """Rows drawn at random, an equal share from every source; (rows, indices)."""
    indices = torch.randint(len(sources[0]), (count,), generator=generator)
    rows = [source[part] for source, part in zip(sources, indices.chunk(len(sources)), strict=True)]
    return torch.cat(rows).float() if rows[0].is_floating_point() else torch.cat(rows), indices


def train_motion_critic(data: Path, cache: Path, seed: int) -> MotionCritic:
    """The interaction critic: cross-entropy of translation and rotation, and regression of the motion."""
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
    """The judge's actions: cross-entropy of translation and rotation, in place."""
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
    """Cross-entropy of both classes, smoothed a little, as engine labels at the thresholds are not certain."""
    true = split_label(labels_B)
    parts = zip((translation, rotation), true, strict=True)
    return sum(
        (cross_entropy(logits, label, label_smoothing=0.03) for logits, label in parts), torch.zeros(())
    )


def degraded_frames(
    shards: list[collect.Shard], count: int, rng: np.random.Generator, distance: int
) -> tuple[Tensor, Tensor]:
    """Frames uint8 (B, 3, h, w) at random strengths and the strengths (B,); some as the engine drew them.

    Args:
        distance: frames between a frame and the one that may shine through it.
    """
    frames, strengths = [], []
    for _ in range(count):
        shard = shards[rng.integers(len(shards))]
        episode = shard.frames_EFhw3[rng.integers(len(shard.frames_EFhw3))]
        start = rng.integers(len(episode) - distance)
        pair = np.stack([episode[start], episode[start + distance]])
        strength = 0.0 if rng.random() < CLEAN_SHARE else float(rng.uniform(0.03, 1))
        frames.append(degrade(pair, strength, rng)[1] if strength else pair[1])
        strengths.append(strength)
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), torch.tensor(strengths)


def pool_batch(pool: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames and strengths drawn at random from a pool, half of the batches mirrored."""
    indices = torch.randint(len(pool[0]), (count,), generator=generator)
    frames = pool[0][indices]
    return frames.flip(-1) if torch.rand((), generator=generator) < 0.5 else frames, pool[1][indices]


def train_realism(data: Path, seed: int) -> Realism:
    """The realism critic: regression of the strength of a degradation."""
    shards, part = collect.load(data, "critic"), PARTS["realism"]
    pool = degraded_frames(shards, POOL_FRAMES, np.random.default_rng((seed, 2)), distance=3)
    torch.manual_seed(seed)
    net = Realism()

    def loss_of(generator: torch.Generator) -> Tensor:
        frames, strengths = pool_batch(pool, part.batch, generator)
        return smooth_l1_loss(net(frames), strengths, beta=0.1)

    fit(net, part, "realism critic", seed, loss_of)
    return net


def train_texture(judge: Judge, data: Path, seed: int) -> None:
    """The judge's realism: engine frames against degraded ones, in place."""
    shards, part = collect.load(data, "judge"), PARTS["texture"]
    pool = degraded_frames(shards, POOL_FRAMES, np.random.default_rng((seed, 3)), distance=4)

    def loss_of(generator: torch.Generator) -> Tensor:
        frames, strengths = pool_batch(pool, part.batch, generator)
        return binary_cross_entropy_with_logits(judge.texture(frames), (strengths == 0).float())

    fit(judge.texture, part, "judge, realism", seed + 2000, loss_of)


def train_critics(data: Path, out: Path, seed: int = 0) -> Path:
    """Train what is missing in ``out``, write the weights and ``accuracy.md``, and return ``out``.

    Features of the clips are kept in the folder ``features`` beside the data.

    Raises:
        UserError: when ``data`` is no dataset, or a file in ``out`` belongs to another training.
    """
    collect.load(data, "critic")
    out.mkdir(parents=True, exist_ok=True)
    cache = data.parent / "features"

    def judge_of() -> nn.Module:
        torch.manual_seed(seed + 1000)
        judge = Judge()
        half = cache / f"judge-reader-{seed}.safetensors"
        if half.is_file():
            judge.reader.load_state_dict(_tensors(half, "reader"))
        else:
            train_reader(judge, data, cache, seed)
            save(judge.reader, half, "reader", {})
        train_texture(judge, data, seed)
        return judge.eval()

    _part(out, "motion_critic", data, seed, lambda: train_motion_critic(data, cache, seed))
    _part(out, "realism", data, seed, lambda: train_realism(data, seed))
    _part(out, "judge", data, seed, judge_of)
    critics, judge = load_critics(out), load_judge(out)
    report, text = accuracy_report(data, critics.motion, judge)
    robust, more = robustness_report(data, critics, judge, seed)
    report["robustness"], text = robust, text + more
    exact = {who: {split: report[split][who]["exact"] for split in ("heldout", "unseen")} for who in READERS}
    _note(out, "motion_critic", json.dumps(exact["critic"]))
    _note(out, "realism", json.dumps(robust["realism"]["critic"]))
    _note(out, "judge", json.dumps({**exact["judge"], "realism": robust["realism"]["judge"]}))
    (out / "accuracy.json").write_text(json.dumps(report, indent=1))
    (out / "accuracy.md").write_text(text)
    print(text)
    return out


def _part(out: Path, name: str, data: Path, seed: int, train: Callable[[], nn.Module]) -> None:
    """Train one file unless it is there."""
    facts = {"seed": str(seed), "dataset": (data / "dataset.json").read_text()}
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
    """Write the measured accuracy into a file's metadata; the weights stay as they are."""
    path = out / f"{name}.safetensors"
    save(load(name, out), path, name, {**read_facts(path, name), "accuracy": accuracy})


def save(net: nn.Module, path: Path, name: str, facts: dict[str, str]) -> None:
    """Weights in float16 with their facts, in one file that appears whole."""
    state = net.state_dict().items()
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state
    }
    metadata = {"format": f"worldcompass {name}", "version": str(VERSION), "command": COMMAND, **facts}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    os.replace(partial, path)


def read_facts(path: Path, name: str) -> dict[str, str]:
    """The metadata of a file of weights.

    Raises:
        UserError: when it is missing, of another kind or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with '{COMMAND}'")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): make it again with '{COMMAND}'"
        ) from error
    expected, found = f"worldcompass {name}", facts.get("format", "no format")
    if found != expected:
        raise UserError(
            f"{path} holds {found!r}, expected {expected!r}: choose the file named {name}.safetensors"
        )
    if facts.get("version") != str(VERSION):
        raise UserError(
            f"{path} has version {facts.get('version')}, expected {VERSION}: make it with '{COMMAND}'"
        )
    return facts


def load(name: str, folder: Path | None = None) -> nn.Module:
    """One network of ``FILES`` from ``folder``, by default the package's own weights; float32, evaluating.

    Raises:
        UserError: when the file is missing, of another kind or of another version.
    """
    place = importlib.resources.files("worldcompass") / "weights" if folder is None else folder
    with importlib.resources.as_file(place / f"{name}.safetensors") as path:
        tensors = _tensors(path, name)
    net = FILES[name]()
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit this version of {name}: make it again with '{COMMAND}'"
        ) from error
    return net.eval().requires_grad_(False)


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of a file that is of this kind and version; floats in float32."""
    read_facts(path, name)
    return {
        key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()
    }


@dataclass(frozen=True)
class Critics:
    """The two networks behind the rewards."""

    motion: MotionCritic
    realism: Realism


def load_critics(folder: Path | None = None) -> Critics:
    """The networks behind the rewards, by default with the package's own weights."""
    motion, realism = load("motion_critic", folder), load("realism", folder)
    assert isinstance(motion, MotionCritic) and isinstance(realism, Realism)
    return Critics(motion, realism)


def load_judge(folder: Path | None = None) -> Judge:
    """The held-out judge, by default with the package's own weights."""
    judge = load("judge", folder)
    assert isinstance(judge, Judge)
    return judge


def accuracy_report(
    data: Path, critic: MotionCritic, judge: Judge, splits: tuple[str, ...] = ("heldout", "unseen")
) -> tuple[dict[str, Any], str]:
    """How often critic and judge read what the engine did, per split; numbers and a page in Markdown."""
    report: dict[str, Any] = {}
    cache = data.parent / "features"
    for split in splits:
        clips = load_clips(data, split)
        flow = cached_features(cache, clips, f"{split}-flow", features_of, None).float()
        volumes = cached_features(cache, clips, f"{split}-matches", match_volumes, None)
        maps = [
            s.map_name
            for s in clips.shards
            for e in s.cameras_EF5
            for _ in range(len(e) // FRAMES_PER_LATENT)
        ]
        found = {
            "critic": _read(critic, flow, mirror_features),
            "judge": _read(judge.reader, volumes, mirror_volumes),
        }
        report[split] = {who: accuracy(labels, clips.labels_N, maps) for who, labels in found.items()}
    return report, _page(report)


def robustness_report(data: Path, critics: Critics, judge: Judge, seed: int) -> tuple[dict[str, Any], str]:
    """What degraded frames of unseen maps do to readers and realism networks; numbers and Markdown."""
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
    return {"actions": read, "realism": realism}, "\n".join(lines) + "\n"


def _ranked(score: Callable[[Tensor], Tensor], pairs: list[np.ndarray], seed: int) -> dict[str, float]:
    """Percent of frames that score above their degraded copy, by ``kind@strength``."""
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


def accuracy(found_N: Tensor, true_N: Tensor, maps: list[str]) -> dict[str, Any]:
    """Shares of right labels in percent, overall and by part, kind and map, with confusion counts (true, found)."""
    exact = (found_N == true_N).double()
    found, true = split_label(found_N), split_label(true_N)
    kinds = np.array([kind_of_action(int(label)) for label in true_N])
    names = np.array(maps)

    def percent(right: Tensor, rows: np.ndarray | None = None) -> float:
        chosen = right if rows is None else right[torch.from_numpy(rows)]
        return round(100 * float(chosen.double().mean()), 1) if len(chosen) else float("nan")

    return {
        "latents": len(true_N),
        "exact": percent(exact),
        "translation": percent(found[0] == true[0]),
        "rotation": percent(found[1] == true[1]),
        "kinds": {kind: percent(exact, kinds == kind) for kind in ("none", "basic", "combined")},
        "maps": {name: percent(exact, names == name) for name in sorted(set(maps))},
        "confusion": [confusion(f, t) for f, t in zip(found, true, strict=True)],
    }


def confusion(found_N: Tensor, true_N: Tensor) -> list[list[int]]:
    """Counts (9 true, 9 found)."""
    return torch.bincount(NUM_ROTATIONS * true_N + found_N, minlength=81).reshape(9, 9).tolist()


def _page(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    columns = ("exact", "translation", "rotation")
    lines = ["| maps | reader | latents | exact (81) | translation | rotation | none | basic | combined |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for split, readers in report.items():
        for who, row in readers.items():
            shares = [*(row[c] for c in columns), *row["kinds"].values()]
            lines.append(
                f"| {split} | {who} | {row['latents']} | " + " | ".join(f"{s:.1f}" for s in shares) + " |"
            )
    lines += [
        "",
        "Percent of latents. By map, exact:",
        "",
        "| maps | map | critic | judge |",
        "|---|---|---|---|",
    ]
    for split, readers in report.items():
        for name, value in readers["critic"]["maps"].items():
            lines.append(f"| {split} | {name} | {value:.1f} | {readers['judge']['maps'][name]:.1f} |")
    for split, readers in report.items():
        for who, row in readers.items():
            for words, names, table in zip(
                ("translation", "rotation"), (TRANSLATIONS, ROTATIONS), row["confusion"], strict=True
            ):
                lines += [
                    "",
                    f"### {split}, {who}: {words}",
                    "",
                    "Rows: what happened; columns: what was read.",
                    "",
                ]
                lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
                lines += [
                    f"| {n} | " + " | ".join(map(str, r)) + " |" for n, r in zip(names, table, strict=True)
                ]
    return "\n".join(lines) + "\n"
