"""The world of rooms keeps the contract, shows what geometry knows, and is pretrained from recordings."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldcompass.cli import main
from worldcompass.geometry import label_from_signs, nominal_poses
from worldcompass.testing import check_world_model
from worldcompass.types import CameraMoves, Scenario
from worldcompass.worlds.doom.engine.collect import FORMAT
from worldcompass.worlds.doom.engine.facts import MOTION
from worldcompass.worlds.doom.network.autoencoder import DoomLook
from worldcompass.worlds.doom.network.interpolation import USUAL_NEARNESS
from worldcompass.worlds.doom.rooms.autoencoder import CODE, RoomsAutoencoder
from worldcompass.worlds.doom.rooms.pretraining import BLUEPRINT, planes_of
from worldcompass.worlds.doom.rooms.transformer import RoomsTransformer
from worldcompass.worlds.doom.rooms.views import PLANES, VIEWS, chosen_views, mixed_views
from worldcompass.worlds.doom.rooms.world import RoomsWorld, load_rooms_world
from worldcompass.worlds.small.data import load
from worldcompass.worlds.small.pretraining.sequences import encode_dataset


@pytest.fixture(scope="module")
def world() -> RoomsWorld:
    """A new one, whose code is that of noise."""
    torch.manual_seed(0)
    autoencoder = RoomsAutoencoder()
    autoencoder.start_linear(torch.rand(60, PLANES, *CODE.frame_size))
    return RoomsWorld(autoencoder, RoomsTransformer(autoencoder.code))


def walk(words: list[int]) -> CameraMoves:
    """A path of composite actions after a start."""
    labels = torch.tensor([0, *words])
    return CameraMoves(labels, nominal_poses(labels, MOTION), torch.ones(len(labels), 4))


def look(picture: torch.Tensor) -> DoomLook:
    """Of a wall one fifth of a walk's reach away."""
    rows = len(picture)
    return DoomLook(picture, torch.full((rows, *CODE.frame_size), 0.2), torch.zeros(rows))


AHEAD, BACK = (label_from_signs(0, forward, 0, 0) for forward in (1, -1))
RIGHT = label_from_signs(0, 0, 1, 0)


def test_rooms_keep_the_contract(world):
    paths = [walk([AHEAD] * 11), walk([RIGHT] * 11)]
    starts = torch.randint(0, 256, (2, 3, *CODE.frame_size), dtype=torch.uint8)
    scenarios = [Scenario(str(i), path, image_3hw=starts[i]) for i, path in enumerate(paths)]
    check_world_model(world, scenarios)


def test_standing_still_shows_the_last_picture(world):
    picture = torch.rand(1, 3, *CODE.frame_size)
    seen = mixed_views([(look(picture), torch.zeros(1, 2, 4), torch.zeros(1))])
    assert seen.shape == (1, (PLANES + 1) * len(VIEWS), 2, *CODE.frame_size)
    carried, covered = seen[0, :3, 0], seen[0, PLANES * len(VIEWS), 0]
    inner = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(carried[inner], picture[0][inner], atol=2e-3, rtol=0)
    assert covered[2:-2, 2:-2].min() > 0.95
    assert not seen[0, PLANES : PLANES * len(VIEWS)].any()  # nothing older is there


def test_what_the_last_picture_does_not_show_comes_from_an_older_one():
    """The camera turns by more than its field of view; an old picture looked there."""
    turned = torch.zeros(1, 1, 4)
    turned[..., 2] = 100 / MOTION.yaw_deg
    last, older = torch.zeros(1, 3, *CODE.frame_size), torch.ones(1, 3, *CODE.frame_size)
    still = torch.zeros(1, 1, 4)
    pitch = torch.zeros(1)
    alone = mixed_views([(look(last), turned, pitch)])
    helped = mixed_views(
        [(look(last), turned, pitch), (look(older), still, pitch), (look(older), still, pitch)]
    )
    middle = (0, slice(0, 3), 0, 24, 32)
    assert alone[middle].max() < 0.01 and helped[middle].min() > 0.99
    covered = (0, PLANES * len(VIEWS), 0, 24, 32)
    assert alone[covered] < 0.01 and helped[covered] > 0.95


def test_older_views_are_the_nearest_one_and_one_from_elsewhere():
    """A camera walks ahead and half of the way back: where it stood is near, the far end is elsewhere."""
    poses = walk([AHEAD] * 14 + [BACK] * 4).world_from_camera_K44[None]
    target = walk([AHEAD] * 14 + [BACK] * 5).world_from_camera_K44[None, -1]
    near, other = chosen_views(poses, target)
    places = poses[0, :, 2, 3]
    assert abs(places[near] - target[0, 2, 3]) < 1
    assert abs(places[other] - places[near]) > 2 * MOTION.move


