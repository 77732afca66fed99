"""Controls of the published data sets, and the numbers that the network reads."""

import json

import pytest
import torch
from nano_tiny import STATISTICS
from safetensors.torch import save_file

from worldcompass.errors import UserError
from worldcompass.types import ControlValues
from worldcompass.worlds.nano.actions import GAME_SIZE, Statistics, actions_of


def test_pusht_is_steered_in_its_picture():
    known = Statistics((-0.0087, 0.0068), (0.2019, 0.2002))
    actions = actions_of(2, 5, scale=100.0, statistics=known)
    assert [key.word for key in actions.space.keys] == ["left", "right", "up", "down"]
    assert actions.size == 10
    numbers = actions.packed(actions.space.along("right+down-1"))[1].view(5, 2)
    pressed = 0.01 * 100 * 1.5 * torch.tensor(known.std)  # raw pixels, then divided by the scale
    expected = (pressed - torch.tensor(known.mean)) / (torch.tensor(known.std) + 1e-6)
    torch.testing.assert_close(numbers, expected.expand(5, 2))


def test_settings_of_a_latent_are_packed_one_after_another():
    actions = actions_of(2, 3, normalised=False)
    values = torch.arange(6.0).view(1, 3, 2)
    assert actions.packed(ControlValues(values)).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_every_deviation_is_a_little_larger():
    tiny = Statistics((0.0, 0.0), (1e-6, 1.0))
    numbers = actions_of(2, 1, statistics=tiny).packed(ControlValues(torch.tensor([[[1e-6, 0.0]]])))
    assert float(numbers[0, 0]) == pytest.approx(0.5)


def test_a_resting_control_is_not_the_mean_action():
    actions = actions_of(2, 1, statistics=STATISTICS)
    rest = actions.packed(actions.space.along("none-1"))[0]
    expected = -torch.tensor(STATISTICS.mean) / (torch.tensor(STATISTICS.std) + 1e-6)
    torch.testing.assert_close(rest, expected)


def test_bounds_come_from_the_recorded_extremes():
    space = actions_of(2, 1, statistics=STATISTICS).space
    assert [(axis.low, axis.high) for axis in space.controls] == [(-3.0, 4.0), (-4.0, 3.0)]
    space.check(ControlValues(torch.tensor([[[4.0, -4.0]]])))
    with pytest.raises(ValueError, match="the control x is 5: expected -3 to 4"):
        space.check(ControlValues(torch.tensor([[[5.0, 0.0]]])))


def test_a_control_of_one_sign_has_one_word():
    known = Statistics((0.0, 0.5, -0.5), (0.1, 0.2, 0.2), (-1.0, 0.1, -1.0), (1.0, 1.0, -0.1))
    space = actions_of(3, 1, statistics=known).space
    assert [axis.words for axis in space.controls] == [("a0_less", "a0_more"), ("a1_more",), ()]
    assert (space.controls[1].low, space.controls[2].high) == (0.0, 0.0)


def test_an_arm_has_named_controls():
    space = actions_of(7, 1, normalised=False).space
    assert space.axes == ("x", "y", "z", "roll", "pitch", "yaw", "grip")
    space.along("forward+close-2, up-1")


def test_the_mouse_of_the_shooter_becomes_one_number_for_each_bin():
    actions = actions_of(GAME_SIZE, 1)
    assert GAME_SIZE == actions.size == 51
    numbers = actions.packed(actions.space.along("w+fire+look_left-1"))
    moved = numbers[1]
    assert moved[:13].tolist() == [1.0, *[0.0] * 10, 1.0, 0.0]
    assert moved[13:36].argmax() == 11 - 6
    assert moved[36:].argmax() == 7
    assert numbers.sum(-1).tolist() == [2.0, 4.0]
    back = actions.raw(numbers[:, None])
    assert torch.equal(actions.packed(ControlValues(back)), numbers)


def test_missing_and_foreign_statistics_are_refused():
    with pytest.raises(UserError, match="reads normalised actions: give the mean and deviation"):
        actions_of(2, 5)
    with pytest.raises(UserError, match="statistics are of 2 controls, the checkpoint has 7"):
        actions_of(7, 1, statistics=STATISTICS)
    with pytest.raises(UserError, match="the control y never changes"):
        actions_of(2, 1, statistics=Statistics((0.0, 0.0), (1.0, 0.0)))


def test_statistics_are_read_from_json_safetensors_and_lerobot(tmp_path):
    plain, tensors, lerobot = (tmp_path / name for name in ("own.json", "own.safetensors", "stats.json"))
    plain.write_text(json.dumps(STATISTICS.written()))
    save_file({name: torch.tensor(value) for name, value in STATISTICS.written().items()}, tensors)
    named = {"mean": "mean", "std": "std", "low": "min", "high": "max"}
    entry = {named[name]: list(value) for name, value in STATISTICS.written().items()}
    lerobot.write_text(json.dumps({"action": entry, "observation.state": {"mean": [0]}}))
    assert Statistics.read(plain) == Statistics.read(lerobot) == STATISTICS
    assert Statistics.read(tensors).mean == pytest.approx(STATISTICS.mean)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"mean": [0]}', '{"mean": [0], "std": [1, 2]}', '{"mean": [NaN], "std": [1]}']
)
def test_a_file_of_other_content_is_refused(content, tmp_path):
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(UserError, match="holds no statistics of actions"):
        Statistics.read(file)


def test_statistics_of_recorded_actions():
    values = torch.tensor([[0.0, 100.0], [200.0, 300.0]])
    found = Statistics.of(values, scale=100.0)
    assert found.mean == (1.0, 2.0)
    assert found.std == pytest.approx((2**0.5, 2**0.5))
    assert found.high == (200.0, 300.0)
