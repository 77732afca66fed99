"""Things are found in pictures, and instructions are done when the engine says so; pixels agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldcompass.errors import UserError
from worldcompass.worlds.hands.facts import ABSENT_POSE, CONTROLS, THINGS
from worldcompass.worlds.hands.place import Table
from worldcompass.worlds.hands.scripts import Behaviour, Fixed, Pick, Push
from worldcompass.worlds.hands.sight import ColourEye, on_table
from worldcompass.worlds.hands.silhouettes import GRIPPER, silhouettes, start_poses
from worldcompass.worlds.hands.splits import Scene, scene
from worldcompass.worlds.hands.starts import draw_start, scene_starts
from worldcompass.worlds.hands.tasks import (
    PICK_CUP,
    PUSH_BALL_LEFT,
    Instruction,
    Seen,
    done_in_pixels,
    instruction_in,
    instructions,
    of_scene,
    parse,
)
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.hands.watching import PixelWatch, TruthWatch
from worldcompass.worlds.hands.world import load_hands_world

FIRST = scene("heldout", 0)  # navy cup, pink ball, red bottle
CUP, BALL = (THINGS.index(kind) for kind in ("cup", "ball"))


@pytest.fixture(scope="module")
def table(engine):
    """A table of its own; the shared engine says whether one can be drawn."""
    made = Table()
    yield made
    made.close()


def watched(table: Table, start: Scene, behaviour: Behaviour, most: int = 24):
    """What truth and pixels say after a behaviour."""
    place = table.begin(start)
    truth, pixels = TruthWatch.start(start), PixelWatch.start(start, place.frames_F3hw[0])
    while place.composites_M and most > 0 and (action := behaviour(place.look)) is not None:
        place, most = place.go(CONTROLS[action].astype(float)), most - 1
        truth = truth.after(place.look)
        pixels = pixels.after(CONTROLS[action].astype(float), place.frames_F3hw[-1])
    return truth.done, pixels.done


def test_things_are_found_where_they_stand(engine):
    errors = []
    for number in range(12):
        one = scene("heldout", number)
        start = draw_start(engine, one)
        places = ColourEye(one, start)(start[None])[0]
        for thing in one.things:
            found = on_table(places[THINGS.index(thing.kind)], thing.kind)
            errors.append(np.linalg.norm(found - (thing.x, thing.y)))
        absent = [index for index, kind in enumerate(THINGS) if one.placed(kind) is None]
        assert np.isnan(places[absent]).all()
    assert np.nanmedian(errors) < 0.015
    assert (
        np.mean(np.array(errors) < 0.05) > 0.9
    )  # a handle draws the middle aside, and the gripper hides some


def test_things_are_found_through_the_autoencoder():
    world = load_hands_world()
    for start in scene_starts():
        with torch.inference_mode():
            code = world.autoencoder.encode(start.image_3hw[None].float() / 255)
            coded = (255 * world.autoencoder.pictures(code).clamp(0, 1)).byte()
        eye = ColourEye(start.scene, start.image_3hw)
        apart = np.linalg.norm(eye(coded) - eye(start.image_3hw[None]), axis=-1)
        assert np.nanmax(apart) < 3


def test_a_picture_without_the_thing_shows_none():
    start = scene_starts()[0]
    blank = torch.full_like(start.image_3hw, 230)
    assert np.isnan(ColourEye(start.scene, start.image_3hw)(blank[None])).all()


def test_silhouettes_cover_each_thing_and_the_gripper_hides_what_is_behind():
    poses = start_poses(FIRST)
    alone = silhouettes(np.array([9, 9, 0.1, 0.1]), poses)
    for thing in FIRST.things:
        index = THINGS.index(thing.kind)
        column, row = project(poses[index : index + 1, :3] + [0, 0, 0.03])[0]
        assert alone[round(row), round(column)] == index
    cup = FIRST.placed("cup")
    assert cup is not None
    over = silhouettes(np.array([cup.x, cup.y - 0.1, 0.02, 0.0]), poses)
    assert (over == CUP).sum() < (alone == CUP).sum() and (over == GRIPPER).any()
    assert not (silhouettes(np.array(FIRST.gripper), np.tile(ABSENT_POSE, (4, 1))) >= 0).any()


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (Pick("cup"), "pick up the navy cup"),
        (Pick("bottle"), "pick up the bottle"),
        (Push("ball", "right"), "push the pink ball to the right"),
        (Push("cup", "left"), "push the cup to the left"),
    ],
)
def test_scripts_do_what_they_are_told_and_truth_and_pixels_say_so(table, behaviour, text):
    wanted = instruction_in(FIRST, text)
    for done in watched(table, FIRST, behaviour):
        assert wanted in done
        assert all(one.kind == wanted.kind for one, _ in done.since), "nothing else was done"
        assert 3 <= dict(done.since)[wanted] <= done.latents


@pytest.mark.parametrize(
    "behaviour", [Fixed([0] * 12), Pick("cup", error_2=(0.0, 0.1)), Push("bottle", "right", steps=0)]
)
def test_what_was_not_done_is_not_seen(table, behaviour):
    for done in watched(table, FIRST, behaviour):
        assert not [one for one, _ in done.since if one.kind == "cup"]


def test_a_thing_that_stays_while_the_fingers_rise_was_not_picked_up():
    """Planted: the commands of a grasp, with pictures in which the cup comes along or stays."""
    grips = [
        (0.0, 0.0, z, opening)
        for z, opening in ((0.05, 0.24), (0.05, 0.14), (0.05, 0.04), (0.10, 0.0), (0.15, 0.0))
    ]
    seen = Seen(FIRST, np.array(grips), np.full((5, 4, 2), np.nan))
    tips = project(np.array(grips)[:, :3]) + np.array([0.5, 1.0])
    wanted = of_scene(FIRST, PICK_CUP)
    assert wanted is not None
    for rises, expected in ((1.0, True), (0.0, False)):
        places = seen.places_MT2.copy()
        places[:, CUP] = tips[0] + rises * (tips - tips[0])
        assert done_in_pixels(wanted, replace(seen, places_MT2=places)) is expected
    assert not done_in_pixels(wanted, seen), "what is not seen is not lifted"
    open_M4 = np.array(grips)
    open_M4[:, 3] = 0.24
    places[:, CUP] = tips
    assert not done_in_pixels(wanted, replace(seen, grip_M4=open_M4, places_MT2=places)), (
        "open fingers hold nothing"
    )


def test_every_instruction_is_read_back_from_its_words():
    for number in range(6):
        one = scene("unseen_looks", number)
        for wanted in instructions(one):
            assert parse(str(wanted)) == wanted == instruction_in(one, str(wanted).upper())
            assert of_scene(one, replace(wanted, colour="")) == wanted
    assert parse("pick up the cup") == PICK_CUP and parse("push the ball to the left") == PUSH_BALL_LEFT


def test_unknown_instructions_are_refused_with_those_that_are_known():
    with pytest.raises(
        UserError, match=r"no instruction 'eat the cup': expected .* such as 'pick up the cup'"
    ):
        parse("eat the cup")
    with pytest.raises(
        UserError, match="heldout/0 cannot pick up the block: choose one of pick up the navy cup"
    ):
        instruction_in(FIRST, "pick up the block")
    assert of_scene(FIRST, Instruction("pick up", "cup", "red")) is None
