"""A judge that reads the state off a picture: where the agent is, and three points of the T.

    python pusht_reader.py --data data/pusht --out weights      # trains it, then says how often it is right

It learns from the environment's pictures alone, never from imagined ones, and no reward uses it. The pose of the T
is the one that fits the three points best; what does not fit is left as ``bent``. ``shape`` then asks of a picture
whether it shows a whole T where it was read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pusht_engine import AGENT_RADIUS, BOARD, gap, on_board
from pusht_recording import FORMAT, SIZE
from worldcompass.worlds.small.autoencoder import Residual
from worldcompass.worlds.small.data import load

CORNERS = np.array(
    [[-52.0, 15.0], [52.0, 15.0], [0.0, 105.0]]
)  # the points of the T that are read, in its own axes
MAPS = 1 + len(CORNERS)  # of the agent, and of the points
GRID = SIZE // 2  # cells of a map's side
WEIGHTS = "pusht_reader.safetensors"
BATCH, RATE = 32, 2e-3
MOST_NOISE = 0.06  # deviation of what is added to pictures that it learns from, of 1
T_COLOUR = np.array([143.0, 162.0, 184.0])  # sRGB of the T as drawn
COLOURS = np.array(
    [[255, 255, 255], [144, 238, 144], [65, 105, 225], [223, 223, 223]], float
)  # board, goal, agent, wall


@dataclass(frozen=True)
class Read:
    """What was read of N pictures, in board pixels and radians."""

    agent_N2: np.ndarray
    pose_N3: np.ndarray
    """Of the T: x, y, angle."""
    bent_N: np.ndarray
    """Root mean square by which the points miss those of a T in this pose."""

    @property
    def state_N5(self) -> np.ndarray:
        """Agent and T in one row."""
        return np.concatenate([self.agent_N2, self.pose_N3], 1)


class StateReader(nn.Module):
    """A map of 32 x 32 cells for the agent and each point of the T; a place is the mean over its map."""

    def __init__(self, fine: int = 24, coarse: int = 48) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, fine, 4, stride=2, padding=1)
        self.first = Residual(fine)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.deep = nn.Sequential(
            Residual(coarse), nn.Conv2d(coarse, coarse, 2, stride=2), Residual(coarse), Residual(coarse)
        )
        self.up = nn.Conv2d(coarse, 16 * fine, 1)
        self.last = Residual(fine)
        self.head = nn.Conv2d(fine, MAPS, 3, padding=1)

    def forward(self, pictures_N3hw: Tensor) -> Tensor:
        """Places (N, 4, 2) on the board of the agent and the points, of pictures in [0, 1]."""
        side = torch.linspace(-1, 1, SIZE).to(pictures_N3hw)
        where = torch.stack(torch.meshgrid(side, side, indexing="ij")).expand(len(pictures_N3hw), -1, -1, -1)
        x = self.first(self.stem(torch.cat([pictures_N3hw - 0.5, where], 1)))
        coarse = self.up(functional.silu(self.deep(self.down(functional.silu(x)))))
        x = self.last(x + functional.pixel_shuffle(coarse, 4))
        share = self.head(functional.silu(x)).flatten(2).softmax(-1).unflatten(-1, (GRID, GRID))
        centre = (torch.arange(GRID).to(share) + 0.5) * (BOARD / GRID)
        return torch.stack([(share.sum(-2) * centre).sum(-1), (share.sum(-1) * centre).sum(-1)], -1)

    @torch.no_grad()
    def read(self, frames_N3hw: Tensor) -> Read:
        """The states of uint8 pictures."""
        places = torch.cat([self(part.float() / 255) for part in frames_N3hw.split(256)]).double().numpy()
        pose, bent = fitted(places[:, 1:])
        return Read(places[:, 0], pose, bent)


def fitted(points_NP2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poses (N, 3) that bring ``CORNERS`` nearest to points, and the distance that is left (N,)."""
    own, middle = CORNERS - CORNERS.mean(0), points_NP2.mean(1)
    away = points_NP2 - middle[:, None]
    cos = (own * away).sum((1, 2))
    sin = (own[:, 0] * away[..., 1] - own[:, 1] * away[..., 0]).sum(1)
    angle = np.arctan2(sin, cos)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    place = middle - turn @ CORNERS.mean(0)
    left = points_NP2 - (CORNERS @ turn.transpose(0, 2, 1) + place[:, None])
    return np.concatenate([place, angle[:, None]], 1), np.sqrt((left**2).sum(-1).mean(1))


