"""Likeness to reachable truth: what no enhancement, speckle or other place can raise."""

from dataclasses import replace

import pytest
import torch
from drawn_room import drawn_video
from torch.nn.functional import avg_pool2d

from worldcompass.actions import CameraActions
from worldcompass.media.pixels import gain_limited_vif, window_means
from worldcompass.rewards.alignment import align
from worldcompass.rewards.quality import sharpness_loss
from worldcompass.rewards.random_features import RandomFeatures
from worldcompass.rewards.truth_paired import TruthPaired, TwoSided
from worldcompass.testing import check_critic
from worldcompass.toy import ACTIONS
from worldcompass.types import Group, Truth


def blurred(frames):
    flat = frames.float().flatten(0, -4)
    return avg_pool2d(flat, 3, 1, 1, count_include_pad=False).view(frames.shape)


def byte(frames):
    return frames.round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def room():
    """Five frames of a turning camera, softened as an autoencoder softens."""
    angles = torch.arange(5) * 0.05
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 0] = poses[:, 2, 2] = angles.cos()
    poses[:, 0, 2], poses[:, 2, 0] = angles.sin(), -angles.sin()
    return byte(blurred(drawn_video(poses, (48, 64))))


def degraded(frames):
    """Every forgery by its name, of uint8 frames (..., F, 3, h, w)."""
    x, noise = frames.float(), torch.Generator().manual_seed(0)
    mean = x.mean((-2, -1), keepdim=True)
    speckle = torch.rand(x.shape, generator=noise) < 0.02
    return {
        "sharpened": byte(x + 1.5 * (x - blurred(frames))),
        "contrast": byte(mean + 1.3 * (x - mean)),
        "faded": byte(mean + 0.7 * (x - mean)),
        "blurred": byte(blurred(frames)),
        "grainy": byte(x + 8 * torch.randn(x.shape, generator=noise)),
        "speckled": torch.where(speckle, 255, frames),
        "elsewhere": frames.flip(-1),
        "striped": byte(x + 20 * (torch.arange(x.shape[-1]) % 4 == 0)),
    }


def group_of(candidates, true, past=0, **changes):
    actions = ACTIONS.commanded(torch.zeros(past + 1, dtype=torch.long))
    return replace(
        Group(
            candidates, true[:0], true[0], actions.latents(past, past + 1), 4,
            truth=Truth(true, actions.latents(past, past + 1), true), past_actions=actions.latents(0, past),
        ),
        **changes,
    )  # fmt: skip


def test_nothing_is_more_like_the_truth_than_itself(room):
    own = gain_limited_vif(room, room)
    torch.testing.assert_close(own, torch.ones(5), atol=1e-3, rtol=0)
    for name, frames in degraded(room).items():
        assert (gain_limited_vif(frames, room) < own - (0 if name == "contrast" else 0.02)).all(), name


def test_more_contrast_than_the_truth_earns_nothing(room):
    mean = room.float().mean((-2, -1), keepdim=True)
    values = [
        gain_limited_vif(byte(mean + f * (room.float() - mean)), room).mean() for f in (0.8, 1, 1.2, 1.4)
    ]
    assert values[0] < values[1]
    assert max(values[2:]) <= values[1] + 1e-4


@pytest.mark.parametrize("padding", [0, 2])
def test_means_of_windows_are_those_of_pooling(padding):
    maps = torch.rand(2, 3, 9, 12)
    pooled = avg_pool2d(maps, 5, 1, padding, count_include_pad=False)
    torch.testing.assert_close(window_means(maps, 5, padding), pooled)


def test_a_flat_reference_has_a_finite_likeness():
    flat = torch.full((1, 3, 48, 64), 90, dtype=torch.uint8)
    assert torch.isfinite(gain_limited_vif(flat, flat)).all()


def test_a_shifted_picture_is_aligned_and_another_view_is_not(room):
    shifted = room.roll((1, -2), (-2, -1))
    pair = align(shifted, room)
    assert pair.fit_N.min() > 0.99
    assert torch.equal(pair.frames_N3hw, pair.references_M3hw)
    assert align(room.flip(-1), room).fit_N.max() < 0.5


def test_candidates_that_share_references_score_as_each_alone(room):
    """One set of references for all candidates saves time, and changes nothing."""
    others = [room.roll(2, -1), room.flip(-2)]
    both, features = torch.cat(others), RandomFeatures(3)
    pair = align(both, room)
    for index, alone in enumerate(align(frames, room) for frames in others):
        own = slice(index * len(room), (index + 1) * len(room))
        assert torch.equal(pair.frames_N3hw[own], alone.frames_N3hw)
        assert torch.equal(pair.fit_N[own], alone.fit_N)
        torch.testing.assert_close(gain_limited_vif(both, room)[own], gain_limited_vif(others[index], room))
        torch.testing.assert_close(features.distance(both, room)[own], features.distance(others[index], room))


def test_random_features_depend_on_the_seed_alone_and_see_every_forgery(room):
    features = RandomFeatures(3)
    assert torch.equal(features.distance(room, room), torch.zeros(5))
    for name, frames in degraded(room).items():
        distance = features.distance(frames, room)
        assert (distance > 0).all(), name
        assert torch.equal(distance, RandomFeatures(3).distance(frames, room))
    assert features.pooled(room).shape == (5, 2 * (16 + 32 + 64))


def test_the_truth_scores_above_every_forgery_of_it(room):
    forged = degraded(room)
    group = group_of(torch.stack([room, *forged.values()]), room)
    scores = TruthPaired(least_fit=-1.0)(group)
    assert scores.values_G.argmax() == 0
    assert scores.values_G[1:].max() < scores.values_G[0] - 0.005


def test_the_old_sharpness_prefers_a_forgery_to_the_truth(room):
    """The reward that this one replaces compares with the raw start, which no decoder reaches."""
    raw = room[0].float() + 1.5 * (room[0].float() - blurred(room[:1])[0])
    sharpened = degraded(room)["sharpened"]
    assert sharpness_loss(sharpened, byte(raw)) > sharpness_loss(room, byte(raw))


def test_it_abstains_where_nothing_can_be_compared(room):
    critic = TruthPaired()
    pair = torch.stack([room, room.flip(-1)])
    assert critic(group_of(pair, room)).valid_G.tolist() == [True, False]  # another view
    assert critic(group_of(pair, room, past=3)).valid_G.tolist() == [False, False]  # too deep
    assert critic(group_of(pair, room, past=3, true_past=True)).valid_G.tolist() == [True, False]
    known = group_of(pair, room)
    unreachable = replace(known, truth=replace(known.truth, reachable_F3hw=None))
    assert not critic(unreachable).valid_G.any()
    assert not critic(replace(known, truth=None)).valid_G.any()
    assert not critic(replace(known, frames_GF3hw=pair[:, :4])).valid_G.any()


@pytest.mark.parametrize("name", ["contrast", "faded"])
def test_two_sided_distances_punish_too_much_and_too_little(room, name):
    scores = TwoSided()(group_of(torch.stack([room, degraded(room)[name]]), room))
    assert scores.values_G[0] == 0
    assert scores.values_G[1] < -0.05


def test_both_keep_the_contract_of_critics():
    for critic in (TruthPaired(), TwoSided()):
        check_critic(critic)
    assert isinstance(ACTIONS, CameraActions)
