"""Parts of a picture are cut out once and moved at once, and outlines say where they are."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.facts import ABSENT_POSE, FRAMES_PER_LATENT, STEP, THINGS
from worldcompass.worlds.hands.outlines import GRIPPER, PARTS, outlines
from worldcompass.worlds.hands.parts.autoencoder import CODE, PartsAutoencoder
from worldcompass.worlds.hands.parts.gripper import FILE, SCENE, cut_by, cut_gripper, gripper_outlines
from worldcompass.worlds.hands.parts.layers import by_depth, cut_out, laid, middles, offsets, shifted
from worldcompass.worlds.hands.parts.pretraining import BLUEPRINT, misplaced, planes_of, recoloured
from worldcompass.worlds.hands.parts.seer import Seer
from worldcompass.worlds.hands.parts.transformer import CONFIG, PartsTransformer
from worldcompass.worlds.hands.parts.views import WAYS, Seen, drawn, moved_gripper, ways_after
from worldcompass.worlds.hands.parts.world import WEIGHTS, PartsWorld, load_parts_world
from worldcompass.worlds.hands.recording import FORMAT, shard_folder
from worldcompass.worlds.hands.silhouettes import silhouettes, start_poses
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import scene_starts
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.small import data
from worldcompass.worlds.small.context import attended_for
from worldcompass.worlds.small.pretraining.pretrain import measure, pretrain


def untrained() -> PartsWorld:
    """With a code of colour and outlines that loses nothing of a plain picture."""
    torch.manual_seed(0)
    autoencoder = PartsAutoencoder()
    planes = torch.rand(64, CODE.planes, 64, 64).round()
    autoencoder.start_linear(torch.nn.functional.avg_pool2d(planes, 5, 1, 2))
    net = PartsTransformer(autoencoder.code, replace(CONFIG, depth=1))
    for weights in net.motion[-1].parameters():  # born, all ways of moving but the first weigh the same
        torch.nn.init.normal_(weights, std=0.1)
    return PartsWorld(autoencoder, net)


def scenarios(path: str, latents: int) -> list[Scenario]:
    actions = ACTIONS.along(path).latents(0, latents)
    return [Scenario(start.scene.name, actions, start.image_3hw) for start in scene_starts()[:2]]


def box(left: int, top: int, size: int = 10) -> torch.Tensor:
    plane = torch.zeros(64, 64)
    plane[top : top + size, left : left + size] = 1
    return plane


def stage() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A grey table, a picture of two things in drawn colours, and their outlines; two others are absent."""
    whose = torch.stack([box(10, 20), box(30, 24), torch.zeros(64, 64), torch.zeros(64, 64)])[None]
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return torch.full((1, 3, 64, 64), 0.5), pictures, whose


def put(cut_NT4hw: torch.Tensor, offsets_NT2: torch.Tensor) -> torch.Tensor:
    return shifted(cut_NT4hw.flatten(0, 1), offsets_NT2.flatten(0, 1)).clamp(0, 1).view_as(cut_NT4hw)


def test_the_world_keeps_the_contract():
    check_world_model(untrained(), scenarios("reach-2, right+down-3, close-2, up-30", 20))


def test_a_part_that_was_moved_a_hundred_times_is_as_sharp_as_at_first():
    table, pictures, whose = stage()
    cut, now = cut_out(pictures, whose), whose
    for _ in range(100):
        moved = put(cut, offsets(whose, now) + torch.tensor([0.1, 0.05]))
        now = moved[:, :, 3]
    assert offsets(whose, now)[0, :2].numpy() == pytest.approx(np.array([[10, 5], [10, 5]]), abs=0.3)
    exact = laid(table, put(cut, torch.tensor([10.0, 5.0]).expand(1, 4, 2)))
    assert exact[0, :, 26:34, 21:29].equal(pictures[0, :, 21:29, 11:19])
    assert (laid(table, moved) - exact).abs().mean() < 0.02