def test_the_start_is_looked_at_again_where_it_shows_something():
    path = walk([AHEAD] * 3).world_from_camera_K44[None]
    near, other = chosen_views(path[:, :3], path[:, -1])
    assert (int(near), int(other)) == (2, 0)


def test_a_new_network_leaves_what_is_carried_along_untouched(world):
    """Its guess out of noise alone is the first view, through the code."""
    path = walk([0] * 3)
    scenario = Scenario(
        "still", path, image_3hw=torch.randint(0, 256, (3, *CODE.frame_size), dtype=torch.uint8)
    )
    context = world.begin([scenario])
    part = CameraMoves(*(x[None] for x in (path.labels_K, path.world_from_camera_K44, path.intrinsics_K4)))
    attended = world.attend(context, part)
    noise = torch.randn(1, *world.spec.latent_shape[:1], 4, *world.spec.latent_shape[1:])
    clean = world.predict_clean(noise, torch.ones(1), part, attended)
    carried = attended.attended.seen_PDKyx[0, :3].transpose(0, 1)
    shown = world.autoencoder.pictures(clean[0].transpose(0, 1))[1:]
    through = world.autoencoder.pictures(world.autoencoder.encode(carried))[1:]
    assert (shown - through).abs().mean() < 0.03


def test_recordings_are_encoded_with_the_engines_own_depth(dataset, tmp_path):
    """A new network's guess is the same everywhere; what a latent of a recording holds is the truth."""
    shard = load(dataset, "train", FORMAT)[0]
    autoencoder = RoomsAutoencoder()
    autoencoder.start_linear(torch.cat([planes_of(e, range(0, len(e.nearness_Mhw), 4)) for e in shard]))
    own = RoomsWorld(autoencoder, RoomsTransformer(autoencoder.code))
    latents = encode_dataset(BLUEPRINT, own, dataset, "train", tmp_path / "latents.safetensors")
    true = torch.from_numpy(np.array(shard[0].nearness_Mhw, np.float32)).log()
    held = own.autoencoder.look(latents.latents_EMCHW[0].float()).nearness.log()
    assert (held - true).abs().mean() < 0.1 * (true - true.mean()).abs().mean()
    start = torch.from_numpy(np.array(shard[0].frames_Fhw3[:1])).movedim(-1, 1)[None]
    guessed = own.autoencoder.look(own.encode(start)[:, :, 0]).nearness
    torch.testing.assert_close(guessed, torch.full_like(guessed, USUAL_NEARNESS), atol=0.02, rtol=0.3)


def test_rooms_are_pretrained_from_nothing_and_from_weights(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("worldcompass.training.stage.MEASURED_STEPS", 1)
    for name, number in (("LINEAR_FRAMES", 64), ("LEAST_PICTURES", 4)):
        monkeypatch.setattr(f"worldcompass.worlds.small.pretraining.autoencoder.{name}", number)
    for module in ("small.pretraining.measures", "doom.rooms.pretraining"):
        monkeypatch.setattr(f"worldcompass.worlds.{module}.MEASURED_VIDEOS", 2)
    quick = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, sequences=1))
    monkeypatch.setattr("worldcompass.worlds.doom.rooms.pretraining.BLUEPRINT", quick)
    short = ["--minutes-autoencoder", "1e-9", "--minutes-world", "1e-9", "--device", "cpu"]
    words = ["rooms", "pretrain", "--data", str(dataset), *short]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*words, "--out", str(first)]) == 0
    assert main([*words, "--out", str(second), "--start", str(first)]) == 0
    begun, gone_on = load_rooms_world(first), load_rooms_world(second)
    assert begun.autoencoder.code.axes.equal(gone_on.autoencoder.code.axes)
    assert not begun.net.where.equal(gone_on.net.where)
    rows = [json.loads(line) for line in (second / "world.jsonl").read_text().splitlines()]
    capsys.readouterr()
    assert main(["rooms", "measure", "--data", str(dataset), "--weights", str(second)]) == 0
    printed = re.search(r"from a true past: ([\d.]+) dB", capsys.readouterr().out)
    assert printed and float(printed[1]) == pytest.approx(rows[-1]["psnr"], abs=0.1)
    assert main(["rooms", "measure", "--data", str(dataset)]) == 2
    assert "worldcompass rooms pretrain" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "third"), "--start", str(tmp_path / "none")]) == 2
