"""The Hands world keeps the contract, looks where its commands lead, and learns from recordings of its engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import worldcompass as wc
from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import read_video
from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.doom.world import shipped_weights as doom_weights
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.facts import CONTROLS, NUM_ACTIONS, STEP, action_words
from worldcompass.worlds.hands.network.transformer import HandsTransformer
from worldcompass.worlds.hands.network.views import (
    MIDDLE,
    PLATE_PICTURES,
    VIEWS,
    plate_indices,
    plate_of,
    views_after,
)
from worldcompass.worlds.hands.player import hands_starts
from worldcompass.worlds.hands.pretraining import BLUEPRINT
from worldcompass.worlds.hands.recording import FORMAT, shard_folder
from worldcompass.worlds.hands.starts import NUMBERS, draw_start, scene_starts
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.hands.world import WEIGHTS, HandsWorld, load_hands_world, shipped_weights
from worldcompass.worlds.small import data
from worldcompass.worlds.small.pretraining.between import between_psnr
from worldcompass.worlds.small.pretraining.pretrain import measure, pretrain
from worldcompass.worlds.small.weights import WeightFiles

PATH = "reach-2, right+down-3, close-1, up-4"
MOST_MEGABYTES = 40  # of all embedded weights


@pytest.fixture(scope="module")
def world() -> HandsWorld:
    return load_hands_world()


@pytest.fixture(scope="module")
def recordings(engine, tmp_path_factory) -> Path:
    """Two training and three held-out episodes."""
    root = tmp_path_factory.mktemp("hands") / "data"
    data.claim(root, FORMAT, {"world": "hands"}, 0, "record less")
    for split, count in (("train", 2), ("heldout", 3)):
        episodes = [record_episode(engine, split, number) for number in range(count)]
        data.write_shard(shard_folder(root, split, 0), episodes)
    return root


def scenarios(path: str, latents: int) -> list[Scenario]:
    """The first two scenes of the package along a path."""
    actions = ACTIONS.along(path).latents(0, latents)
    return [Scenario(start.scene.name, actions, start.image_3hw) for start in scene_starts()[:2]]


def untrained(world: HandsWorld) -> HandsWorld:
    torch.manual_seed(0)
    return HandsWorld(world.autoencoder, HandsTransformer(world.autoencoder.code))


def test_the_world_keeps_the_contract(world):
    check_world_model(world, scenarios("reach-2, right+down-3, close-2, up-30", 20))


def test_shipped_weights_are_small(world):
    files = [*shipped_weights().glob("*.safetensors"), *doom_weights().glob("*.safetensors")]
    assert sum(file.stat().st_size for file in files) < MOST_MEGABYTES * 1e6
    tensors = [*world.net.state_dict().values(), *world.autoencoder.state_dict().values()]
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_every_action_of_the_engine_has_its_words_in_paths():
    found = set()
    for action in range(NUM_ACTIONS):
        composite = ACTIONS.composite([int(sign) for sign in CONTROLS[action]])
        values = ACTIONS.commanded(torch.tensor([composite])).flat_KA[0]
        assert values.tolist() == CONTROLS[action].tolist()
        assert ("+".join(ACTIONS.words(composite)) or "none") == action_words(action)
        found.add(composite)
    assert len(found) == NUM_ACTIONS == ACTIONS.num_composites


@pytest.mark.parametrize("path", ["none-11", "left+close-2, none-9"])
def test_an_untrained_network_repeats_the_last_picture(world, path):
    """Whatever stands still is as sharp after three chunks as the start image through the code."""
    video = imagine_video(untrained(world), scenarios(path, 12), num_steps=2).float()
    start = torch.stack([start.image_3hw for start in scene_starts()[:2]]).float() / 255
    coded = 255 * world.autoencoder.pictures(world.autoencoder.encode(start)).clamp(0, 1)
    error = (video[:, 1:] - coded[:, None]).abs()
    assert error.mean() < 2
    assert path != "none-11" or error.quantile(0.99) < 3


def dot(place: np.ndarray) -> Tensor:
    """A dark picture with a soft bright dot at a place in pixels."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    distance = (x - place[0]).square() + (y - place[1]).square()
    return torch.exp(-distance / 4).expand(1, 3, -1, -1)


