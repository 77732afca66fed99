"""The judge of WorldPlay weights from a lab's own recordings, at tiny size."""

import json
from dataclasses import replace

import pytest
import torch
from recorded import record
from safetensors.torch import save_file
from worldplay_tiny import CONFIG_8B, conditioning_8b, random_decoder, random_network

from worldcompass import cli
from worldcompass.errors import UnfitInputs, UserError
from worldcompass.judging import bands, classifier, frechet, paired, place
from worldcompass.judging.court import sources_of, stored_sources
from worldcompass.recipes import worldplay_5b, worldplay_8b
from worldcompass.runs.requirements import digest_of
from worldcompass.worlds.open.judging import court
from worldcompass.worlds.open.prepare import read_requests
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.open.weights import FILE_NAME, export_weights
from worldcompass.worlds.worldplay.pose_files import write_poses
from worldcompass.worlds.worldplay.sources import OfficialFiles
from worldcompass.worlds.worldplay.trajectories import along_path
from worldcompass.worlds.worldplay.world import FAMILY_8B, WorldPlay


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def rival(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rival")
    export_weights(random_network("8b"), folder / FILE_NAME)
    return folder


def test_trained_weights_are_judged_by_recordings_from_the_shell(
    recordings, rival, tmp_path, monkeypatch, capsys
):
    for module in (bands, classifier, frechet, paired, place):
        monkeypatch.setattr(module, "RESAMPLES", 50)
    words = ["judge", str(rival), "--world", "worldplay_8b:smoke", "--recordings", str(recordings)]
    words += ["--latents", "16", "--steps", "1", "--quick", "--device", "cpu", "--out", str(tmp_path / "out")]
    code = cli.main(words)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "judgement_quick.json").read_text())
    assert code in (0, 1) and "8 scenarios of 61 frames" in said and len(found["gates"]) == 8
    assert cli.main(words) == code  # nothing is filmed or judged again
    assert cli.main([*words[:-3], "cpu", "--out", str(tmp_path / "out"), "--steps", "2"]) == 2
    assert "holds a judge with other steps" in capsys.readouterr().err
    assert cli.main([*words, "--set", "whole_timesteps=true"]) == 2
    assert "holds a judge with other whole_timesteps" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [worldplay_8b.smoke(), worldplay_5b.smoke()], ids=["8b", "5b"])
def test_base_and_trained_share_noise_and_the_truth_is_reached(recipe, tmp_path):
    """The base's own weights, exported and loaded over another set, give the base's videos again."""
    folder = record(tmp_path / "recordings", fps=recipe.spec.fps)
    found = court(recipe, folder, 16, 1, "cpu")
    base = found.load(None, "cpu")
    export_weights(base.net, tmp_path / "same" / FILE_NAME)
    with torch.no_grad():
        next(iter(base.net.parameters())).zero_()
    runs = [tmp_path / "same"]
    sources = sources_of(found, runs, tmp_path / "out", 8, 0, "cpu")
    assert torch.equal(sources.flat("base"), sources.flat("trained"))
    steps = sources.steps.models_KST3hw
    assert steps["base"].shape == (1, 8, 16, 3, 48, 64) and torch.equal(steps["base"], steps["trained"])
    # Cells of 8 pixels: the autoencoder shows the mean of each in the last frame of every latent.
    ends = slice(None, None, 4)
    cells = [
        torch.nn.functional.avg_pool3d(v[:, ends].float(), (1, 8, 8))
        for v in (sources.engine_SF3hw, sources.reachable_SF3hw)
    ]
    assert (cells[0] - cells[1]).abs().max() <= 0.5
    assert torch.equal(stored_sources(tmp_path / "out", found.spec).flat("base"), sources.flat("base"))


def test_poses_in_the_official_form_are_the_recordings_actions(recordings, tmp_path):
    folder = tmp_path / "posed"
    record(folder)
    moves = along_path("w-8, right-11", worldplay_8b.smoke().spec.actions.motion)
    for file in folder.glob("*.json"):
        write_poses(moves, file)
    by_path, by_poses = (
        court(worldplay_8b.smoke(), each, 16, 1, "cpu").scenes("judge", 8).scenarios[0].actions.cameras
        for each in (recordings, folder)
    )
    assert torch.equal(by_poses.labels_K, moves.labels_K[:16])
    assert torch.allclose(by_poses.world_from_camera_K44, moves.world_from_camera_K44[:16], atol=1e-5)
    assert not torch.equal(by_path.labels_K, by_poses.labels_K)


def test_conditioning_must_come_from_the_recordings_first_frame(recordings, tmp_path):
    source = OfficialFiles(tmp_path, tmp_path / "data")
    recipe = replace(worldplay_8b.smoke(), source=source)
    video = recordings / "walk00.mp4"
    (tmp_path / "data").mkdir()
    file, generator = tmp_path / "data" / "walk00.safetensors", torch.Generator().manual_seed(0)
    tensors = {"latent": torch.randn(3, 6, 8, generator=generator), **conditioning_8b(CONFIG_8B, generator)}
    with pytest.raises(UserError, match="make it with 'worldcompass prepare'"):
        source.start_of(video, recipe.network, recipe.latent_size)
    save_file(tensors, file, {"caption": "A walk.", "image_sha256": "0" * 64})
    with pytest.raises(
        UserError, match=r"walk00\.safetensors was not made from the first frame of .*walk00\.mp4"
    ):
        source.start_of(video, recipe.network, recipe.latent_size)
    save_file(tensors, file, {"caption": "A walk.", "image_sha256": digest_of(video)})
    conditioning, caption = source.start_of(video, recipe.network, recipe.latent_size)
    assert caption == "A walk." and torch.equal(conditioning["latent"], tensors["latent"])


def test_the_first_frames_of_videos_are_prepared(recordings, tmp_path):
    folder = tmp_path / "walks"
    record(folder, count=2, frames=5)
    for name in ("walk00", "walk01"):
        (folder / f"{name}.txt").write_text("A walk.")
    requests = read_requests(folder)
    assert [request.id for request in requests] == ["walk00", "walk01"]
    assert requests[0].read().shape == (3, 48, 64)
    assert requests[0].source("worldplay-8b")["image_sha256"] == digest_of(folder / "walk00.mp4")


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_recordings_are_encoded_in_the_decoders_own_types_under_autocast(kind):
    decoder = random_decoder(kind)
    frames = torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = decoder.encode(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decoder.encode(frames), plain)


def test_a_decoder_that_cannot_encode_is_refused():
    class Deaf:
        pixels_per_cell = 8

    world = WorldPlay(FAMILY_8B, random_network("8b"), Deaf(), (6, 8))
    with pytest.raises(UnfitInputs, match="has no method encode, which recordings need"):
        world.encode(torch.zeros(1, 1, 3, 48, 64, dtype=torch.uint8))


def test_the_stand_in_decoder_encodes_what_it_decodes():
    latents = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    blend = Blend(8)
    assert torch.allclose(blend.encode(blend.decode(latents, None)), latents, atol=1e-4)