def test_a_part_that_leaves_the_picture_keeps_its_place():
    """The middle of what is left of it is not where it is."""
    _, _, whose = stage()
    away = torch.tensor([[[-15.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    half_gone = torch.zeros_like(whose)
    half_gone[0, 0, 20:30, :5], half_gone[0, 1] = 1, whose[0, 1]
    naive = middles(half_gone)[0] - middles(whose)[0]
    assert abs(naive[0, 0, 0] - away[0, 0, 0]) > 2
    assert offsets(whose, half_gone)[0, :2].numpy() == pytest.approx(away[0, :2].numpy(), abs=1.5)


def test_what_reaches_farther_down_is_in_front():
    table, pictures, whose = stage()
    cut, together = cut_out(pictures, whose), torch.zeros(1, 4, 2)
    together[0, 0, 0] = 20
    picture = laid(table, put(cut, together), by_depth(cut, together))
    assert picture[0, :, 26, 34].equal(pictures[0, :, 26, 34])  # it reaches row 33, the first one row 29
    together[0, 0, 1] = 8
    picture = laid(table, put(cut, together), by_depth(cut, together))
    assert picture[0, :, 30, 34].equal(pictures[0, :, 22, 14])


def test_things_hide_the_gripper_except_where_it_is_in_front():
    table, pictures, whose = stage()
    things = cut_out(pictures, whose)
    gripper = torch.zeros(1, 3, 4, 64, 64)
    gripper[0, 0] = torch.cat([torch.tensor([1.0, 0, 0]).view(3, 1, 1) * box(12, 22), box(12, 22)[None]])
    order = torch.tensor([[0, 1, 2, 3]])
    behind, before = (drawn(table, things, gripper, order, front)[0, :, 25, 15] for front in (0.0, 1.0))
    assert behind.equal(pictures[0, :, 25, 15]) and before.tolist() == [1, 0, 0]


def test_a_part_that_is_not_shown_has_not_moved():
    _, _, whose = stage()
    gone = whose.clone()
    gone[:, 0] = 0
    assert offsets(whose, gone).abs().max() < 1e-4
    middle, size = middles(whose)
    assert middle[0, 0].tolist() == [15, 25] and (size[0] > 0).tolist() == [True, True, False, False]


def test_parts_go_by_what_the_camera_says():
    """Ways are where the middle of the gripper's range goes in the picture."""
    middle = np.array([0.0, 0.0, 0.11])
    for steps, way, moved in (
        ((1, 0, 0, 0), "moved", (1, 0, 0)),
        ((0, 1, -1, 0), "moved", (0, 1, -1)),
        ((0, 1, -1, 0), "flat", (0, 1, 0)),
        ((0, 0, 0, 1), "left", (-1, 0, 0)),
        ((-1, 0, 1, -1), "right", (-2, 0, 1)),
        ((1, 1, 1, 1), "still", (0, 0, 0)),
    ):
        found = ways_after(torch.tensor([steps]).float()[None])[0, 0, WAYS.index(way)]
        expected = project((middle + STEP * np.array(moved))[None])[0] - project(middle[None])[0]
        assert found.numpy() == pytest.approx(expected, abs=0.7)


def test_outlines_show_parts_whole():
    made = scene("train", 0)
    poses, grip = start_poses(made), np.array(made.gripper)
    found, shown = outlines(grip, poses), silhouettes(grip, poses)
    for index in range(len(THINGS)):
        seen = shown == index
        assert (poses[index, 2] > ABSENT_POSE[2]) == bool(found[index].any())
        assert not seen.any() or (found[index][seen] > 100).mean() > 0.85
    assert (found[len(THINGS) :].max(0)[shown == -2] > 60).mean() > 0.8
    hidden = poses.copy()
    hidden[0] = grip[0], grip[1] - 0.1, 0.0, 1, 0, 0, 0  # before the gripper
    assert np.array_equal(outlines(grip, hidden)[len(THINGS) :], found[len(THINGS) :])


def test_recordings_hold_what_the_seer_learns_from(engine):
    episode = record_episode(engine, "train", 3)
    assert episode.bare_Mhw3.shape == (21, 64, 64, 3) and episode.table_hw3.shape == (64, 64, 3)
    planes = planes_of(episode, [0, 5])
    assert planes.shape == (2, 3 + len(PARTS), 64, 64)
    for row, latent in enumerate((0, 5)):
        frame, bare = episode.frames_Fhw3[latent * FRAMES_PER_LATENT], episode.bare_Mhw3[latent]
        things, gripper = planes[row, 3:7].amax(0).numpy(), planes[row, 7:].amax(0).numpy()
        assert (frame != bare)[(gripper > 0.9) & (things == 0)].any(-1).mean() > 0.95  # it is gone
        assert (bare != episode.table_hw3)[things > 0.9].any(-1).mean() > 0.95


def test_the_gripper_is_the_engines(engine):
    """Cut out, it is what the file says, and laid elsewhere, it is what the engine draws there."""
    made = cut_by(engine).astype(int)
    stored = cv2.imread(str(FILE), cv2.IMREAD_UNCHANGED)
    assert stored is not None and abs(made - stored.astype(int)).max() <= 2
    assert middles(gripper_outlines()[None])[0][0, 0].tolist() == pytest.approx([32, 32], abs=0.2)
    x, y, z, opening = SCENE.gripper
    for grip in ((x, y, z, opening), (0.1, y + 0.05, z + 0.05, 0.12), (-0.12, y + 0.1, z, opening)):
        steps = engine.reset(replace(SCENE, gripper=grip))
        frame = torch.from_numpy(steps.frames_Fhw3[0].copy()).movedim(-1, 0)[None].float() / 255
        bare = torch.from_numpy(engine.apart()[0].copy()).movedim(-1, 0)[None].float() / 255
        true = (
            torch.from_numpy(outlines(np.array(grip), start_poses(SCENE))[None, len(THINGS) :]).float() / 255
        )
        parts, _ = moved_gripper(offsets(gripper_outlines()[None], true))
        picture = laid(bare, parts[:, [1, 2, 0]])
        where = parts[0, :, 3].amax(0) > 0.5
        assert (picture - frame)[0, :, where].abs().mean() < 0.08 < (bare - frame)[0, :, where].abs().mean()


def test_what_was_cut_out_of_the_start_image_stays():
    """After any number of chunks of noise the table and the things are those of the first picture."""
    world = untrained()
    context = world.begin(scenarios("right-30", 20))
    actions = Actions.stack([s.actions for s in scenarios("right-30", 20)])
    first: Seen | None = None
    for chunk in range(3):
        context = world.attend(context, actions.latents(4 * chunk, 4 * chunk + 4))
        assert context.attended is not None
        seen = Seen.of(context.attended.seen_PDKyx[:, :, 3])
        first = first or seen
        torch.testing.assert_close(seen.cut_NT4hw, first.cut_NT4hw)
        torch.testing.assert_close(seen.table_N3hw, first.table_N3hw)
        clean = torch.cat([context.last_PCHW[:, :, None], torch.randn(2, CODE.channels, 3, 8, 8)], 2)
        context = world.remember(context, clean, actions.latents(4 * chunk, 4 * chunk + 4))


def test_guidance_is_against_a_gripper_that_rests():
    world = untrained()
    begun = world.begin(scenarios("right+up-9", 4))
    commanded, resting = (
        attended_for(world.attend(begun, Actions.stack([s.actions for s in scenarios(path, 4)])), 4)
        for path in ("right+up-9", "none-9")
    )
    weak = attended_for(world.weaken(replace(begun, attended=commanded)), 4)
    torch.testing.assert_close(weak.seen_PDKyx, resting.seen_PDKyx)
    torch.testing.assert_close(weak.command, resting.command)
    assert not commanded.seen_PDKyx.equal(resting.seen_PDKyx)


def test_an_outline_elsewhere_is_an_error_also_where_the_two_do_not_overlap():
    autoencoder = untrained().autoencoder
    true = torch.cat([torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, len(PARTS), 64, 64)], 1)
    true[0, 3] = box(10, 20, 12)
    errors = []
    for away in (0, 15, 30):
        guess = true.clone()
        guess[0, 3] = box(10 + away, 20, 12)
        errors.append(float(misplaced(autoencoder, *map(autoencoder.encode_planes, (guess, true)))))
    assert errors[0] < 0.02 < errors[1] < errors[2]


def test_an_outline_that_no_picture_shows_leaves_latents_finite():
    """Along an axis on which nothing differs there is nothing to divide by."""
    autoencoder = PartsAutoencoder()
    planes = torch.rand(40, CODE.planes, 64, 64)
    planes[:, -1] = 0
    autoencoder.start_linear(planes)
    latents = autoencoder.encode_planes(planes)
    assert latents.isfinite().all()
    assert autoencoder.look(latents).outlines[:, -1].abs().max() < 1e-3


def test_colours_are_changed_alike_in_all_pictures():
    picture = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1e-3
    first, second = recoloured((picture, picture.clone()), torch.Generator().manual_seed(1))
    assert first.equal(second) and not first.allclose(picture)


def test_a_new_seer_shows_the_picture_itself():
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    apart = Seer()(picture)
    assert (apart.table_N3hw - picture).abs().mean() < 0.1 and apart.outlines_NLhw.max() < 0.2


def test_the_network_is_pretrained_from_recordings(engine, tmp_path, monkeypatch):
    small = "worldcompass.worlds.small.pretraining"
    monkeypatch.setattr("worldcompass.training.stage.MEASURED_STEPS", 1)
    for name, number in (("LINEAR_FRAMES", 40), ("LEAST_PICTURES", 4)):
        monkeypatch.setattr(f"{small}.autoencoder.{name}", number)
    for name in ("measures", "between"):
        monkeypatch.setattr(f"{small}.{name}.MEASURED_VIDEOS", 2)
    recordings = tmp_path / "data"
    data.claim(recordings, FORMAT, {"world": "hands"}, 0, "record less")
    for split in ("train", "heldout"):
        data.write_shard(
            shard_folder(recordings, split, 0), [record_episode(engine, split, n) for n in range(2)]
        )
    quick = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, sequences=1))
    out = pretrain(quick, recordings, tmp_path / "out", minutes_autoencoder=0, minutes_world=0)
    measures = measure(quick, recordings, out)
    row = json.loads((out / "world.jsonl").read_text().splitlines()[-1])
    assert measures.one_chunk_psnr == pytest.approx(row["psnr"], abs=0.1)
    world = load_parts_world(out)
    assert imagine_video(world, scenarios("right-3", 4), num_steps=1).shape == (2, 13, 3, 64, 64)
    assert {file.name for file in out.glob("hands_parts_*")} == {
        WEIGHTS.autoencoder,
        WEIGHTS.net,
    }
    assert len(GRIPPER) == len(cut_gripper())
