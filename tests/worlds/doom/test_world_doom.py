"""The embedded world keeps its contract, reads motions in its own units, and looks at each latent once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from camera_paths import commanded, parse_path

from worldcompass.errors import UserError
from worldcompass.testing import check_world_model
from worldcompass.types import Scenario
from worldcompass.walk import start_walk
from worldcompass.worlds.doom.network.autoencoder import DoomAutoencoder
from worldcompass.worlds.doom.network.transformer import CONFIG, DoomTransformer
from worldcompass.worlds.doom.world import (
    SPEC,
    WEIGHTS,
    DoomWorld,
    camera_motion,
    intrinsics,
    load_doom_world,
)


def scenarios() -> list[Scenario]:
    generator = torch.Generator().manual_seed(0)
    paths = ("w-3, w+right-4, left-24", "d-3, s-4, up+right-24")
    return [
        Scenario(
            f"s{i}",
            commanded(parse_path(path), SPEC.actions.motion, intrinsics()),
            image_3hw=torch.randint(0, 255, (3, 48, 64), generator=generator, dtype=torch.uint8),
        )
        for i, path in enumerate(paths)
    ]


@pytest.fixture(scope="module")
def world() -> DoomWorld:
    """Random weights without zeros, so that every path of the network matters."""
    torch.manual_seed(0)
    net = DoomTransformer(replace(CONFIG, width=96, depth=2))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return DoomWorld(DoomAutoencoder(), net)


def test_the_embedded_world_keeps_the_contract(world):
    check_world_model(world, scenarios())


def test_nominal_motion_is_one_in_its_own_units():
    """w+left: forward 1 with the heading turned half-way, yaw -1; the start image stands still."""
    actions = commanded(parse_path("w-1, left-1"), SPEC.actions.motion, intrinsics())
    poses = actions.world_from_camera_K44[None]
    motion = camera_motion(poses[:, 0], poses)[0]
    expected = [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, -1, 0, 0]]
    torch.testing.assert_close(motion, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


def test_live_play_looks_at_every_latent_once(world, monkeypatch):
    """``attend`` needs the look that ``decode`` took, and one at an older latent; the pictures are those of a world
    that forgets it."""
    looks = []
    look = world.autoencoder.look
    monkeypatch.setattr(world.autoencoder, "look", lambda latents: looks.append(1) or look(latents))
    walk = start_walk(world, scenarios(), num_steps=1)
    forgetful = start_walk(DoomWorld(world.autoencoder, world.net), scenarios(), num_steps=1)
    looks.clear()
    for label in (9, 2, 1):
        walk = walk.step(walk.of([label, label]))
    assert len(looks) == 1 + 3 + 2  # the start's own, once more, and an older latent from the second step on
    for label in (9, 2, 1):
        forgetful.world._looked = None
        forgetful = forgetful.step(forgetful.of([label, label]))
    assert len(looks) == 6 + 8 and forgetful.frames_PF3hw.equal(walk.frames_PF3hw)


def test_a_folder_of_weights_may_lack_the_autoencoder(tmp_path):
    WEIGHTS.export(load_doom_world().net, tmp_path / WEIGHTS.net)
    assert load_doom_world(tmp_path).autoencoder.to_pixels.weight.any()
    with pytest.raises(UserError, match="no weights at"):
        load_doom_world(tmp_path / "nothing")
