"""Waypoint's controls: their order, their words, and what is refused."""

import pytest
import torch

from worldcompass.types import ControlValues
from worldcompass.worlds.waypoint.controls import MOUSE_STROKE, PLAY_KEYS, control_values, waypoint_controls

SPACE = waypoint_controls(256)


def test_the_order_is_mouse_buttons_wheel():
    assert SPACE.axes[:3] == ("mouse_x", "mouse_y", "button_0")
    assert (len(SPACE.axes), SPACE.axes[-1], SPACE.axes[-2]) == (259, "wheel", "button_255")
    values = control_values(torch.tensor([[0.1, -0.2]]), [{87, 1}], torch.tensor([-3.0]), 256)
    assert values[0, :2].tolist() == pytest.approx([0.1, -0.2])
    assert values[0].nonzero()[:, 0].tolist() == [0, 1, 3, 89, 258]
    assert values[0, -1] == -1  # of the wheel only the sign


def test_a_path_presses_the_virtual_keys_of_its_words():
    values = SPACE.along("w+space-2, left-1, a+shift+click+down-1").values_KTA[:, 0]
    pressed = [set((row[2:-1] > 0).nonzero()[:, 0].tolist()) for row in values]
    assert pressed == [set(), {87, 32}, {87, 32}, set(), {65, 16, 1}]
    assert values[3, 0] == -MOUSE_STROKE
    assert values[4, 1] == MOUSE_STROKE
    assert SPACE.path(SPACE.composites(SPACE.along("w+space-2, right-1")).tolist()) == "space+w-2, right-1"


def test_only_keys_that_people_play_with_have_words():
    assert [key.word for key in SPACE.keys] == [
        "left", "right", "up", "down", "click", "shift", "space", "a", "d", "s", "w",
    ]  # fmt: skip
    assert {key.code for key in SPACE.keys} >= {key.code for key in PLAY_KEYS.values()}
    assert SPACE.num_composites == 3 * 3 * 2**7


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (0, 500.0, "the control mouse_x is 500: expected -100 to 100"),
        (89, 0.5, "the control w is 0.5: expected 0 to 1 in 2 even levels"),
        (258, -3.0, "the control wheel is -3"),
        (5, float("nan"), "the control button_3 is nan"),
    ],
)
def test_controls_out_of_range_are_refused(column, value, words):
    values = torch.zeros(4, 1, 259)
    values[2, 0, column] = value
    with pytest.raises(ValueError, match=words):
        SPACE.check(ControlValues(values))


def test_controls_of_another_rate_or_number_are_refused():
    for shape in ((4, 2, 259), (4, 1, 258)):
        with pytest.raises(ValueError, match=r"expected floating-point values \(..., K, 1, 259\)"):
            SPACE.check(ControlValues(torch.zeros(shape)))


def test_a_model_with_few_buttons_has_the_words_that_it_can_press():
    assert [key.word for key in waypoint_controls(20).keys] == [
        "left",
        "right",
        "up",
        "down",
        "click",
        "shift",
    ]
