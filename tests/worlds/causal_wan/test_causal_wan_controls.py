"""Keyboards and mice of Matrix-Game 2 and ForgeWM: order of keys, signs of the mouse, and who reads which frame."""

import pytest
import torch

from worldcompass.errors import UnfitInputs
from worldcompass.types import ControlValues
from worldcompass.worlds.causal_wan.controls import BY_KEYS, DRIVER, RUNNER, WALKER, seen_frames


def numbers(devices, path, num_keys):
    """Keyboard and mouse of a path's latents."""
    values = devices.space.along(path).values_KTA[1:, 0]
    return devices.pressed(values, num_keys).tolist(), devices.moved(values).tolist()


def test_a_walker_has_w_s_a_d_and_a_mouse_of_pitch_and_yaw():
    keyboard, mouse = numbers(WALKER, "w-1, s-1, a-1, d-1, up-1, right-1, s+d+down+left-1", 4)
    assert keyboard == [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]
    ]  # fmt: skip
    moves = torch.tensor([[0.1, 0], [0, 0.1], [-0.1, -0.1]])
    torch.testing.assert_close(torch.tensor(mouse[4:]), moves)
    assert WALKER.space.num_composites == 81
    assert numbers(WALKER, "w-1", 6)[0] == [[1, 0, 0, 0, 0, 0]]  # padded with keys that are never pressed


def test_a_driver_steers_by_the_mouse():
    keyboard, mouse = numbers(DRIVER, "w+left-1, s-1", 2)
    assert keyboard == [[1, 0], [0, 1]]
    torch.testing.assert_close(torch.tensor(mouse), torch.tensor([[0, -0.1], [0, 0]]))
    assert DRIVER.space.num_composites == 9


def test_a_runner_presses_a_key_for_nothing_and_one_key_at_a_time():
    path = "none-1, jump-1, slide-1, turn_left-1, turn_right-1, left-1, right-1"
    keyboard, mouse = numbers(RUNNER, path, 7)
    assert keyboard == torch.eye(7).tolist() and mouse == [[0, 0]] * 7
    space = RUNNER.space
    assert space.num_composites == 7 and RUNNER.key_names[0] == "none"
    every = torch.arange(7)
    assert [space.of_words(space.words(c)) for c in range(7)] == every.tolist()
    assert space.composites(space.commanded(every)).equal(every)
    assert [space.name(c) for c in range(7)] == list(space.rows) and space.columns == ("none",)
    assert space.of_words(["jump", "left"]) == space.of_words(["jump"])
    both = ControlValues(torch.ones(1, 4, 3))
    with pytest.raises(
        ValueError, match="jump and turn and side are commanded at once: this world knows one"
    ):
        space.check(both)
    changed = space.changed(space.along("jump-2"), 2)
    space.check(changed)
    assert [space.name(int(c)) for c in space.composites(changed)] == ["right"] * 3


@pytest.mark.parametrize("devices", [WALKER, DRIVER, RUNNER])
def test_every_word_has_a_key_of_its_own(devices):
    codes = [key.code for key in devices.space.keys]
    assert all(codes) and len(set(codes)) == len(codes)
    assert devices.space.per_latent == 4


def as_settings(first, stop):
    """Settings that name their frame: 4L - 4 to 4L - 1 of latent L; latent 0 has none, which nobody may read."""
    frames = torch.arange(4.0 * first - 4, 4.0 * stop - 4).view(1, -1, 4, 1)
    return frames.where(frames >= 0, torch.nan)


@pytest.mark.parametrize(("first", "count"), [(0, 3), (3, 3), (6, 3), (1, 3), (2, 3), (0, 2), (9, 1)])
def test_latent_l_reads_the_frames_from_12_before_its_end(first, count):
    before = as_settings(max(0, first - 2), first) if first else None
    found = seen_frames(as_settings(first, first + count), before, first)[0, ..., 0]
    expected = [[max(0, i) for i in range(4 * L - 12, 4 * L)] for L in range(first, first + count)]
    assert found.tolist() == expected
    longer = as_settings(0, first) if first else None
    assert torch.equal(seen_frames(as_settings(first, first + count), longer, first)[0, ..., 0], found)


def test_windows_hold_the_frames_one_after_another():
    settings = WALKER.space.along("w-1, right-1, d-1").values_KTA[None]
    windows = WALKER.windows(settings, None, 0, 6)
    assert windows.keyboard_PKE.shape == (1, 4, 72) and windows.mouse_PKE.shape == (1, 4, 24)
    keys = windows.keyboard_PKE.view(4, 12, 6)
    assert keys[0].tolist() == [[1, 0, 0, 0, 0, 0]] * 12  # what was commanded first stands before the video
    assert keys[3, :, 0].tolist() == [1] * 4 + [0] * 8 and keys[3, :, 3].tolist() == [0] * 8 + [1] * 4
    yaw = windows.mouse_PKE.view(4, 12, 2)[3, :, 1]
    torch.testing.assert_close(yaw, torch.tensor([0.0] * 4 + [0.1] * 4 + [0] * 4))


def test_recorded_play_gives_latents_the_frames_before_their_end():
    keyboard, mouse = torch.zeros(9, 4), torch.zeros(9, 2)
    keyboard[2, 0], keyboard[4, 2], keyboard[8, 1] = 1, 1, 1
    mouse[:, 1] = torch.arange(9) / 10
    actions = WALKER.recorded(keyboard, mouse)
    WALKER.space.check(actions)
    values = actions.values_KTA
    assert values.shape == (3, 4, 4) and not values[0].any()
    assert values[1, :, 0].tolist() == [0, 0, 1, 0] and values[2, :, 1].tolist() == [-1, 0, 0, 0]
    assert values[1:, :, 2].flatten().tolist() == pytest.approx([i / 10 for i in range(8)])
    assert not values[..., 0][2].any()  # nobody reads the last frame's setting
    runner = RUNNER.recorded(torch.eye(7)[[0, 1, 1, 6, 0]])
    assert runner.values_KTA[1].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("keyboard", "mouse", "sentence"),
    [
        (torch.zeros(8, 4), None, r"expected a row for each of 1, 5, 9, \.\.\. frames"),
        (torch.zeros(9, 4), torch.zeros(8, 2), r"the mouse \(8, 2\): expected a row for each"),
        (torch.zeros(9, 2), None, "the keyboard has 2 keys.*expected the order w, s, a, d"),
        (torch.ones(9, 6), None, "18 of them pressed beyond the world's own"),
    ],
)
def test_recordings_of_other_devices_are_refused(keyboard, mouse, sentence):
    with pytest.raises(UnfitInputs, match=sentence):
        WALKER.recorded(keyboard, mouse)


def test_a_mouse_that_the_world_does_not_know_is_refused():
    with pytest.raises(UnfitInputs, match="the mouse moves in pitch"):
        DRIVER.recorded(torch.zeros(5, 2), torch.ones(5, 2))
    fast = WALKER.recorded(torch.zeros(5, 4), torch.full((5, 2), 3.0))
    with pytest.raises(ValueError, match="the control yaw is 3: expected -1 to 1"):
        WALKER.space.check(fast)


def test_the_devices_follow_from_the_number_of_keys():
    assert BY_KEYS == {2: DRIVER, 4: WALKER, 6: WALKER, 7: RUNNER}
    assert all(len(devices.key_names) <= keys for keys, devices in BY_KEYS.items())
