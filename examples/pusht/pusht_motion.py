"""Where agent and T are in a picture, and how the T moves when it is pushed: what geometry and a few numbers know.

    python pusht_motion.py --data data/pusht --out runs/pusht      # trains the network, then says how far it is off

Nothing but pictures and controls is used, no recorded state. Where the T lies follows from the pixels that it
covers: their middle and main axis say it roughly, and laying the T of the start over them says it to a twentieth of
a pixel. A small network learns how that place changes between two pictures, from the controls and from where the
agent stands. It looks along the T's own axes: what it learns of one contact holds wherever the T lies.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pusht_recording import FORMAT, PER_LATENT, SIZE
from worldcompass.worlds.small.data import load
from worldcompass.worlds.small.interpolation import pixel_centres, sample

BOARD_FILE = Path(__file__).parent / "board.png"
AGENT_COLOUR = (74 / 255, 119 / 255, 245 / 255)  # sRGB, the mean over its outline and what is inside
THING_COLOUR = (143 / 255, 162 / 255, 184 / 255)
RADIUS = 15.5 / 8  # of the agent, pixels
BLUE, BLUE_RANGE = 0.25, 0.3  # by which blue exceeds red where the agent begins, and from there to its middle
NOWHERE, LEAST_SHOWN = -100.0, 2.0  # place of an agent of which fewer pixels are seen
FAINT, REACH = 0.25, 13.0  # share of a pixel, and pixels from the T's middle, that its rough place heeds
LEAST = 1e-8  # weight of every pixel, so that an empty picture has a middle too
ROUNDS, MOST_STEP = (
    4,
    1.0,
)  # of Gauss-Newton when the T is laid over its pixels; pixels and radians of one round
DAMPING = 1e-3  # added to the diagonal of its equations
FEATURES = 2 + 2 + 2 * PER_LATENT + 4  # agent, its motion, controls; the T's place and direction
NEAR, FAST = 8.0, 4.0  # pixels of a distance and of a motion that the network is told as 1
MOVED = 0.1  # pixels from which on the T moves
TURN_UNIT = 8.0  # pixels that a radian counts as, about half of the T's length
WIDTH, BATCH, RATE = 192, 512, 2e-3
WEIGHTS = "pusht_motion.safetensors"


@dataclass(frozen=True)
class Placed:
    """Where things are in N pictures: pixels right and down from the corner, radians."""

    agent_N2: Tensor
    middle_N2: Tensor
    """Of the T's pixels."""
    angle_N: Tensor
    """From the T's bar along its stem."""

    def pick(self, rows: Tensor | slice) -> Self:
        """Some of them."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def axes_N22(self) -> Tensor:
        """Rows are the T's own axes on the board: along the stem, and a quarter turn further."""
        cos, sin = self.angle_N.cos(), self.angle_N.sin()
        return torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))


@dataclass(frozen=True)
class Motion:
    """How Ts move as rigid things."""

    shift_N2: Tensor
    """Of the middle on the board, pixels."""
    turn_N: Tensor
    """Radians."""


@cache
def empty_board() -> Tensor:
    """The board without agent and T, (3, 64, 64) in [0, 1]: in each pixel the median of the recordings."""
    return torch.from_numpy(cv2.imread(str(BOARD_FILE))[..., ::-1].copy()).movedim(-1, 0).float() / 255


def agent_place(pictures_N3hw: Tensor) -> Tensor:
    """Where the agent is, in pixels right and down; (N, 2). Nothing else is as blue.

    In a picture without an agent it is ``NOWHERE``, where it covers nothing.
    """
    blue = ((pictures_N3hw[:, 2] - pictures_N3hw[:, 0] - BLUE) / BLUE_RANGE).clamp(0, 1)
    shown = blue.flatten(1).sum(1, keepdim=True) > LEAST_SHOWN
    return torch.where(shown, middle_of(blue), NOWHERE)


