"""Training of the pick-up detector on engine scenes, for ``worldcompass doom pickup-critic``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from worldcompass.runs.atomic import write_json
from worldcompass.worlds.doom.critic_training.fit import Part, fit
from worldcompass.worlds.doom.critic_training.pickup_data import SPLITS, SceneFrames, collect_scenes
from worldcompass.worlds.doom.critic_training.pickup_score import Verdict, judge_marks, mark
from worldcompass.worlds.doom.critics.pickup import PickupReader, prepared
from worldcompass.worlds.doom.critics.weights import PICKUP, load_pickup_reader, read_facts, save
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT
from worldcompass.worlds.doom.engine.items import ITEMS
from worldcompass.worlds.doom.engine.pickup_scenes import LATENTS, Played
from worldcompass.worlds.doom.rewards.pickup import PickupFollowing

PART = Part(steps=1000, batch=12, learning_rate=2e-3, weight_decay=0.1)
SCENES = {"train": 20, "heldout": 5, "unseen": 16}  # of each map
WHOLE_WEIGHT = 1.0  # of the loss for the whole clip, relative to that of its latents
SHIFT = 2  # largest horizontal shift of a clip, pixels
BRIGHTEST, TINT = 0.25, 0.1  # largest shifts of brightness and of each channel, in the range -1 to 1
GRAIN = 0.08  # largest standard deviation of added grain


@dataclass(frozen=True)
class Labelled:
    """All clips of a split in memory."""

    pictures_NT3hw: Tensor
    """uint8, the last frame of every latent."""
    taken_NMI: Tensor
    """float32: 1 if the item is taken in the latent, M = 11 moving latents."""


def labelled(maps: Sequence[SceneFrames]) -> Labelled:
    """Load all clips with the engine's events."""
    pictures, taken = [], []
    for held in maps:
        for scene, frames in zip(held.scenes, held.frames_SGFhw3, strict=True):
            pictures.append(torch.from_numpy(np.array(frames[:, ::FRAMES_PER_LATENT])).movedim(-1, 2))
            truth = torch.zeros(len(frames), LATENTS - 1, len(ITEMS))
            for clip, event in enumerate(scene.taken):
                if event is not None:
                    item = next(i for i, item in enumerate(ITEMS) if item.word == event[0])
                    truth[clip, event[1] - 1, item] = 1
            taken.append(truth)
    return Labelled(torch.cat(pictures), torch.cat(taken))


def pickup_loss(logits_BMI: Tensor, taken_BMI: Tensor) -> Tensor:
    """Cross-entropy of every latent, and of the whole clip, assuming independent latents."""
    per_latent = binary_cross_entropy_with_logits(logits_BMI, taken_BMI)
    log_never = logsigmoid(-logits_BMI.double()).sum(1)  # log of the chance that no latent takes it
    log_ever = torch.log(-torch.expm1(log_never.clamp_max(-1e-9)))
    ever = taken_BMI.amax(1)
    whole = -(ever * log_ever + (1 - ever) * log_never).mean()
    return per_latent * taken_BMI.shape[1] + WHOLE_WEIGHT * whole.float()


def varied(pictures_BT3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Augment clips by light, contrast, grain and shift; half of the batches are mirrored."""

    def drawn(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

    size = len(pictures_BT3hw)
    light = BRIGHTEST * drawn(size, 1, 1, 1, 1) + TINT * drawn(size, 1, 3, 1, 1)
    contrast = 1 + 0.2 * drawn(size, 1, 1, 1, 1)
    grain = GRAIN * torch.rand((), generator=generator)
    changed = pictures_BT3hw * contrast + light
    changed = changed + grain * torch.randn(
        1, *changed.shape[1:], generator=generator
    )  # one for all: it takes time
    across = int(torch.randint(-SHIFT, SHIFT + 1, (), generator=generator))
    changed = changed.roll(across, -1)
    return changed.flip(-1) if torch.rand((), generator=generator) < 0.5 else changed


def train_reader(data: Labelled, seed: int, part: Part = PART) -> PickupReader:
    """Train the detector from random weights."""
    torch.manual_seed(seed)
    net = PickupReader()

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(data.pictures_NT3hw), (part.batch,), generator=generator)
        pictures = varied(prepared(data.pictures_NT3hw[rows]), generator)
        return pickup_loss(net(pictures), data.taken_NMI[rows])

    fit(net, part, "pick-up critic", seed, loss_of)
    return net


def collect_splits(
    data: Path, seed: int = 0, on_scene: Callable[[], None] = lambda: None
) -> dict[str, list[SceneFrames]]:
    """Draw the missing scenes of all splits and open them.

    Raises:
        UserError: when ``data`` holds other scenes.
    """
    return {name: collect_scenes(data, name, SCENES[name], seed, on_scene) for name in SPLITS}


def train_pickup_critic(splits: dict[str, list[SceneFrames]], out: Path, seed: int = 0) -> dict[str, Verdict]:
    """Train unless the weights exist, test, and write ``pickup.json`` next to them.

    Raises:
        UserError: when ``out`` holds weights of another kind or version.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{PICKUP}.safetensors"
    facts = {"seed": str(seed), "scenes": json.dumps(SCENES)}
    if not path.is_file():
        save(train_reader(labelled(splits["train"]), seed), path, PICKUP, facts)
    critic = PickupFollowing(load_pickup_reader(out))
    verdicts = {
        name: judge_marks(mark(critic, [p for held in splits[name] for p in played_of(held)]))
        for name in ("heldout", "unseen")
    }
    ranked = {name: round(v.accuracy.mean, 4) for name, v in verdicts.items()}
    save(load_pickup_reader(out), path, PICKUP, {**read_facts(path, PICKUP), "accuracy": json.dumps(ranked)})
    write_json(out / f"{PICKUP}.json", {n: v.to_json() for n, v in verdicts.items()}, indent=1)
    return verdicts


def played_of(held: SceneFrames) -> list[Played]:
    """The scenes of a map as input for critics."""
    return [
        Played(scene, torch.from_numpy(np.array(frames)).movedim(-1, 2).contiguous())
        for scene, frames in zip(held.scenes, held.frames_SGFhw3, strict=True)
    ]
