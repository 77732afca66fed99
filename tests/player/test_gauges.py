"""The player's gauges: is it still the same place, by the engine where it runs, else by the start."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from worldcompass.player.gauges import Gauge
from worldcompass.player.likeness import likeness
from worldcompass.rewards.quality import relative_sharpness
from worldcompass.seeding import generator_for
from worldcompass.toy import ToyWorld
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.player import EnginePane


def wall(red=170, height=48, width=64, offset=0):
    """Bricks with joints, under a grey ceiling."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width) + offset, indexing="ij")
    joint = (y % 8 == 0) | ((x + 8 * (y // 8 % 2)) % 16 == 0)
    grain = 8 * torch.rand(height, width, generator=generator_for("bricks", offset))
    bright = torch.where(joint, 0.45, 1.0)
    bricks = torch.stack([red * bright, 90 * bright, 60 * bright]) + grain
    bricks[:, :12] = 110 + grain[:12]
    return bricks.clamp(0, 255).byte()


def blurred(picture):
    return interpolate(avg_pool2d(picture[None].float(), 4), scale_factor=4, mode="bilinear")[0].byte()


@dataclass(frozen=True)
class Spot:
    """A place of a walk that shows one picture."""

    frames_F3hw: torch.Tensor
    composites_M: tuple[int, ...] = (0, 9)


def spot(picture):
    return Spot(picture[None])


def test_the_same_place_from_a_step_aside_stays_alike_and_another_place_is_not():
    here = wall()
    assert likeness(here, here) == pytest.approx(1)
    assert likeness(here, wall(offset=5)) > 0.9
    assert likeness(here, wall(red=60)) < 0.6, "the same bricks in another colour"
    assert likeness(here, blurred(here)) < 0.75, "the same colours without the bricks"
    assert likeness(here, torch.zeros_like(here)) < 0.1
    assert likeness(here, wall(red=150)) == likeness(wall(red=150), here)


def test_grain_raises_sharpness_and_lowers_likeness():
    here = wall()
    grain = 50 * torch.randn(here.shape, generator=generator_for("grain"))
    grainy = (here + grain).clamp(0, 255).byte()
    assert relative_sharpness(grainy, here) > 1.2 and likeness(grainy, here) < 0.7


@pytest.mark.parametrize("size", [(1, 2), (4, 4), (3, 5)])
def test_pictures_of_any_size_have_a_likeness(size):
    first, second = torch.randint(0, 255, (2, 3, *size), generator=generator_for("small")).byte()
    assert 0 <= likeness(first, second) <= 1 and likeness(first, first) == pytest.approx(1)


def test_the_engines_frame_is_the_measure_where_it_runs_and_the_start_elsewhere():
    start, moved = wall(), wall(red=60)
    gauge = Gauge.begin(start).after(None, spot(start), spot(moved))
    beside = Gauge.begin(start).after(None, spot(start), spot(moved), truth_3hw=moved)
    assert gauge.like == "start" and gauge.likeness < 0.6
    assert beside.like == "engine" and beside.likeness == pytest.approx(1)
    assert gauge.sharpness == beside.sharpness
    real = Gauge.begin(start, real=True).after(None, spot(start), spot(moved), truth_3hw=moved)
    assert real.likeness is None
    said = beside.as_json(ToyWorld().spec.actions)
    assert (said["like"], said["likeness"], said["obeyed"]) == ("engine", beside.likeness, 0)


def test_a_map_of_the_game_is_more_like_itself_than_like_another_map():
    first, later, other = (
        pictures(*asked) for asked in (("my_way_home", 1), ("my_way_home", 4), ("health_gathering", 4))
    )
    assert likeness(first, later) > likeness(first, other) + 0.2
    assert EnginePane("Engine").real


def pictures(name, steps):
    """The picture after some steps to the right on a map."""
    with Engine(find_map(name)) as engine:
        shown = engine.reset(3, None)
        for _ in range(steps):
            shown = engine.act(1) or shown
        return torch.from_numpy(np.ascontiguousarray(shown.frames_Fhw3[-1])).movedim(-1, 0)
