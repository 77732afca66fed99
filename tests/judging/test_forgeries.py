"""Forgeries of videos: each changes what it names, and nothing at strength 0."""

import pytest
import torch

from worldcompass.judging.forgeries import FORGERIES, blurred, contrasted, forge, grainy, sharpened
from worldcompass.seeding import generator_for


def video(frames=3, size=(24, 32)):
    """A grey video with a bright square."""
    frames_F3hw = torch.full((frames, 3, *size), 90, dtype=torch.uint8)
    frames_F3hw[:, :, 8:16, 10:20] = 160
    return frames_F3hw


def detail(frames_F3hw):
    return float(frames_F3hw.float().diff(dim=-1).square().mean())


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_of_strength_zero_changes_nothing(name):
    assert FORGERIES[name](video(), 0.0, generator_for("zero")).equal(video())


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_keeps_the_shape_leaves_its_input_alone_and_depends_on_its_generator_only(name):
    given = video()
    first, second = (FORGERIES[name](given, 1.5, generator_for("same")) for _ in range(2))
    assert first.equal(second) and not first.equal(given) and given.equal(video())
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
