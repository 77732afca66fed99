"""A world model of PushT: each picture is imagined from the pictures before it and the two controls between.

    python pusht_world.py --data data/pusht --out runs/pusht      # trains it; the same command goes on after a stop

One latent is one picture, and a chunk is one latent. In each pixel the network takes the last picture, the empty
board, or the last picture without the agent, moved and turned as one rigid thing; and it draws the rest over them.
So what stands still stays exact, and a T that is pushed keeps its shape. The network is told the controls of the
picture and of the one before, as the agent has momentum.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pusht_engine import FPS, PER_LATENT, SIZE
from pusht_recording import FORMAT, PushEpisode
from worldcompass.controls import Axis, Controls
from worldcompass.noise import ShiftedLevels
from worldcompass.runs.folder import weights_folder
from worldcompass.types import Actions, ControlValues
from worldcompass.world import WorldSpec
from worldcompass.worlds.small.autoencoder import CodeConfig, Look
from worldcompass.worlds.small.interpolation import pixel_centres, sample
from worldcompass.worlds.small.linear import LinearAutoencoder
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pretrain import load_world, pretrain
from worldcompass.worlds.small.transformer import Command, Inputs
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import Memory, SmallWorld

HERE = Path(__file__).parent
BOARD_FILE = HERE / "board.png"
BLUE = 0.3  # by which blue exceeds red in pixels of the agent, of 1; in those of the T it does by 0.16
SHIFT_UNIT, TURN_UNIT = 4.0, 0.25  # pixels and radians that one unit of the network's motion stands for
CODE = CodeConfig((SIZE, SIZE), frames_per_latent=1, channels=96, cell=8)
NET = MixingConfig(
    CODE.latent_shape,
    seen=9,
    controls=2 * 2 * PER_LATENT,
    token=(2, 2),
    width=128,
    depth=3,
    head=32,
    condition=96,
    frame_size=CODE.frame_size,
    views=3,
    grids=(32, 48, 80),
)
SPEC = WorldSpec(
    name="pusht",
    latent_shape=CODE.latent_shape,
    chunk_lengths=(1,),
    frames_per_latent=1,
    fps=FPS,
    frame_size=CODE.frame_size,
    schedule=ShiftedLevels(shift=2.0, num_steps=2),
    actions=Controls(
        (
            Axis("x", words=("left", "right"), codes=("KeyA", "KeyD")),
            Axis("y", words=("up", "down"), codes=("KeyW", "KeyS")),
        ),
        per_latent=PER_LATENT,
    ),
    batches_pasts=True,
)


@cache
def empty_board() -> Tensor:
    """The board without agent and T, (3, 64, 64) in [0, 1]: in each pixel the median of the recordings."""
    return torch.from_numpy(cv2.imread(str(BOARD_FILE))[..., ::-1].copy()).movedim(-1, 0).float() / 255


class PushNet(MixingTransformer):
    """Moves and turns its last view as one rigid thing, as was done for pushed things in arXiv 1605.07157."""

    def add_head(self) -> None:
        """See ``ChunkTransformer``; the motion starts as none, and what moves counts as much as what stays."""
        super().add_head()
        with torch.no_grad():
            weights = self.head.bias.view(-1, self.config.finest**2)
            weights[self.config.views - 1] = weights[0]
        coarsest, cells = self.config.grids[-1], self.config.latent_shape[1] * self.config.latent_shape[2]
        self.motion = nn.Sequential(
            nn.SiLU(), nn.Conv2d(coarsest, 16, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(16 * cells, 64), nn.SiLU(), nn.Linear(64, 3),
        )  # fmt: skip
        nn.init.zeros_(self.motion[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.motion[-1].bias)  # type: ignore[arg-type]

    def mixable(self, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """See ``MixingTransformer``: the last view is moved, about the middle of what differs from the board."""
        last, board, things = super().mixable(coarse_Ncyx, inputs).float().chunk(3, 1)
        right, down, turn = self.motion(coarse_Ncyx).float().unbind(-1)
        shift_N2 = SHIFT_UNIT * torch.stack([right, down], -1)
        moved = rigidly(things, middle_of((things - board).abs().mean(1)), shift_N2, TURN_UNIT * turn)
        return torch.cat([last, board, moved], 1)


def is_agent(pictures_N3hw: Tensor) -> Tensor:
    """Which pixels are as blue as the agent; bool (N, 1, h, w)."""
    return (pictures_N3hw[:, 2:] - pictures_N3hw[:, :1]) > BLUE


def middle_of(weights_Nhw: Tensor) -> Tensor:
    """The mean place of weights, in pixels right and down; (N, 2)."""
    weights = (weights_Nhw + 1e-4).flatten(1)
    return weights @ pixel_centres(weights_Nhw).flatten(0, 1) / weights.sum(1, keepdim=True)


def rigidly(pictures_N3hw: Tensor, centre_N2: Tensor, shift_N2: Tensor, turn_N: Tensor) -> Tensor:
    """Pictures after a turn about a centre and a shift, in pixels and radians."""
    cos, sin = turn_N.cos(), turn_N.sin()
    back_N22 = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))  # the turn's inverse
    middle = centre_N2[:, None, None]
    away = pixel_centres(pictures_N3hw) - middle - shift_N2[:, None, None]
    place = torch.einsum("nij,nyxj->nyxi", back_N22, away) + middle
    return sample(pictures_N3hw, place[:, None], "bicubic")[:, 0]


class PushWorld(SmallWorld[LinearAutoencoder]):
    """Implements ``WorldModel[SmallContext]``."""

    spec = SPEC
    memory = Memory(recent=6, older=1)

    def command(self, last: Actions, actions: Actions) -> Command:
        """The controls of each latent, and of the one before it."""
        values = actions.controls.flat_KA
        before = torch.cat([last.controls.flat_KA, values[..., :-1, :]], -2)
        return (torch.cat([before, values], -1),)

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """The last picture, the empty board, and the last picture without the agent; for each latent."""
        shown = look.picture.clamp(0, 1)
        board = empty_board().to(shown).expand_as(shown)
        views = torch.cat([shown, board, torch.where(is_agent(shown), board, shown)], 1)
        return views[:, :, None].expand(-1, -1, len(actions), -1, -1)

    def starting(self, actions: Actions) -> Actions:
        """A part of an episode as a video of its own: its first latent keeps the controls that led to it.

        So the agent may be moving when a video begins. A start that nothing led to rests.
        """
        return actions


def controls_of(episode: PushEpisode) -> ControlValues:
    """What was commanded in an episode."""
    return ControlValues(torch.from_numpy(np.array(episode.controls_M22)))


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WeightFiles("pusht", "1", HERE / "weights"),
    autoencoder=partial(LinearAutoencoder, CODE),
    net=lambda autoencoder: PushNet(NET, autoencoder.code),
    world=PushWorld,
    actions_of=controls_of,
    stages=(),
    teaching=replace(
        MIXING,
        chunks=7,
        copies=1,
        sequences=4,
        start_share=0.15,
        shows_start=False,
        blurred_share=0.15,
        imagined_share=0.5,
        imagined_from=600,
        level_floor=0.25,
    ),
)
"""What the small-world kit trains. The code is linear: nothing of the autoencoder is learned by gradients."""


def make(weights: Path | None = None, device: str = "cpu") -> PushWorld:
    """The world with the weights of a folder or a run, or those beside this file: ``--world pusht_world.py:make``.

    Raises:
        UserError: when they are missing or do not fit.
    """
    folder = weights and weights_folder(weights, BLUEPRINT.weights.net)
    world = load_world(BLUEPRINT, folder, device)
    assert isinstance(world, PushWorld)
    return world


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/pusht"), metavar="FOLDER")
    parser.add_argument(
        "--minutes", type=float, default=60.0, metavar="N", help="of training, turned into steps at its start"
    )
    parser.add_argument("--quick", action="store_true", help="31 small steps, to see that it works")
    args = parser.parse_args(arguments)
    if args.quick:
        small = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, chunks=3, sequences=1))
        pretrain(small, args.data, args.out, minutes_world=1e-3, resume=True)
    else:
        pretrain(BLUEPRINT, args.data, args.out, minutes_world=args.minutes, resume=True)


if __name__ == "__main__":
    main()
