"""Training of the critics' network and of the judge on recordings, resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from worldcompass.errors import UserError
from worldcompass.rollout import computes_bf16
from worldcompass.seeding import generator_for
from worldcompass.training.optim import muon
from worldcompass.training.stage import Stage, StageRun
from worldcompass.worlds.hands.critic_training.data import MUSH, Labelled, labelled, spoil, spots_of
from worldcompass.worlds.hands.critic_training.drawn import drawn
from worldcompass.worlds.hands.critics.judge import HandsJudge, planes_of
from worldcompass.worlds.hands.critics.reader import Maps, SceneReader
from worldcompass.worlds.hands.critics.weights import JUDGE, READER, load_reader
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode
from worldcompass.worlds.hands.world import load_hands_world
from worldcompass.worlds.small.data import Shard, load
from worldcompass.worlds.small.linear import LinearCode

FRAMES_PER_STEP = 64
READER_STEPS, JUDGE_STEPS = 7000, 800
FURTHER_STEPS, FURTHER_RATE = 2000, 2e-3  # of a reader that goes on from weights
DRAWN = 0.5  # share of the reader's frames that are as the world draws them
FINDER_STEPS = 8000
PLAIN_SHARE = 0.4  # of frames that the judge finds the gripper in as they are
CHUNK = 256  # frames that are spoilt at once
LEARNING_RATE, WARMUP = 4e-3, 30  # of Muon; steps
SPOTS, COLOUR, HEIGHT = 0.2, 4.0, 1.0  # weights besides the gripper's
PRINTED = 2  # held-out shards of the measure that the log shows


def loss_of(maps: Maps, batch: Labelled, mush_B: Tensor) -> Tensor:
    """Likelihood of the gripper's place, cross-entropy of the spots, and errors of colour and height at them.

    Pictures that show nothing have no things; of the gripper they teach that its place is not known.
    """
    grip = place_loss(maps.grip_N4, maps.spread_N4, batch.grip_B4)
    spots = spots_of(batch) * ~mush_B[:, None, None, None]
    found = binary_cross_entropy_with_logits(maps.spots_NTyx, spots, reduction="none").sum((-2, -1)).mean()
    share = spots / spots.sum().clamp_min(1e-6)
    colour = smooth_l1_loss(
        maps.colours_NT3yx,
        batch.colour_BT3[..., None, None].expand_as(maps.colours_NT3yx),
        beta=0.05,
        reduction="none",
    )
    height = smooth_l1_loss(
        maps.heights_NTyx,
        batch.height_BT[..., None, None].expand_as(maps.heights_NTyx),
        beta=0.2,
        reduction="none",
    )
    return (
        grip + SPOTS * found + COLOUR * (share[:, :, None] * colour).sum() + HEIGHT * (share * height).sum()
    )


def place_loss(found_N4: Tensor, spread_N4: Tensor, true_N4: Tensor) -> Tensor:
    """Negative log-likelihood of the gripper's true place.

    Each term is weighed by its own deviation, held fixed, so that unsure frames still teach (arXiv 2203.09168).
    """
    loss = ((found_N4 - true_N4) / spread_N4).square() / 2 + spread_N4.log()
    return (loss * spread_N4.detach()).mean() / spread_N4.detach().mean()


def shards_of(data: Path, who: Literal["critics", "judge"]) -> list[Shard[HandsEpisode]]:
    """Training recordings: every second shard is the critics', the others are the judge's."""
    return load(data, "train", FORMAT)[("critics", "judge").index(who) :: 2]


def train_reader(
    data: Path, out: Path, steps: int | None = None, seed: int = 0, start: Path | None = None
) -> SceneReader:
    """Train or resume the critics' network; its state lies in ``out``.

    It reads the engine's pictures and the world's own, which show the same moments a little differently.

    Args:
        data: recordings.
        out: where the state lies.
        steps: ``READER_STEPS`` by default, or ``FURTHER_STEPS`` from weights.
        seed: of the weights and batches.
        start: a folder of weights to go on from.

    Raises:
        UserError: when ``data`` is not a dataset, or ``start`` has no weights that fit.
    """
    shards, heldout, world = shards_of(data, "critics"), load(data, "heldout", FORMAT), load_hands_world()
    torch.manual_seed(seed)
    net = load_reader(start).train().requires_grad_(True) if start else SceneReader()
    steps = steps or (FURTHER_STEPS if start else READER_STEPS)
    known = labelled(shards, "train", np.random.default_rng((seed, 0)), draw=partial(drawn, world))
    rate = FURTHER_RATE if start else LEARNING_RATE
    run = StageRun(Stage(READER.name, 0, rate, WARMUP), net, out, "cpu", muon)
    narrow = computes_bf16(torch.device("cpu"))

    def loss(step: int) -> Tensor:
        generator = generator_for(seed, "critics", step)
        batch = known.pick(torch.randint(len(known.near_B), (FRAMES_PER_STEP,), generator=generator))
        near = known.frames_B3hw[batch.near_B]
        by_world = torch.rand(len(near), 1, 1, 1, generator=generator) < DRAWN
        shown = torch.where(by_world, batch.drawn_B3hw, batch.frames_B3hw)
        frames, mush = spoil(shown[:, None], near[:, None], world.autoencoder.code, generator, MUSH)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            maps = run.net(frames[:, 0])
        return loss_of(maps, batch, mush)

    def measured(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, SceneReader)
        return _glance(ema, heldout)

    net = _to_the_end(run, steps, loss, measured)
    assert isinstance(net, SceneReader)
    return net


def train_judge(
    data: Path, out: Path, steps: int = JUDGE_STEPS, finder_steps: int = FINDER_STEPS, seed: int = 0
) -> HandsJudge:
    """Train or resume the judge; the states of its two networks lie in ``out``.

    Raises:
        UserError: when ``data`` is not a dataset.
    """
    known = labelled(shards_of(data, "judge"), "train", np.random.default_rng((seed, 1)))
    code = load_hands_world().autoencoder.code
    torch.manual_seed(seed + 1000)
    judge = HandsJudge()
    judge.finder.load_state_dict(_finder(known, code, judge.finder, out, finder_steps, seed).state_dict())
    judge.texture.load_state_dict(_texture(known, code, judge.texture, out, steps, seed).state_dict())
    return judge


def _finder(known: Labelled, code: LinearCode, net: nn.Module, out: Path, steps: int, seed: int) -> nn.Module:
    """The network that finds the gripper, in plain and in spoilt frames."""
    run = StageRun(Stage(f"{JUDGE.name}_finder", 0, LEARNING_RATE, WARMUP), net, out, "cpu", muon)

    def loss(step: int) -> Tensor:
        generator = generator_for(seed, "finder", step)
        batch = known.pick(torch.randint(len(known.near_B), (FRAMES_PER_STEP,), generator=generator))
        near = known.frames_B3hw[batch.near_B]
        spoilt, _ = spoil(batch.frames_B3hw[:, None], near[:, None], code, generator)
        plain = torch.rand(len(near), 1, 1, 1, generator=generator) < PLAIN_SHARE
        frames = torch.where(plain, batch.frames_B3hw.float() / 255, spoilt[:, 0])
        with torch.autocast("cpu", torch.bfloat16):
            grip, spread = run.net(planes_of(frames))
        return place_loss(grip, spread, batch.grip_B4)

    return _to_the_end(run, steps, loss, lambda ema: {})


def _texture(
    known: Labelled, code: LinearCode, net: nn.Module, out: Path, steps: int, seed: int
) -> nn.Module:
    """The network that tells engine frames from spoilt ones."""
    run = StageRun(Stage(f"{JUDGE.name}_texture", 0, LEARNING_RATE, WARMUP), net, out, "cpu", muon)

    def loss(step: int) -> Tensor:
        generator = generator_for(seed, "texture", step)
        batch = known.pick(torch.randint(len(known.near_B), (FRAMES_PER_STEP,), generator=generator))
        near = known.frames_B3hw[batch.near_B]
        spoilt, _ = spoil(batch.frames_B3hw[:, None], near[:, None], code, generator)
        with torch.autocast("cpu", torch.bfloat16):
            real = run.net(torch.cat([batch.frames_B3hw.float() / 255, spoilt[:, 0]]))
        wanted = torch.cat([torch.ones(len(near)), torch.zeros(len(near))])
        return binary_cross_entropy_with_logits(real.float(), wanted)

    return _to_the_end(run, steps, loss, lambda ema: {})


def _to_the_end(
    run: StageRun,
    steps: int,
    loss: Callable[[int], Tensor],
    measured: Callable[[nn.Module], dict[str, float]],
) -> nn.Module:
    """The weights after so many steps, from where a stopped training was left."""
    run.resume()
    run.total = steps
    return run.run(loss, measured)


def train_critics(data: Path, out: Path, seed: int = 0, start: Path | None = None) -> Path:
    """Train the networks that are missing in ``out``, and write their weights there.

    A stopped training resumes from its state, which lies in ``out/state``.

    Args:
        data: recordings.
        out: where weights go.
        seed: of weights and batches.
        start: a folder whose reader is trained further, and whose judge is kept.

    Raises:
        UserError: when ``data`` is not a dataset, a file in ``out`` belongs to another training, or ``start`` has
            no weights that fit.
    """
    makers = {READER: partial(train_reader, start=start), JUDGE: train_judge}
    if start is not None:
        _keep_judge(start, out)
        del makers[JUDGE]
    for file, train in makers.items():
        path, facts = out / f"{file.name}.safetensors", {"seed": str(seed)}
        if path.exists():
            if (known := file.facts(path).get("seed")) != facts["seed"]:
                raise UserError(f"{path} was trained with seed {known}, not {seed}: choose another --out")
            continue
        file.save(train(data, out / "state", seed=seed), path, facts)
    return out


def _keep_judge(start: Path, out: Path) -> None:
    """The judge of a folder as it is: who judges must not change with what is rewarded."""
    name = f"{JUDGE.name}.safetensors"
    JUDGE.facts(start / name)
    out.mkdir(parents=True, exist_ok=True)
    if (start / name).resolve() != (out / name).resolve():
        shutil.copyfile(start / name, out / name)


@torch.no_grad()
def _glance(net: SceneReader, shards: Sequence[Shard[HandsEpisode]]) -> dict[str, float]:
    """Mean error of the gripper in mm and of the spots' cells, on some held-out frames."""
    batch = labelled(shards[:PRINTED], "heldout", np.random.default_rng(0), each=4)
    maps = net(batch.frames_B3hw.float() / 255)
    error = (maps.grip_N4 - batch.grip_B4).abs().mean(0)
    spots = (maps.spots_NTyx.sigmoid() - spots_of(batch)).abs().sum((-2, -1)).mean()
    return {**{f"grip_{i}": round(float(e), 4) for i, e in enumerate(error)}, "spots": round(float(spots), 3)}
