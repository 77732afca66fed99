"""Forgeries of videos: each changes what it names, and nothing at strength 0."""

import itertools

import pytest
import torch

from worldcompass.judging.forgeries import (
    FORGERIES,
    FULL,
    blurred,
    contrasted,
    forge,
    frozen,
    grainy,
    repeated,
    saturated,
    sharpened,
    speckled,
    striped,
)
from worldcompass.seeding import generator_for


def video(frames=3, size=(24, 32)):
    """A grey video with a bright square."""
    frames_F3hw = torch.full((frames, 3, *size), 90, dtype=torch.uint8)
    frames_F3hw[:, :, 8:16, 10:20] = 160
    return frames_F3hw


def lively():
    """The same in colour, and brighter from frame to frame."""
    brighter = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    return video() + brighter + torch.tensor([0, 30, 60], dtype=torch.uint8).view(3, 1, 1)


def detail(frames_F3hw):
    return float(frames_F3hw.float().diff(dim=-1).square().mean())


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_of_strength_zero_changes_nothing(name):
    assert FORGERIES[name](video(), 0.0, generator_for("zero")).equal(video())


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_keeps_the_shape_leaves_its_input_alone_and_depends_on_its_generator_only(name):
    given = lively()
    first, second = (FORGERIES[name](given, 1.5, generator_for("same")) for _ in range(2))
    assert first.equal(second) and not first.equal(given) and given.equal(lively())
    assert first.shape == given.shape and first.dtype == torch.uint8


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_an_impossible_strength_is_refused(name, strength):
    with pytest.raises(ValueError, match="strength of 0 or more"):
        FORGERIES[name](video(), strength, generator_for("bad"))


@pytest.mark.parametrize("name", FORGERIES)
def test_frames_that_are_not_pixels_are_refused(name):
    with pytest.raises(ValueError, match="expected uint8 frames"):
        FORGERIES[name](video().float(), 1.0, generator_for("bad"))


def test_blur_removes_detail_and_sharpening_adds_it():
    soft, crisp = blurred(video(), 1.5, generator_for(0)), sharpened(video(), 1.0, generator_for(0))
    assert detail(soft) < 0.5 * detail(video()) < detail(video()) < detail(crisp)


def test_contrast_spreads_levels_around_the_mean():
    frames = video()
    spread = contrasted(frames, 0.2, generator_for(0)).float()
    assert spread.mean() == pytest.approx(float(frames.float().mean()), abs=0.6)
    assert spread.std() / frames.float().std() == pytest.approx(1.2, abs=0.02)


def test_grain_has_the_asked_standard_deviation_and_differs_between_frames():
    flat = torch.full((4, 3, 60, 80), 128, dtype=torch.uint8)
    grain = grainy(flat, 6.0, generator_for(0)).float() - 128
    assert float(grain.std()) == pytest.approx(6.0, abs=0.1)
    assert not grain[0].equal(grain[1])


def test_several_forgeries_are_applied_in_their_order():
    by_hand = contrasted(sharpened(video(), 1.0, generator_for(0)), 0.2, generator_for(0))
    assert forge(video(), {"sharpened": 1.0, "contrasted": 0.2}, generator_for(0)).equal(by_hand)
    with pytest.raises(ValueError, match="no forgery 'sepia': expected one of blurred"):
        forge(video(), {"sepia": 1.0}, generator_for(0))


def coloured(frames=8):
    """A video of which every frame is a little brighter than the one before."""
    ramp = torch.arange(frames, dtype=torch.uint8)[:, None, None, None]
    return ramp + torch.tensor([90, 120, 60], dtype=torch.uint8).view(3, 1, 1).expand(frames, 3, 24, 32)


def test_saturation_spreads_the_channels_and_keeps_the_grey():
    vivid = saturated(coloured(), 0.5, generator_for(0)).float()
    assert vivid[0, 1].mean() - vivid[0, 2].mean() == pytest.approx(1.5 * 60, abs=1)
    assert vivid.mean() == pytest.approx(float(coloured().float().mean()), abs=0.6)


def test_speckle_changes_the_asked_share_of_pixels():
    spotted = speckled(coloured(40), 0.05, generator_for(0)) != coloured(40)
    assert spotted.any(1).float().mean() == pytest.approx(0.05, abs=0.01)


def test_a_frozen_video_stands_still_at_its_end_only():
    found = frozen(coloured(), 0.5, generator_for(0))
    assert found[:4].equal(coloured()[:4]) and all(frame.equal(found[3]) for frame in found[4:])


def test_a_repeated_frame_shows_the_one_before():
    found = repeated(coloured(60), 0.5, generator_for(0))
    same = [a.equal(b) for a, b in itertools.pairwise(found)]
    assert sum(same) / len(same) == pytest.approx(0.5, abs=0.15)


def test_stripes_come_from_the_other_video():
    found = striped(torch.zeros_like(coloured()))(coloured(), 0.3, generator_for(1))
    black = (found == 0).all(1).all(1).all(0)
    assert 0 < black.float().mean() < 0.7 and found[..., ~black].equal(coloured()[..., ~black])


def test_every_forgery_has_a_full_strength():
    assert set(FORGERIES) | {"striped"} == set(FULL)