def middle_of(weights_Nhw: Tensor) -> Tensor:
    """The mean place of weights, in pixels right and down; (N, 2)."""
    weights = (weights_Nhw + LEAST).flatten(1)
    return weights @ pixel_centres(weights_Nhw).flatten(0, 1) / weights.sum(1, keepdim=True)


def disc(pictures_N3hw: Tensor, agent_N2: Tensor) -> Tensor:
    """How much of each pixel an agent at a place covers, 0 to 1; (N, h, w)."""
    away = (pixel_centres(pictures_N3hw) - agent_N2[:, None, None]).norm(dim=-1)
    return (RADIUS + 0.5 - away).clamp(0, 1)


def thing_share(pictures_N3hw: Tensor, agent_N2: Tensor) -> Tensor:
    """How much of each pixel the T covers, 0 to 1; (N, h, w).

    A pixel is taken as a mixture of the board, the agent, whose share is known, and the T.
    """
    board = empty_board().to(pictures_N3hw)
    agent, thing = (board.new_tensor(c).view(3, 1, 1) - board for c in (AGENT_COLOUR, THING_COLOUR))
    away = pictures_N3hw - board - disc(pictures_N3hw, agent_N2)[:, None] * agent
    return ((away * thing).sum(1) / thing.square().sum(0)).clamp(0, 1)


def rigidly(pictures_Nchw: Tensor, centre_N2: Tensor, motion: Motion) -> Tensor:
    """Pictures after a turn about a centre and a shift."""
    cos, sin = motion.turn_N.cos(), motion.turn_N.sin()
    back_N22 = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))  # the turn's inverse
    middle = centre_N2[:, None, None]
    away = pixel_centres(pictures_Nchw) - middle - motion.shift_N2[:, None, None]
    place = torch.einsum("nij,nyxj->nyxi", back_N22, away) + middle
    return sample(pictures_Nchw, place[:, None], "bicubic")[:, 0]


