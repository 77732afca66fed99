"""The Hands world keeps the contract, and learns from recordings of its engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worldcompass as wc
from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import read_video
from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Scenario
from worldcompass.worlds.doom.world import shipped_weights as doom_weights
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.facts import CONTROLS, NUM_ACTIONS, action_words
from worldcompass.worlds.hands.footage import shipped_scenarios
from worldcompass.worlds.hands.network.transformer import HandsTransformer
from worldcompass.worlds.hands.player import hands_starts
from worldcompass.worlds.hands.pretraining import BLUEPRINT, blueprint_of
from worldcompass.worlds.hands.recording import FORMAT, shard_folder
from worldcompass.worlds.hands.starts import NUMBERS, draw_start, scene_starts
from worldcompass.worlds.hands.world import WEIGHTS, HandsWorld, load_hands_world, shipped_weights
from worldcompass.worlds.small import data
from worldcompass.worlds.small.pretraining.between import between_psnr
from worldcompass.worlds.small.pretraining.pretrain import measure, pretrain
from worldcompass.worlds.small.pretraining.sequences import encode_dataset
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
    return HandsWorld(world.autoencoder, HandsTransformer(world.autoencoder))


def test_the_world_keeps_the_contract(world):
    check_world_model(world, scenarios("reach-2, right+down-3, close-2, up-30", 20), tolerance=1e-4)


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


def test_an_untrained_network_leaves_the_table_as_it_was(world):
    """It moves the gripper at random, and nothing else: three chunks later most pixels are still the start's."""
    video = imagine_video(untrained(world), scenarios("left+close-2, none-9", 12), num_steps=2).float()
    start = torch.stack([start.image_3hw for start in scene_starts()[:2]]).float()
    error = (video[:, 1:] - start[:, None]).abs().amax((1, 2))
    assert error.quantile(0.5) <= 2 and error.quantile(0.75) < 12


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
    assert imagine_video(trained, scenarios("right-3", 4), num_steps=1).shape == (2, 13, 3, 64, 64)
    WeightFiles("hands", "0").export(trained.net, files[1])
    with pytest.raises(UserError, match="version 0, expected 3: pretrain them again"):
        load_hands_world(out)


def test_a_share_of_the_labels_is_wrong_and_always_the_same(recordings):
    episodes = [episode for shard in data.load(recordings, "heldout", FORMAT) for episode in shard]
    for share, least, most in (
        (0.0, 0.0, 0.0),
        (0.4, 0.2, 0.6),
        (1.0, 0.9, 1.0),
    ):  # any command may be the true one
        labelled = blueprint_of(share).labels_of
        assert labelled is not None
        wrong = [
            (labelled(episode).flat_KA != BLUEPRINT.actions_of(episode).flat_KA).any(-1)
            for episode in episodes
        ]
        assert least <= torch.stack(wrong)[:, 1:].double().mean() <= most
        assert not torch.stack(wrong)[:, 0].any()
        assert all(labelled(x).flat_KA.equal(labelled(x).flat_KA) for x in episodes)


def test_kept_latents_hold_no_labels(recordings, world, tmp_path):
    """Those of another share of wrong labels are taken, and the labels are the new ones."""
    kept = tmp_path / "latents.safetensors"
    true, wrong = (
        encode_dataset(blueprint_of(share), world, recordings, "train", kept) for share in (0.0, 1.0)
    )
    assert true.latents_EMCHW.equal(wrong.latents_EMCHW)
    assert not true.actions.controls.flat_KA.equal(wrong.actions.controls.flat_KA)


def test_held_out_episodes_are_told_what_happened(recordings, world, tmp_path):
    true, told = (
        encode_dataset(blueprint_of(share), world, recordings, "heldout", tmp_path / "latents.safetensors")
        for share in (0.0, 1.0)
    )
    assert true.actions.controls.flat_KA.equal(told.actions.controls.flat_KA)
    assert blueprint_of(1.0).actions_of is BLUEPRINT.actions_of  # by which ``measure`` goes


def test_encoding_by_kept_pictures_is_the_autoencoder_s(world):
    videos = [s.truth.frames_F3hw for s in shipped_scenarios("probes", 3) if s.truth is not None]
    video = torch.stack(videos[:2])
    plain = world.autoencoder.encode_video(video.float() / 255)
    for _ in range(2):  # looked at, then kept
        torch.testing.assert_close(world.encode(video), plain, atol=1e-4, rtol=1e-4)


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
        (["hands", "pretrain", "--wrong-labels", "1.5"], "expected a share from 0 to 1, not '1.5'"),
        (
            ["hands", "pretrain", "--data", str(tmp_path), "--minutes-autoencoder", "0"],
            "needs an autoencoder: name its folder with --start",
        ),
    ):
        assert cli.main(wrong) == 2
        assert said in capsys.readouterr().err


def test_another_name_is_no_embedded_world():
    with pytest.raises(UserError, match="no embedded world 'mars': choose doom or hands"):
        wc.load_world(name="mars")
