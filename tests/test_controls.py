"""Controls: what they refuse, how words, composites and values follow from one another."""

import pytest
import torch
from controls_of_a_gripper import GRIPPER, MOUSE

from worldcompass.controls import Axis, Controls, button
from worldcompass.types import Actions, ControlValues


def test_a_path_in_words_sets_each_control_to_its_bound():
    actions = GRIPPER.along("reach-2, close+up-1, none-1")
    wanted = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 0]]
    assert actions.flat_KA.tolist() == wanted
    assert actions.commanded_K.tolist() == [False, True, True, True, False]


def test_settings_within_a_latent_are_held_by_words_and_free_by_value():
    held = MOUSE.along("jump+turn_left-1")
    assert held.values_KTA.shape == (2, 4, 4)
    assert held.values_KTA[1].tolist() == [[pytest.approx(-0.4), 0, 1, 0]] * 4
    free = ControlValues(torch.tensor([[[0.0, 0, 1, 7], [0, 0, 0, 7], [0.4, -1, 0, 7], [0, 0, 1, 10]]]))
    MOUSE.check(free)
    assert free.flat_KA.shape == (1, 16)


@pytest.mark.parametrize("space", [GRIPPER, MOUSE])
def test_every_composite_has_words_a_name_and_values_of_its_own(space):
    every = range(space.num_composites)
    assert [space.of_words(space.words(c)) for c in every] == list(every)
    assert [space.composite(space.signs(c)) for c in every] == list(every)
    assert space.composites(space.commanded(torch.arange(len(every)))).tolist() == list(every)
    assert space.parse(space.path([0, *every])).tolist() == [0, *every]
    assert [space.name(c) for c in every] == [
        " + ".join(part for part in (row, column) if part != "none") or "none"
        for row in space.rows
        for column in space.columns
    ]


def test_a_gripper_has_81_composites_in_a_table_of_nine_by_nine():
    kinds = [GRIPPER.kind(c) for c in range(GRIPPER.num_composites)]
    assert (kinds.count("none"), kinds.count("basic"), kinds.count("combined")) == (1, 8, 72)
    assert GRIPPER.rows[:4] == ("none", "right", "left", "reach") and len(GRIPPER.rows) == 9
    assert GRIPPER.columns[:4] == ("none", "close", "open", "up") and len(GRIPPER.columns) == 9


def test_a_value_counts_from_half_of_its_way_on():
    values = torch.tensor([[0.49, 0, 0, 0], [0.5, -0.5, 0, 0.24], [0, 0, -1, 0.26]])
    names = [GRIPPER.name(int(c)) for c in GRIPPER.composites(GRIPPER.hold(values))]
    assert names == ["none", "reach + left", "down + close"]


def test_words_can_set_a_control_to_less_than_its_bound():
    space = Controls((Axis("yaw", words=("left", "right"), stroke=0.1),))
    assert space.along("right-1, left-1").flat_KA.flatten().tolist() == pytest.approx([0.0, 0.1, -0.1])
    values = space.hold(torch.tensor([[0.04], [0.06], [0.9], [-0.05]]))
    space.check(values)
    assert [space.name(int(c)) for c in space.composites(values)] == ["none", "right", "right", "left"]
    assert space.changed(values, 0).flat_KA.flatten().tolist() == [-1, -1, -1, 1]


def test_keys_are_chosen_around_those_that_the_axes_name():
    codes = {key.word: key.code for key in GRIPPER.keys}
    assert codes["reach"] == "KeyW" and codes["left"] == "KeyA" and codes["up"] == "ArrowUp"
    assert {key.word: key.code for key in MOUSE.keys} == {
        "turn_left": "ArrowLeft", "turn_right": "ArrowRight", "back": "KeyS", "forth": "KeyW", "jump": "Space",
    }  # fmt: skip
    many = Controls(tuple(button(f"b{i}") for i in range(12)))
    assert [key.code for key in many.keys][-3:] == ["Digit0", "", ""]


def test_held_keys_that_oppose_each_other_cancel():
    assert GRIPPER.of_words(["reach", "pull", "up"]) == GRIPPER.of_words(["up"])
    assert GRIPPER.of_words(["none"]) == 0


def test_the_last_setting_goes_on():
    actions = MOUSE.along("jump-1")
    changed = ControlValues(actions.values_KTA.clone().index_fill_(1, torch.tensor(3), 0.0))
    assert MOUSE.hold_last(changed, 2).values_KTA[2:].tolist() == [[[0.0] * 4] * 4] * 2