def roughly(share_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """The middle (N, 2) and the angle (N,) of Ts whose share of each pixel is known.

    The second moments give the axis of the stem, as the T is longest along it. The third gives the direction: a T
    turned by half a turn changes its sign. What is faint or far from the T does not count: far away, it would count
    most.
    """
    mass = (share_Nhw - FAINT).clamp_min(0)
    middle = middle_of(mass)
    for _ in range(2):
        far = (pixel_centres(mass) - middle[:, None, None]).norm(dim=-1) > REACH
        mass = mass.masked_fill(far, 0)
        middle = middle_of(mass)
    x, y = (pixel_centres(mass) - middle[:, None, None]).flatten(1, 2).unbind(-1)
    mass = (mass + LEAST).flatten(1)
    xx, yy, xy = ((mass * product).sum(1) for product in (x * x, y * y, x * y))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    third = (mass * along * (along.square() - 3 * across.square())).sum(1)
    return middle, angle + torch.where(third < 0, math.pi, 0.0)


def best_quarter(
    share_Nhw: Tensor, seen_Nhw: Tensor, counted_Nhw: Tensor, centre_N2: Tensor, guess: Motion
) -> Motion:
    """The guess, or the guess with one to three quarter turns more: whichever covers best what is seen.

    Arguments are those of ``laid_over``.
    """
    turns = [guess.turn_N + quarter * math.pi / 2 for quarter in range(4)]
    left = torch.stack(
        [
            ((rigidly(share_Nhw[:, None], centre_N2, Motion(guess.shift_N2, turn))[:, 0] - seen_Nhw) * counted_Nhw)
            .square().mean((1, 2))
            for turn in turns
        ]
    )  # fmt: skip
    return Motion(guess.shift_N2, guess.turn_N + left.argmin(0) * math.pi / 2)


def laid_over(
    share_Nhw: Tensor, seen_Nhw: Tensor, counted_Nhw: Tensor, centre_N2: Tensor, guess: Motion
) -> Motion:
    """The motion after which a T covers the pixels that are seen: least squares by Gauss-Newton, from a guess.

    Args:
        share_Nhw: of each pixel that the T covers before.
        seen_Nhw: after.
        counted_Nhw: how much each pixel counts, 0 to 1.
        centre_N2: about which it turns.
        guess: of the motion, right to a few pixels.
    """
    found = guess
    damping = DAMPING * torch.eye(3, device=share_Nhw.device)
    for _ in range(ROUNDS):
        moved = rigidly(share_Nhw[:, None], centre_N2, found)[:, 0]
        down, right = torch.gradient(moved, dim=(1, 2))
        x, y = (pixel_centres(moved) - (centre_N2 + found.shift_N2)[:, None, None]).unbind(-1)
        slope = -(torch.stack([right, down, down * x - right * y], -1) * counted_Nhw[..., None]).flatten(1, 2)
        left = ((moved - seen_Nhw) * counted_Nhw).flatten(1)[..., None]
        step = torch.linalg.solve(slope.mT @ slope + damping, -(slope.mT @ left))[..., 0]
        step = step.clamp(-MOST_STEP, MOST_STEP)
        found = Motion(found.shift_N2 + step[:, :2], found.turn_N + step[:, 2])
    return found


def wrapped(angle: Tensor) -> Tensor:
    """The same direction, from -pi to pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


@torch.no_grad()
def placed(pictures_N3hw: Tensor, starts_N3hw: Tensor) -> tuple[Placed, Placed]:
    """Where things are in pictures, and in those that their videos start with. All in [0, 1]."""
    agents = [agent_place(pictures) for pictures in (pictures_N3hw, starts_N3hw)]
    seen, share = (
        thing_share(p, agent) for p, agent in zip((pictures_N3hw, starts_N3hw), agents, strict=True)
    )
    (middle, angle), (centre, before) = roughly(seen), roughly(share)
    guess, counted = Motion(middle - centre, wrapped(angle - before)), 1 - disc(pictures_N3hw, agents[0])
    guess = best_quarter(share, seen, counted, centre, guess)
    motion = laid_over(share, seen, counted, centre, guess)
    now = Placed(agents[0], centre + motion.shift_N2, before + motion.turn_N)
    return now, Placed(agents[1], centre, before)


class Pushing(nn.Module):
    """How the T moves after a picture, from where things are and the controls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 3),
        )  # fmt: skip

    def forward(self, agent_before_N2: Tensor, now: Placed, controls_NA: Tensor) -> Motion:
        """The motion until the next picture; none where the agent is nowhere.

        Args:
            agent_before_N2: where the agent was a picture earlier, as it has momentum.
            now: the last picture.
            controls_NA: of the time between it and the next; x and y of the first, of the second.
        """
        axes = now.axes_N22
        near, fast = (now.agent_N2 - now.middle_N2) / NEAR, (now.agent_N2 - agent_before_N2) / FAST
        told = torch.cat([torch.stack([near, fast], 1), controls_NA.unflatten(-1, (PER_LATENT, 2))], 1)
        own = torch.einsum("nij,nkj->nki", axes, told).flatten(1)
        where = torch.cat([now.middle_N2 / (SIZE / 2) - 1, axes[:, 0]], -1)
        along, across, turn = self.layers(torch.cat([own, where], -1)).unbind(-1)
        shift = torch.einsum("nij,ni->nj", axes, torch.stack([along, across], -1))
        shown = (now.agent_N2[:, 0] > NOWHERE) & (agent_before_N2[:, 0] > NOWHERE)
        return Motion(shift * shown[:, None], turn / TURN_UNIT * shown)


@dataclass(frozen=True)
class Pushes:
    """What ``Pushing`` learns from: N moments of recordings."""

    agent_before_N2: Tensor
    now: Placed
    controls_NA: Tensor
    motion: Motion
    """Until the next picture, as it was seen."""


