"""A world model of PushT: each picture is imagined from the pictures before it and the two controls between.

    python pusht_world.py --data data/pusht --out runs/pusht      # trains it; the same command goes on after a stop

One latent is one picture, and a chunk is one latent. The network sees the last picture and a scene: the empty
board with the T of the first picture laid where it should be next (``pusht_motion.py``). In each pixel it takes
the scene or draws. So what stands still stays exact, a pushed T keeps its shape, and the agent is left to the
network. It is told the controls of the picture and of the one before, as the agent has momentum.

The last picture is seen and not taken from: a mixture of two Ts is none, and the next picture is made from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pusht_motion import WEIGHTS as MOTION
from pusht_motion import (
    Motion,
    Placed,
    Pushing,
    agent_place,
    disc,
    empty_board,
    load_pushing,
    middle_of,
    placed,
    rigidly,
    save_pushing,
    thing_share,
)
from pusht_motion import train as train_pushing
from pusht_recording import FORMAT, FPS, PER_LATENT, SIZE, PushEpisode
from worldcompass.controls import Axis, Controls
from worldcompass.noise import ShiftedLevels
from worldcompass.runs.folder import weights_folder
from worldcompass.types import Actions, ControlValues
from worldcompass.world import WorldSpec
from worldcompass.worlds.small.autoencoder import CodeConfig, Look
from worldcompass.worlds.small.linear import LinearAutoencoder, LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pretrain import load_world, pretrain
from worldcompass.worlds.small.transformer import Command, Inputs
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import Memory, SmallWorld

HERE = Path(__file__).parent
SHIFT_UNIT, TURN_UNIT = 1.0, 0.1  # pixels and radians that one unit of the network's correction stands for
GATE_BORN = -3.0  # as a logit: all that is drawn is a small agent
MOTION_STEPS = 8000  # in which Pushing learns
CODE = CodeConfig((SIZE, SIZE), frames_per_latent=1, channels=96, cell=8)
NET = MixingConfig(
    CODE.latent_shape,
    seen=2 * 3,  # the scene, and the last picture, which is not mixed
    controls=2 * 2 * PER_LATENT,
    token=(2, 2),
    width=128,
    depth=3,
    head=32,
    condition=96,
    frame_size=CODE.frame_size,
    views=1,
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


class PushNet(MixingTransformer):
    """Corrects where the T of the scene lies. It holds ``Pushing``, trained before, which the world asks."""

    def __init__(self, config: MixingConfig, code: LinearCode) -> None:
        super().__init__(config, code)
        self.pushing = Pushing().requires_grad_(False)

    def add_head(self) -> None:
        """See ``ChunkTransformer``; no correction at first, and a gate that an agent soon opens."""
        super().add_head()
        with torch.no_grad():
            self.head.bias.view(-1, self.config.finest**2)[self.config.views] = GATE_BORN
        coarsest, cells = self.config.grids[-1], self.config.latent_shape[1] * self.config.latent_shape[2]
        self.motion = nn.Sequential(
            nn.SiLU(), nn.Conv2d(coarsest, 16, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(16 * cells, 64), nn.SiLU(), nn.Linear(64, 3),
        )  # fmt: skip
        nn.init.zeros_(self.motion[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.motion[-1].bias)  # type: ignore[arg-type]

    def mixable(self, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """See ``MixingTransformer``: what differs from the board in the scene is moved a little further."""
        scene = super().mixable(coarse_Ncyx, inputs).float()
        board = empty_board().to(scene)
        things = scene - board
        right, down, turn = self.motion(coarse_Ncyx).float().unbind(-1)
        correction = Motion(SHIFT_UNIT * torch.stack([right, down], -1), TURN_UNIT * turn)
        moved = rigidly(things, middle_of(things.abs().mean(1)), correction)
        return board + moved


class PushWorld(SmallWorld[LinearAutoencoder]):
    """Implements ``WorldModel[SmallContext]``."""

    spec = SPEC
    memory = Memory(recent=6, older=1)

    def command(self, last: Actions, actions: Actions) -> Command:
        """The controls of each latent, and of the one before it."""
        values = actions.controls.flat_KA
        before = torch.cat([last.controls.flat_KA, values[..., :-1, :]], -2)
        return (torch.cat([before, values], -1),)

    @torch.no_grad()
    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """The scene after the next controls, and the last picture; for each latent."""
        assert isinstance(self.net, PushNet)
        shown = look.picture.clamp(0, 1)
        start = before = shown
        if older is not None:
            start, before = (
                self.autoencoder.pictures(older[0][:, :, index]).clamp(0, 1) for index in (0, -1)
            )
        now, begun = placed(shown, start)
        motion = self.net.pushing(agent_place(before), now, actions.controls.flat_KA[:, 0])
        views = torch.cat([scene_of(start, begun, now, motion), shown], 1)
        return views[:, :, None].expand(-1, -1, len(actions), -1, -1)

    def starting(self, actions: Actions) -> Actions:
        """A part of an episode as a video of its own: its first latent keeps the controls that led to it.

        So the agent may be moving when a video begins. A start that nothing led to rests.
        """
        return actions


def scene_of(starts_N3hw: Tensor, begun: Placed, now: Placed, motion: Motion) -> Tensor:
    """The empty board with the T of first pictures, where it lies after a motion from where it is now.

    A T is cut out once and moved at once, so that it stays as sharp as in the first picture, however far it came.
    """
    board = empty_board().to(starts_N3hw)
    share_N1hw = thing_share(starts_N3hw, begun.agent_N2)[:, None]
    # What the T adds to the board under it; the agent is left out.
    own = torch.where(
        disc(starts_N3hw, begun.agent_N2)[:, None] > 0, 0, starts_N3hw - board * (1 - share_N1hw)
    )
    layers = torch.cat([own * (share_N1hw > 0), share_N1hw], 1)
    way = Motion(
        now.middle_N2 + motion.shift_N2 - begun.middle_N2, now.angle_N + motion.turn_N - begun.angle_N
    )
    moved = rigidly(layers, begun.middle_N2, way)
    return (board * (1 - moved[:, 3:]) + moved[:, :3]).clamp(0, 1)


def controls_of(episode: PushEpisode) -> ControlValues:
    """What was commanded in an episode."""
    return ControlValues(torch.from_numpy(np.array(episode.controls_M22)))


def new_net(autoencoder: LinearAutoencoder, pushing: Pushing | None = None) -> PushNet:
    """A network for the latents of an autoencoder, with what was learned of pushes."""
    net = PushNet(NET, autoencoder.code)
    if pushing is not None:
        net.pushing.load_state_dict(pushing.state_dict())
    return net


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WeightFiles("pusht", "1", HERE / "weights"),
    autoencoder=partial(LinearAutoencoder, CODE),
    net=new_net,
    world=PushWorld,
    actions_of=controls_of,
    stages=(),
    teaching=replace(
        MIXING,
        chunks=7,
        copies=1,
        sequences=4,
        start_share=0.15,
        shows_start=True,
        blurred_share=0.15,
        imagined_share=0.5,
        imagined_from=400,
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
    quick = args.quick
    if not (args.out / MOTION).exists():
        save_pushing(train_pushing(args.data, steps=2 if quick else MOTION_STEPS), args.out)
    pushing, blueprint = load_pushing(args.out), BLUEPRINT
    if quick:
        blueprint = replace(blueprint, teaching=replace(blueprint.teaching, chunks=3, sequences=1))
    blueprint = replace(blueprint, net=lambda autoencoder: new_net(autoencoder, pushing))
    pretrain(blueprint, args.data, args.out, minutes_world=1e-3 if quick else args.minutes, resume=True)


if __name__ == "__main__":
    main()
