"""The embedded world keeps its contract, decodes exactly, shares pasts without copies, refuses wrong weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from camera_paths import commanded, parse_path
from safetensors.torch import save_file

from worldcompass.errors import UserError
from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Actions, Scenario
from worldcompass.walk import start_walk
from worldcompass.worlds.doom.network.autoencoder import Autoencoder
from worldcompass.worlds.doom.network.transformer import TOKENS, DoomTransformer, feed_forward, rotate
from worldcompass.worlds.doom.world import (
    MAX_HISTORY,
    SPEC,
    WEIGHTS_VERSION,
    DoomWorld,
    _needed,
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
    net = DoomTransformer(width=96, depth=2)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return DoomWorld(Autoencoder(), net)


def test_the_embedded_world_keeps_the_contract(world):
    check_world_model(world, scenarios())


def test_nominal_motion_is_one_in_its_own_units():
    """w+left: forward 1 with the heading turned half-way, yaw -1; the start image stands still."""
    actions = commanded(parse_path("w-1, left-1"), SPEC.actions.motion, intrinsics())
    poses = actions.world_from_camera_K44[None]
    motion = camera_motion(poses[:, 0], poses)[0]
    expected = [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, -1, 0, 0]]
    torch.testing.assert_close(motion, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


def test_history_is_bounded_and_the_first_chunk_is_kept(world):
    """The memory does not grow with the length of the video."""
    scenario = scenarios()[0]
    labels = torch.cat([parse_path("w-3"), torch.full((92,), 9)])
    actions = commanded(labels, SPEC.actions.motion, intrinsics())
    context = world.begin([scenario])
    for chunk in range(24):
        part = actions.latents(4 * chunk, 4 * chunk + 4)
        part = type(part)(*(x[None] for x in (part.labels_K, part.world_from_camera_K44, part.intrinsics_K4)))
        context = world.attend(context, part)
        assert context.attended is not None
        if context.attended.prefix is not None:
            assert context.attended.prefix[0][0].shape[2] <= 8 * TOKENS
        context = world.remember(context, torch.randn(1, *SPEC.latent_shape[:1], 4, 6, 8), part)
    assert sum(h.poses_PK44.shape[1] for h in context.history) <= MAX_HISTORY
    assert context.history[0].poses_PK44[0, 0].equal(torch.eye(4))


def test_pieces_for_the_cache_change_nothing(world, monkeypatch):
    """Predictions, gradients and frames are those of all rows at once."""
    generator, found = torch.Generator().manual_seed(0), []
    actions = Actions.stack([s.actions.latents(0, 4) for s in scenarios()])
    noisy, sigma = torch.randn(8, *SPEC.latent_shape[:1], 4, 6, 8, generator=generator), torch.full((8,), 0.7)
    context = world.attend(world.begin(scenarios()), actions)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for per_thread in (4, 99):
        monkeypatch.setattr("worldcompass.worlds.doom.world.ROWS_PER_THREAD", per_thread)
        monkeypatch.setattr("worldcompass.worlds.doom.world.CLIPS_PER_THREAD", per_thread)
        world.net.zero_grad()
        clean = world.predict_clean(noisy, sigma, actions, context)
        clean.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in world.net.parameters() if p.grad is not None])
        found.append((clean.detach(), gradient, world.decode(noisy, context).float()))
    assert (found[0][2] - found[1][2]).abs().max() <= 1
    for ours, whole in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-4)


def test_a_piece_has_rows_for_every_thread(world, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.doom.world.CLIPS_PER_THREAD", 3)
    sizes: list[int] = []
    monkeypatch.setattr(world, "_frames", lambda clean, _: sizes.append(len(clean)) or clean)
    latents = torch.zeros(8, *SPEC.latent_shape[:1], 4, 6, 8)
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        world.decode(latents, world.begin(scenarios()))
    assert sizes == [3, 3, 2, 6, 2]


def test_onednn_computes_the_layers_that_it_replaces(world, monkeypatch):
    up, down, x = torch.nn.Linear(96, 384), torch.nn.Linear(384, 96), torch.randn(3, 4, 96)
    with torch.no_grad():
        fast = feed_forward(up, down, x)
        monkeypatch.setattr("worldcompass.worlds.doom.network.transformer.ONEDNN_LINEAR", None)
        torch.testing.assert_close(fast, feed_forward(up, down, x), atol=1e-5, rtol=1e-5)


def test_rotation_has_the_gradient_of_its_formula():
    cos, sin = (f(torch.randn(2, 1, 5, 24, dtype=torch.float64)) for f in (torch.cos, torch.sin))
    x = torch.randn(2, 3, 5, 48, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, -1)
    expected = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    torch.testing.assert_close(rotate(x, (cos, sin)), expected)
    assert torch.autograd.gradcheck(lambda x: rotate(x, (cos, sin)), x, fast_mode=True)


def test_chunks_of_one_latent_give_the_same_number_of_frames(world):
    short = [Scenario(s.id, s.actions.latents(0, 6), image_3hw=s.image_3hw) for s in scenarios()]
    for length in SPEC.chunk_lengths:
        video = imagine_video(world, short, chunk_length=length, num_steps=2)
        assert video.shape == (2, 21, 3, 48, 64) and video.dtype == torch.uint8


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


def test_only_chunks_with_a_chosen_latent_are_gathered(world):
    walk = start_walk(world, scenarios(), num_steps=1)
    for label in (9, 2, 1, 2, 9, 2):
        walk = walk.step(walk.of([label, label + 9]))
    context = walk.context
    chosen = torch.tensor([[0, 5, 6], [2, 5, 6]])
    kept, index = _needed(context.history, chosen)
    assert [any(h is k for k in kept) for h in context.history] == [
        True,
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    poses, gathered = (torch.cat([h.poses_PK44 for h in part], 1) for part in (context.history, kept))
    rows = torch.arange(2)[:, None]
    assert gathered[rows, index].equal(poses[rows, chosen])


def test_an_image_of_another_size_is_refused_in_words(world):
    wrong = Scenario("x", scenarios()[0].actions, image_3hw=torch.zeros(3, 10, 10, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"starts from a uint8 image of shape \(3, 48, 64\), got \(3, 10, 10\)"
    ):
        world.begin([wrong])


def test_wrong_weights_are_refused_in_words(tmp_path: Path):
    file = tmp_path / "doom_world.safetensors"
    with pytest.raises(UserError, match="no weights at"):
        load_doom_world(tmp_path / "nothing")
    file.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="is not a safetensors file"):
        load_doom_world(tmp_path)
    save_file({"a": torch.zeros(1)}, file, {"version": "0"})
    with pytest.raises(UserError, match="version 0, expected"):
        load_doom_world(tmp_path)
    save_file({"a": torch.zeros(1)}, file, {"version": WEIGHTS_VERSION})
    with pytest.raises(UserError, match="belongs to another network"):
        load_doom_world(tmp_path)