def places_of(state_N5: np.ndarray) -> np.ndarray:
    """What is to be read of states, (N, 4, 2)."""
    points = np.stack([on_board(CORNERS, pose) for pose in state_N5[:, 2:]])
    return np.concatenate([state_N5[:, None, :2], points], 1)


def shape(frames_N3hw: Tensor, read: Read) -> np.ndarray:
    """How well each picture shows a whole T where it was read: intersection over union of its pixels, (N,).

    A pixel belongs to the T where its colour is nearer to the T's than to any other. Pixels near the agent do not
    count.
    """
    side = (np.arange(SIZE) + 0.5) * (BOARD / SIZE)
    places = np.stack(np.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    colours = torch.from_numpy(np.vstack([T_COLOUR, COLOURS])).float()
    found = []
    for frame, state in zip(frames_N3hw, read.state_N5, strict=True):
        pixels = frame.movedim(0, -1).reshape(-1, 3).float()
        shown = (torch.cdist(pixels, colours).argmin(-1) == 0).numpy()
        free = np.linalg.norm(places - state[:2], axis=1) > AGENT_RADIUS + 8
        wanted = gap(places, state[2:]) == 0
        both, either = (shown & wanted & free).sum(), ((shown | wanted) & free).sum()
        found.append(both / max(1, either))
    return np.array(found)


def errors(read: Read, state_N5: np.ndarray) -> dict[str, np.ndarray]:
    """Errors against true states: of agent and T's centre in board pixels, of its angle in degrees; (N,) each."""
    centre = np.array([[0.0, 45.0]])
    places = [
        np.stack([on_board(centre, pose)[0] for pose in poses]) for poses in (read.pose_N3, state_N5[:, 2:])
    ]
    turn = (read.pose_N3[:, 2] - state_N5[:, 4] + np.pi) % (2 * np.pi) - np.pi
    return {
        "agent": np.linalg.norm(read.agent_N2 - state_N5[:, :2], axis=1),
        "T": np.linalg.norm(places[0] - places[1], axis=1),
        "angle": np.degrees(np.abs(turn)),
    }


def pictures_of(data: Path, split: str) -> tuple[Tensor, np.ndarray]:
    """All pictures of a split, uint8 (N, 3, 64, 64), and their states (N, 5)."""
    shards = load(data, split, FORMAT)
    frames = np.concatenate([np.asarray(e.frames_Fhw3) for shard in shards for e in shard])
    states = np.concatenate([np.asarray(e.state_M5, float) for shard in shards for e in shard])
    return torch.from_numpy(frames).movedim(-1, 1), states


def train(data: Path, steps: int, seed: int = 0) -> StateReader:
    """A reader that has learned from the pictures of the split ``train``."""
    torch.manual_seed(seed)
    frames, states = pictures_of(data, "train")
    places = torch.from_numpy(places_of(states)).float()
    net = StateReader()
    optimiser = torch.optim.AdamW(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(frames), (BATCH,))
        pictures = frames[rows].float() / 255
        pictures = pictures + MOST_NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(pictures)
        loss = (net(pictures) - places[rows]).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 30.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"step {step}: error {loss.item():.2f} board pixels", flush=True)
    return net.eval().requires_grad_(False)


def save_reader(net: StateReader, folder: Path, facts: dict[str, float]) -> None:
    """Write its weights in float16, and what it reaches as metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, {name: f"{value:.3f}" for name, value in facts.items()})


def load_reader(folder: Path) -> StateReader:
    """The reader whose weights lie in a folder."""
    net = StateReader()
    net.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    return net.eval().requires_grad_(False)


def check(net: StateReader, data: Path) -> dict[str, float]:
    """Errors on held-out pictures of the environment, and the shape that its own pictures reach."""
    frames, states = pictures_of(data, "heldout")
    read = net.read(frames)
    found = {}
    for name, values in errors(read, states).items():
        found |= {f"{name}_median": float(np.median(values)), f"{name}_95": float(np.quantile(values, 0.95))}
    shapes = shape(frames, read)
    return found | {"shape_mean": float(shapes.mean()), "shape_05": float(np.quantile(shapes, 0.05))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/pusht_reader"), metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=2500, metavar="N")
    parser.add_argument("--quick", action="store_true", help="two steps, to see that it works")
    args = parser.parse_args(arguments)
    reader = train(args.data, 2 if args.quick else args.steps)
    facts = check(reader, args.data)
    save_reader(reader, args.out, facts)
    for name, value in facts.items():
        print(f"{name:14s} {value:7.3f}")


if __name__ == "__main__":
    main()