def pushes_of(data: Path, split: str) -> Pushes:
    """All moments of a split."""
    places, controls = list[Placed](), list[Tensor]()
    for episode in (episode for shard in load(data, split, FORMAT) for episode in shard):
        frames = torch.from_numpy(np.array(episode.frames_Fhw3)).movedim(-1, 1).float() / 255
        places.append(placed(frames, frames[:1].expand_as(frames))[0])
        controls.append(torch.from_numpy(np.array(episode.controls_M22))[1:].flatten(1))
    agents = torch.cat(
        [torch.cat([p.agent_N2[:1], p.agent_N2[:-2]]) for p in places]
    )  # before the start, at rest
    now, after = (
        Placed(*(torch.cat(parts) for parts in zip(*map(_parts, some), strict=True)))
        for some in ([p.pick(slice(None, -1)) for p in places], [p.pick(slice(1, None)) for p in places])
    )
    motion = Motion(after.middle_N2 - now.middle_N2, wrapped(after.angle_N - now.angle_N))
    return Pushes(agents, now, torch.cat(controls), motion)


def _parts(placed: Placed) -> tuple[Tensor, ...]:
    return placed.agent_N2, placed.middle_N2, placed.angle_N


def off(found: Motion, true: Motion) -> Tensor:
    """By how many pixels motions differ, a radian counting as ``TURN_UNIT``; (N, 3)."""
    turn = wrapped(found.turn_N - true.turn_N)
    return torch.cat([found.shift_N2 - true.shift_N2, TURN_UNIT * turn[:, None]], 1)


def train(data: Path, steps: int, seed: int = 0) -> Pushing:
    """Learn from the split ``train``."""
    torch.manual_seed(seed)
    pushes, net = pushes_of(data, "train"), Pushing()
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        rows = torch.randint(len(pushes.controls_NA), (BATCH,))
        found = net(pushes.agent_before_N2[rows], pushes.now.pick(rows), pushes.controls_NA[rows])
        error = off(found, Motion(pushes.motion.shift_N2[rows], pushes.motion.turn_N[rows]))
        loss = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 1000 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def check(net: Pushing, data: Path, split: str = "heldout") -> dict[str, float]:
    """How far it is off in moments in which the T moves, beside taking the T as still."""
    pushes = pushes_of(data, split)
    still = Motion(torch.zeros_like(pushes.motion.shift_N2), torch.zeros_like(pushes.motion.turn_N))
    moved = off(still, pushes.motion)
    some = moved.norm(dim=1) > MOVED
    guessed = off(net(pushes.agent_before_N2, pushes.now, pushes.controls_NA), pushes.motion)
    found = {"share of moments that move it": float(some.float().mean())}
    for side, values in {"network": guessed, "still": moved}.items():
        shift, turn = values[some, :2].norm(dim=1), (values[some, 2] / TURN_UNIT).abs().rad2deg()
        for name, part in (("pixels", shift), ("degrees", turn)):
            found[f"{side}: {name}, median"] = float(part.median())
            found[f"{side}: {name}, 95%"] = float(part.quantile(0.95))
    return found


def save_pushing(net: Pushing, folder: Path) -> None:
    """Write its weights into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / WEIGHTS)


def load_pushing(folder: Path) -> Pushing:
    """The network whose weights lie in a folder."""
    net = Pushing()
    net.load_state_dict(load_file(folder / WEIGHTS))
    return net.eval().requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/pusht"), metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=8000, metavar="N")
    parser.add_argument("--quick", action="store_true", help="two steps, to see that it works")
    args = parser.parse_args(arguments)
    net = train(args.data, 2 if args.quick else args.steps)
    save_pushing(net, args.out)
    for name, value in check(net, args.data).items():
        print(f"{name:32s}{value:8.3f}")


if __name__ == "__main__":
    main()