def test_what_follows_must_stay_within_the_bounds():
    past = Actions.stack([GRIPPER.along("reach-1"), GRIPPER.along("up-1")])
    coming = GRIPPER.hold(torch.tensor([[[0.5, 0, 0, 0]], [[0, 0, 0, 0.5]]]))
    longer = GRIPPER.follow(past, coming, 3)
    assert len(longer) == 5 and longer.flat_KA[:, :2].equal(past.flat_KA)
    assert longer.flat_KA[0, 2:].tolist() == [[0.5, 0, 0, 0]] * 3
    with pytest.raises(ValueError, match=r"the control grip is 1\.4: expected -0.5 to 0.5$"):
        GRIPPER.follow(past, GRIPPER.hold(torch.tensor([[[0, 0, 0, 1.4]]] * 2)), 1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(2, 1, 3), r"\(\.\.\., K, 1, 4\) of 4 controls \(reach, side, height, grip\), got"),
        (torch.zeros(2, 4), "expected floating-point values"),
        (torch.zeros(2, 1, 4).long(), "got torch.int64"),
        (torch.full((2, 1, 4), torch.nan), "the control reach is nan: expected -1 to 1"),
        (torch.full((2, 1, 4), -0.51), "the control grip is -0.51: expected -0.5 to 0.5"),
    ],
)
def test_values_outside_of_the_space_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        GRIPPER.check(ControlValues(values))


def test_a_value_between_two_levels_is_refused():
    values = torch.zeros(1, 4, 4)
    values[..., 1] = 0.5
    with pytest.raises(ValueError, match=r"the control scroll is 0.5: expected -1 to 1 in 3 even levels"):
        MOUSE.check(ControlValues(values))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Axis("a", 1, -1), "expected finite bounds, the lower one first"),
        (lambda: Axis("a", 1, 2), "goes from 1 to 2: expected 0, where a control rests, between them"),
        (lambda: Axis("a", words=("b", "c", "d")), "expected one for each way from 0"),
        (lambda: Axis("a", 0, 1, words=("b", "c")), "expected one for each way from 0"),
        (lambda: Axis("a", words=("go-2", "b")), "has the word 'go-2': expected small letters"),
        (lambda: Axis("a", words=("none", "b")), "has the word 'none'"),
        (lambda: Axis("a", levels=4), "has 4 levels from -1 to 1: expected 2 or more, 0 among them"),
        (lambda: Axis("a", words=("b", "c"), codes=("KeyB",)), "has 1 keys for 2 words"),
        (
            lambda: Axis("a", words=("b",), stroke=2),
            "has a stroke of 2 for -1 to 1: expected a value of its own",
        ),
        (lambda: Axis("a", words=("b",), stroke=0), "has a stroke of 0"),
        (lambda: Axis("a", words=("b",), levels=3, stroke=0.5), "has a stroke of 0.5"),
        (lambda: Controls(()), "expected one control or more with different names"),
        (lambda: Controls((button("a"), button("a"))), "with different names"),
        (lambda: Controls((Axis("a"),)), "expected different words for the ways"),
        (lambda: Controls((Axis("x", words=("a", "b")), button("a"))), "expected different words"),
        (lambda: Controls((button("a"),), per_latent=0), "per_latent is 0"),
        (lambda: Controls(tuple(button(f"b{i}") for i in range(63))), "combine in more than 2\\*\\*62 ways"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("grab-2", r"pull-3 or pull\+up-4, with keys from pull reach left right down up open close none"),
        ("up+down-1", "asks for opposite ways at once"),
        ("up+up-1", "names a key twice"),
        ("up-0", "cannot read 'up-0'"),
    ],
)
def test_a_path_that_the_world_does_not_know_names_its_words(path, sentence):
    with pytest.raises(ValueError, match=sentence):
        GRIPPER.parse(path)


def test_actions_of_one_kind_are_not_taken_for_the_other():
    with pytest.raises(ValueError, match="expected camera poses, got the values of controls"):
        _ = GRIPPER.along("up-1").cameras
    from camera_paths import CAMERAS

    with pytest.raises(ValueError, match="expected the values of controls, got camera poses"):
        GRIPPER.check(CAMERAS.along("w-1"))
    with pytest.raises(ValueError, match="expected actions of one kind"):
        Actions.stack([GRIPPER.along("up-1"), CAMERAS.along("w-1")])


def test_of_many_controls_only_those_with_words_are_named():
    many = Controls((button("jump"), *(Axis(f"button_{n}", 0.0, levels=2) for n in range(20))))
    assert many.describe() == "21 controls (jump, 20 without a key)"
    assert MOUSE.describe() == "4 controls (yaw, scroll, jump, unnamed)"
