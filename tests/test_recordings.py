"""A user's recordings are read as they are meant, or refused in one sentence."""

import dataclasses
import json

import pytest
import torch
from recorded import record

from worldcompass.controls import Axis, Controls, button
from worldcompass.errors import UserError
from worldcompass.media.video import read_video
from worldcompass.recordings import read_recordings
from worldcompass.toy import ToyWorld

SPEC = dataclasses.replace(ToyWorld().spec, frame_size=(48, 64), fps=24.0, frames_per_latent=4)


def test_a_recording_is_its_frames_and_its_own_actions(tmp_path):
    folder = record(tmp_path, count=2, frames=13, path="w-1, right-2")
    (folder / ".hidden.mp4").write_text("not read")
    first, second = read_recordings(folder, SPEC, 3)
    assert (first.name, second.name) == ("walk00", "walk01")
    assert SPEC.actions.path(SPEC.actions.composites(first.actions).tolist()) == "w-1, right-1"
    scenario = second.scenario(SPEC, shown=lambda frames: frames[..., ::2, ::2])
    frames = read_video(folder / "walk01.mp4")
    assert torch.equal(scenario.image_3hw, frames[0])
    assert torch.equal(scenario.truth.frames_F3hw, frames[:9, :, ::2, ::2])


def spoil_rate(folder):
    record(folder, count=1, frames=13, path="w-3", fps=30)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "walk00.json").unlink(), r"walk00\.mp4 has no actions: expected them in"),
        (lambda f: (f / "walk00.json").write_text("{"), "is not readable JSON"),
        (lambda f: (f / "walk00.json").write_text("[]"), r'has no path: expected \{"path"'),
        (lambda f: (f / "walk00.json").write_text('{"path": "fly-3"}'), "cannot read 'fly-3'"),
        (lambda f: (f / "walk00.json").write_text('{"path": "w-1"}'), "holds 2 latents, 4 are needed"),
        (lambda f: (f / "walk00.mp4").write_text("x"), "is not a readable video"),
        (lambda f: (f / "walk00.mov").write_text("x"), "two videos named walk00"),
        (lambda f: (f / "walk00.mp4").unlink(), "holds no recordings"),
        (spoil_rate, r"has 30 frames per second, .* shows 24"),
    ],
)
def test_recordings_that_do_not_fit_are_refused_in_one_sentence(spoil, message, tmp_path):
    folder = record(tmp_path, count=1, frames=13, path="w-3")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        read_recordings(folder, SPEC, 4)


def test_a_video_shorter_than_its_actions_is_refused_when_it_is_read(tmp_path):
    folder = record(tmp_path, count=1, frames=12, path="w-3")
    (recording,) = read_recordings(folder, SPEC, 4)
    with pytest.raises(UserError, match="has 12 frames, 4 latents need 13"):
        recording.scenario(SPEC)


ARM = dataclasses.replace(
    SPEC, actions=Controls((Axis("x", words=("left", "right")), button("grip")), per_latent=2)
)


def test_values_of_controls_are_read_in_the_order_of_the_world_and_of_time(tmp_path):
    folder = record(tmp_path, count=1, frames=13)
    values = {"grip": [0, 1, 1, 0], "x": [0.5, -1, 0, 0.25]}
    (folder / "walk00.json").write_text(json.dumps({"controls": values}))
    (recording,) = read_recordings(folder, ARM, None)
    assert recording.actions.controls.values_KTA.tolist() == [
        [[0, 0], [0, 0]], [[0.5, 0], [-1, 1]], [[0, 1], [0.25, 0]],
    ]  # fmt: skip
    (folder / "walk00.json").write_text('{"path": "right-2, grip-1"}')
    assert len(read_recordings(folder, ARM, 3)[0].actions) == 3


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"x": [0, 0]}, "has the controls x: expected x, grip"),
        ({"x": [0, 0], "grip": [0]}, "are not lists of numbers of one length"),
        ({"x": ["a"], "grip": [0]}, "are not lists of numbers of one length"),
        (
            {"x": [0, 0, 0], "grip": [0, 0, 0]},
            r"of the shape \(3,\): expected a list for each, of a multiple of 2",
        ),
        ({"x": [], "grip": []}, "expected a list for each"),
        ({"x": [0, 2], "grip": [0, 0]}, r"walk00\.json: the control x is 2: expected -1 to 1"),
        ({"x": [0, 0], "grip": [0, 0.5]}, "the control grip is 0.5: expected 0 to 1 in 2 even levels"),
    ],
)
def test_values_of_other_controls_are_refused_in_one_sentence(controls, message, tmp_path):
    folder = record(tmp_path, count=1, frames=13)
    (folder / "walk00.json").write_text(json.dumps({"controls": controls}))
    with pytest.raises(UserError, match=message):
        read_recordings(folder, ARM, None)


def test_json_with_more_than_a_path_is_read(tmp_path):
    folder = record(tmp_path, count=1, frames=13, path="w-3")
    (folder / "walk00.json").write_text(json.dumps({"path": "w-3", "camera": "left"}))
    assert len(read_recordings(folder, SPEC, 4)[0].actions) == 4