def found_at(picture_3hw: Tensor) -> np.ndarray:
    bright = picture_3hw[0].clamp_min(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return np.array([float((bright * part).sum() / bright.sum()) for part in (x, y)])


@pytest.mark.parametrize(
    ("steps", "by_view"),
    [
        ((1, 0, 0, 0), {"moved": (1, 0, 0), "flat": (1, 0, 0), "last": (0, 0, 0)}),
        ((0, 1, 0, 0), {"moved": (0, 1, 0), "flat": (0, 1, 0), "start": (0, 0, 0)}),
        ((0, 0, -1, 0), {"moved": (0, 0, -1), "flat": (0, 0, 0), "left": (0, 0, -1)}),
        ((0, 0, 0, 1), {"moved": (0, 0, 0), "left": (-1, 0, 0), "right": (1, 0, 0)}),
        ((-1, 0, 1, -1), {"left": (0, 0, 1), "right": (-2, 0, 1)}),
    ],
)
def test_views_move_by_what_the_camera_says(steps, by_view):
    """A dot at the middle of the gripper's range goes where the camera sees it after two latents of a command."""
    picture = dot(project(np.array([MIDDLE]))[0])
    summed = torch.tensor([steps, steps]).float().cumsum(0)[None]
    views = views_after(picture, picture, picture, summed).unflatten(1, (len(VIEWS), 3))
    for latent in (0, 1):
        for name, moved in by_view.items():
            expected = project(np.array([MIDDLE]) + (latent + 1) * STEP * np.array(moved))[0]
            assert found_at(views[0, VIEWS.index(name), :, latent]) == pytest.approx(expected, abs=0.7)


def test_the_start_is_seen_for_good(world):
    """After any number of chunks the second view is still the first picture."""
    context = world.begin(scenarios("right-30", 20))
    start = world.autoencoder.pictures(context.last_PCHW).clamp(0, 1)
    actions = Actions.stack([s.actions for s in scenarios("right-30", 20)])
    for chunk in range(3):
        context = world.attend(context, actions.latents(4 * chunk, 4 * chunk + 4))
        assert context.attended is not None
        seen = context.attended.seen_PDKyx.unflatten(1, (len(VIEWS), 3))
        torch.testing.assert_close(seen[:, VIEWS.index("start"), :, 3], start)
        clean = torch.cat([context.last_PCHW[:, :, None], torch.randn(2, 128, 3, 8, 8)], 2)
        context = world.remember(context, clean, actions.latents(4 * chunk, 4 * chunk + 4))


def test_the_plate_shows_what_a_passing_gripper_hides():
    """A bar that stands in another place in each of five pictures is gone from the plate."""
    ground = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    past = ground.repeat(5, 1, 1, 1)
    for index, picture in enumerate(past):
        picture[:, :, 10 * index : 10 * index + 8] = 0
    assert plate_of(past[None]).equal(ground[None])
    chosen = plate_indices(40)
    assert (len(chosen), chosen[0], chosen[-1]) == (PLATE_PICTURES, 0, 39)
    assert plate_indices(3).tolist() == [0, 1, 2]


def test_guidance_is_against_a_gripper_that_rests(world):
    begun = world.begin(scenarios("right+up-9", 4))
    commanded, resting = (
        world.attend(begun, Actions.stack([s.actions for s in scenarios(path, 4)])).attended
        for path in ("right+up-9", "none-9")
    )
    weak = world.weaken(replace(begun, attended=commanded)).attended
    torch.testing.assert_close(weak.seen_PDKyx, resting.seen_PDKyx)
    torch.testing.assert_close(weak.command, resting.command)
    assert not commanded.seen_PDKyx.equal(resting.seen_PDKyx)


def test_learned_frames_between_beat_a_cross_fade_on_held_out_recordings(world, recordings):
    found = between_psnr(world.autoencoder, data.load(recordings, "heldout", FORMAT))
    assert found["between_psnr"] > found["cross_fade_psnr"] + 3


def test_the_world_is_pretrained_from_recordings_and_resumed(recordings, tmp_path, monkeypatch):
    small = "worldcompass.worlds.small.pretraining"
    monkeypatch.setattr("worldcompass.training.stage.MEASURED_STEPS", 1)
    for name, number in (("LINEAR_FRAMES", 40), ("LEAST_PICTURES", 4)):
        monkeypatch.setattr(f"{small}.autoencoder.{name}", number)
    for name in ("measures", "between"):
        monkeypatch.setattr(f"{small}.{name}.MEASURED_VIDEOS", 2)
    quick = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, sequences=1))
    out = pretrain(quick, recordings, tmp_path / "out", minutes_autoencoder=0, minutes_world=0)
    files = [out / WEIGHTS.autoencoder, out / WEIGHTS.net]
    first = [file.read_bytes() for file in files]
    with pytest.raises(UserError, match="resume with --resume"):
        pretrain(quick, recordings, out)
    pretrain(quick, recordings, out, minutes_autoencoder=0, minutes_world=0, resume=True)
    assert [file.read_bytes() for file in files] == first
    measures = measure(quick, recordings, out)
    assert measures.own["between_psnr"] > 15 and measures.autoencoder_psnr > 15
    row = json.loads((out / "world.jsonl").read_text().splitlines()[-1])
    assert measures.one_chunk_psnr == pytest.approx(row["psnr"], abs=0.1)
    trained = load_hands_world(out)
    assert isinstance(trained.net, HandsTransformer)
    assert trained.net.code.axes.equal(trained.autoencoder.code.axes)
    WeightFiles("hands", "0").export(trained.net, files[1])
    with pytest.raises(UserError, match="version 0, expected 2: pretrain them again"):
        load_hands_world(out)


