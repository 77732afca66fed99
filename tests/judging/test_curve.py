"""The curve between obedience and looks: nearer and farther, seeds that drift apart, and its file."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from judged import moving_pictures

from worldcompass.errors import UserError
from worldcompass.evaluate import Measured
from worldcompass.judging.curve import (
    FIRST,
    LAST,
    Model,
    Point,
    add_points,
    point_of,
    read_curve,
    ruler_of,
    table_of,
)
from worldcompass.judging.sources import windows
from worldcompass.judging.spaces import spaces

COUNT, FRAMES, CHUNKS = 12, 26, 3
NAMES = tuple(f"{'unseen' if i >= 8 else 'heldout'}/{i}" for i in range(COUNT))
TRUTH = moving_pictures(COUNT, FRAMES, "truth")


def brighter(levels, first=0):
    """The true videos with more light from a frame on."""
    videos = TRUTH.int()
    videos[:, first:] += levels
    return videos.clamp(0, 255).to(torch.uint8)


@cache
def ruler():
    return ruler_of(TRUTH, TRUTH, NAMES, windows(FRAMES, 8, 2, 9), spaces(0, 1)[1:2], 0)


def measured(followed, colour=0.0):
    values = {name: np.full((COUNT, CHUNKS), 0.5) for name in ("critic_accuracy", "quality", "sharpness")}
    values |= {name: np.full((COUNT, CHUNKS), 0.5) for name in ("flicker", "drift")}
    chance = 0.01 * np.random.default_rng(0).normal(size=(COUNT, CHUNKS))
    values |= {"judge_accuracy": followed + chance, "colour": np.full((COUNT, CHUNKS), -colour)}
    kinds = tuple("combined" if i % 2 else "basic" for i in range(COUNT))
    nothing = np.zeros((COUNT, 0), int)
    return Measured(NAMES, kinds, values, nothing, nothing)


def model(videos, followed=0.8, colour=0.0):
    return Model(measured(followed, colour), ruler().logarithms(ruler().features(videos)))


def point(*trained, base=None, **of):
    base = base or model(brighter(12))
    seeds = tuple(range(len(trained)))
    return dataclasses.replace(
        point_of("the demo", 0.5, seeds, False, "train", measured(1.0), base, trained), **of
    )


def test_videos_nearer_to_the_truth_are_nearer_and_those_farther_are_farther():
    nearer, farther = point(model(brighter(6))), point(model(brighter(24)))
    assert nearer.looks[FIRST].falls and nearer.looks[LAST].falls and "looks nearer" in nearer.verdict
    assert farther.looks[FIRST].rises and farther.looks[LAST].rises and "looks farther" in farther.verdict


def test_a_collapse_at_the_end_shows_at_the_end_alone():
    found = point(model(torch.cat([brighter(12)[:, :17], brighter(60, 0)[:, 17:]], 1)))
    assert found.looks[LAST].rises and abs(found.looks[FIRST].mean) < 0.05


def test_seeds_that_drift_in_opposite_directions_do_not_cancel():
    found = point(model(brighter(40)), model(brighter(-40)))
    assert found.looks[FIRST].mean > 1 and found.looks[LAST].mean > 1


def test_two_seeds_of_which_one_collapses_show_nothing_of_the_next():
    alone = [point(model(brighter(levels))).looks[LAST] for levels in (60, 2)]
    found = point(model(brighter(60)), model(brighter(2))).looks[LAST]
    assert found.mean == pytest.approx((alone[0].mean + alone[1].mean) / 2) and alone[0].rises
    assert not found.rises and found.high - found.low > 4 * (alone[0].high - alone[0].low)


def test_followed_commands_and_colours_are_differences_from_the_base():
    found = point(model(brighter(12), followed=0.9, colour=10 / 255))
    assert found.followed["combined"].mean == pytest.approx(0.1)
    assert found.closed["basic"].mean == pytest.approx(0.5, rel=0.1)
    assert found.unseen["combined"].mean == pytest.approx(0.1)
    assert found.colour.mean == pytest.approx(10) and found.verdict.startswith("obeys more")


def test_a_curve_survives_its_file_and_a_point_replaces_its_older_self(tmp_path):
    path, own = tmp_path / "curve.json", point(model(brighter(6)))
    add_points(path, [own])
    add_points(path, [dataclasses.replace(own, way=1.0), dataclasses.replace(own, seeds=(0, 1))])
    found = read_curve(path)
    assert [(p.way, p.seeds) for p in found] == [(0.5, (0, 1)), (1.0, (0,))]
    assert found[1].looks == own.looks
    assert [line.split(" | ")[:2] for line in table_of(found).splitlines()[2:]] == [
        ["| the demo", "0.5"],
        ["| the demo", "1"],
    ]


@pytest.mark.parametrize(
    "text", ['{"schema": 2}', '{"schema": 1, "points": [{}]}', '{"schema": 1, "points": 3}']
)
def test_a_damaged_curve_is_named_in_one_sentence(text, tmp_path):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"curve\.json is .* measure it again"):
        read_curve(path)


def test_the_table_shows_ratios_below_one_for_nearer():
    row = table_of([point(model(brighter(6)))]).splitlines()[-1]
    ratio = float(row.split(" | ")[8].split(" ")[0])
    assert (
        ratio == pytest.approx(float(np.exp(point(model(brighter(6))).looks[LAST].mean)), abs=0.01)
        and ratio < 1
    )


def test_a_point_keeps_what_it_was_made_by():
    own = point(model(brighter(6)))
    assert Point.from_json(own.to_json()).command == "train"