def test_start_pictures_are_what_the_engine_draws(engine):
    starts = scene_starts()
    assert [start.scene.name for start in starts] == [f"heldout/{number}" for number in NUMBERS]
    for start in starts:
        drawn = draw_start(engine, start.scene).float()
        assert (drawn - start.image_3hw).abs().mean() < 1


def test_the_gallery_names_what_stands_on_the_table():
    gallery = list(hands_starts())
    assert len({start.id for start in gallery}) == len(NUMBERS)
    assert gallery[0].title == "navy cup, pink ball, red bottle"
    assert all(start.image_3hw.shape == (3, 64, 64) for start in gallery)


def test_a_video_is_imagined_from_a_scene_of_the_package(tmp_path, capsys, world):
    out = tmp_path / "clip.mp4"
    asked = ["imagine", "--world", "hands", "--out", str(out), "--steps", "1"]
    assert cli.main([*asked, "--path", PATH]) == 0
    assert len(read_video(out)) == 41
    frames = wc.imagine(world, scene_starts()[0].image_3hw, PATH, num_steps=1)
    assert (frames.float() - read_video(out).float()).abs().mean() < 4  # the video is compressed
    for wrong, said in (
        ([*asked, "--path", "w-3"], "with keys from left right pull reach down up close open none"),
        (["imagine", "--path", "w-3"], "--world doom has no picture of its own: name one"),
        ([*asked, "--path", "up-3", "--weights", str(tmp_path)], "a folder with hands_world.safetensors"),
        (
            ["play", "--world", "hands", "--vote"],
            "--vote works with the Doom world alone, not with hands: make a sheet",
        ),
        (["hands", "pretrain", "--data", str(tmp_path / "none")], "made by `worldcompass hands collect`"),
    ):
        assert cli.main(wrong) == 2
        assert said in capsys.readouterr().err


def test_another_name_is_no_embedded_world():
    with pytest.raises(UserError, match="no embedded world 'mars': choose doom or hands"):
        wc.load_world(name="mars")
