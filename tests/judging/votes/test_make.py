"""What a rater gets shows both sides, and nothing in it tells which is which."""

import dataclasses
import shutil
import zlib

import av
import numpy as np
import pytest
import torch
from toy_votes import SPEC, made, toy_subjects, with_truth

from worldcompass.errors import UserError
from worldcompass.judging.votes import make
from worldcompass.judging.votes.make import Kinds, commands, make_sheet
from worldcompass.judging.votes.pictures import Shown, moments, panel, strip
from worldcompass.judging.votes.sheet import SheetFolder, draw_sheet
from worldcompass.media.video import read_image, read_video, save_png, write_mp4
from worldcompass.toy import toy_scenarios

QUICK = Kinds(strips=False)


def shown(seed=0, frames=20, size=(12, 16)):
    rng = np.random.default_rng(seed)
    start, a, b = (rng.integers(0, 255, (n, 3, *size), np.uint8) for n in (1, frames, frames))
    return Shown(start[0], a, b, ("forward",) * frames, 8.0)


def swapped(pair):
    return dataclasses.replace(pair, A_F3hw=pair.B_F3hw, B_F3hw=pair.A_F3hw)


def boxes(image_3hw, pictures):
    """Where each picture, enlarged, stands in an image: top and left corner; fails when it is not there."""
    found = []
    for picture, scale in pictures:
        large = picture.repeat(scale, 1).repeat(scale, 2)
        h, w = large.shape[1:]
        windows = np.argwhere((image_3hw[:, : -h + 1, : -w + 1] == large[:, :1, :1]).all(0))
        found.append(
            next(
                (t, left) for t, left in windows if (image_3hw[:, t : t + h, left : left + w] == large).all()
            )
        )
    return found


def chunks(png):
    """Names of the chunks of a PNG file."""
    at, names = 8, []
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        assert int.from_bytes(png[at + 8 + length : at + 12 + length]) == zlib.crc32(body)
        names.append(body[:4])
        at += 12 + length
    return names


def test_swapping_the_sides_of_a_filmstrip_moves_their_pixels_and_changes_nothing_else(tmp_path):
    pair = shown()
    one, two = strip(pair), strip(swapped(pair))
    scale = 20
    last = moments(20)[-1]
    (top, left), (below, same) = boxes(one, [(pair.A_F3hw[last], scale), (pair.B_F3hw[last], scale)])
    assert left == same and top < below
    assert boxes(two, [(pair.B_F3hw[last], scale), (pair.A_F3hw[last], scale)]) == [
        (top, left),
        (below, left),
    ]
    flat = dataclasses.replace(pair, A_F3hw=pair.A_F3hw * 0, B_F3hw=pair.B_F3hw * 0)
    outside = strip(flat) != 0
    assert (one == two)[outside].all() and one.shape == two.shape
    files = [save_png(tmp_path / f"{i}.png", image).read_bytes() for i, image in enumerate((one, two))]
    assert [set(chunks(file)) for file in files] == [{b"IHDR", b"IDAT", b"IEND"}] * 2
    assert [file[:33] for file in files] == [files[0][:33]] * 2


def test_swapping_the_sides_of_a_video_moves_their_pixels_and_changes_nothing_else(tmp_path):
    pair = shown(frames=4)
    one, two = panel(pair), panel(swapped(pair))
    places = boxes(one[3], [(pair.start_3hw, 6), (pair.A_F3hw[3], 6), (pair.B_F3hw[3], 6)])
    assert len({top for top, _ in places}) == 1 and places == sorted(places)
    assert boxes(two[3], [(pair.start_3hw, 6), (pair.B_F3hw[3], 6), (pair.A_F3hw[3], 6)]) == places
    described = []
    for i, frames in enumerate((one, two)):
        with av.open(str(write_mp4(tmp_path / f"{i}.mp4", frames, pair.fps))) as file:
            stream = file.streams.video[0]
            described.append((dict(file.metadata), dict(stream.metadata), stream.frames, stream.average_rate))
    assert described[0] == described[1]
    assert not {"title", "comment", "creation_time"} & {*described[0][0], *described[0][1]}


def test_the_engine_is_shown_where_it_is_asked_for_and_at_one_place(tmp_path):
    real = np.random.default_rng(5).integers(0, 255, (20, 3, 12, 16), np.uint8)
    pair = dataclasses.replace(shown(), real_F3hw=real)
    last = moments(20)[-1]
    places = [boxes(strip(p), [(real[last], 20)]) for p in (pair, swapped(pair))]
    assert places[0] == places[1]
    side_by_side = boxes(panel(pair)[3], [(p[3], 6) for p in (real, pair.A_F3hw, pair.B_F3hw)])
    assert side_by_side == sorted(side_by_side) and len({top for top, _ in side_by_side}) == 1
    folder, _ = made(tmp_path / "study", 8, kinds=QUICK, shows_engine=True)
    asked = folder.instructions.read_text()
    assert "4. **commands**" in asked and "the real video, A and B" in asked
    plain, _ = made(tmp_path / "plain", 8, kinds=QUICK)
    assert "commands**" not in plain.instructions.read_text()
    for there, other in ((folder, False), (plain, True)):
        with pytest.raises(UserError, match="another sheet, with other engine: choose another --out"):
            made(there.path, 8, kinds=QUICK, shows_engine=other)


def test_two_sides_that_differ_in_length_are_refused():
    pair = shown()
    with pytest.raises(ValueError, match="two equal videos"):
        dataclasses.replace(pair, B_F3hw=pair.B_F3hw[:-1])


def test_files_for_raters_name_no_side(tmp_path):
    folder, sheet = made(tmp_path / "study")
    files = sorted(path.name for path in folder.sheet.iterdir())
    pairs = [f"pair_{i:02d}.{kind}" for i in range(1, 11) for kind in ("mp4", "png")]
    assert files == sorted([*pairs, "INSTRUCTIONS.md", "form.csv"])
    hidden = ["trained", "base", "engine", "toy", "sharpened", *sheet.weights.values()]
    for path in (folder.form, folder.instructions):
        assert not [word for word in hidden if word in path.read_text().lower()], path
    assert "trained" in folder.key.read_text() and folder.sheet not in folder.key.parents


def test_videos_keep_the_true_speed_and_begin_with_the_start_image(tmp_path):
    folder, sheet = made(tmp_path / "study")
    with av.open(str(folder.sheet / "pair_01.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == SPEC.fps and stream.frames == sheet.num_frames
    assert read_video(folder.sheet / "pair_01.mp4").shape[0] == sheet.num_frames
    assert read_image(folder.sheet / "pair_01.png").ndim == 3


def test_each_side_shows_what_the_key_says(tmp_path):
    folder, sheet = made(tmp_path / "study", pairs=18, kinds=QUICK)
    subjects = toy_subjects()
    for pair in sheet.pairs:
        (scenario,) = subjects.prepare([pair.scenario])
        sides = {
            letter: make._video(folder, sheet, SPEC, pair, getattr(pair, letter), scenario) for letter in "AB"
        }
        good, bad = sides[pair.good], sides["A" if pair.good == "B" else "B"]
        base = subjects.imagine("base", [scenario], pair.noise)[0]
        expected = {
            "": subjects.imagine("trained", [scenario], pair.noise)[0],
            "engine": scenario.truth.frames_F3hw,
        }
        assert good.equal(expected.get(pair.control, base))
        assert bad.equal(base) == (pair.control in ("", "engine", "same"))
        assert good[0].equal(scenario.image_3hw) and bad[0].equal(scenario.image_3hw)


def test_a_stopped_sheet_resumes_without_imagining_twice_and_ends_the_same(tmp_path, monkeypatch):
    _, sheet = made(tmp_path / "whole", pairs=8, kinds=QUICK)
    imagined, real = [], make.write_mp4
    subjects = toy_subjects(imagined=imagined)
    folder, wanted = SheetFolder(tmp_path / "stopped"), draw_sheet(subjects, 8, 0)

    def killed(path, *rest):
        if path.name == "pair_03.mp4":
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(make, "write_mp4", killed)
    with pytest.raises(KeyboardInterrupt):
        make_sheet(folder, wanted, subjects, QUICK)
    monkeypatch.undo()
    before = len(imagined)
    assert before and make_sheet(folder, wanted, subjects, QUICK).files == sheet.files
    assert len(imagined) == before
    last = sorted(folder.key.parent.rglob("*.safetensors"))[-1]
    last.unlink()
    shutil.rmtree(folder.sheet)
    assert make_sheet(folder, wanted, subjects, QUICK).files == sheet.files
    assert len(imagined) == before + 1


def test_a_folder_with_another_sheet_or_anything_else_is_refused(tmp_path):
    folder, _ = made(tmp_path / "study", seed=0)
    with pytest.raises(UserError, match=r"another sheet, with other .*seed.*: choose another --out"):
        made(tmp_path / "study", seed=1)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no vote sheet: choose another --out"):
        made(strange)
    assert folder.key.exists() and (strange / "letter.txt").read_text() == "mine"


def test_one_kind_of_files_can_be_left_out_and_added_later(tmp_path):
    folder, sheet = made(tmp_path / "study", kinds=Kinds(videos=False))
    assert {name[-4:] for name in sheet.files} == {".png"} and ".mp4" not in folder.instructions.read_text()
    _, both = made(tmp_path / "study", kinds=Kinds(strips=False))
    assert {name[-4:] for name in both.files} == {".png", ".mp4"} and both.id == sheet.id
    assert ".png" in folder.instructions.read_text()


def test_the_command_shown_with_a_frame_is_the_one_that_made_it():
    (scenario,) = toy_scenarios(1, 4)
    labels = torch.tensor([0, 9, 0, 3])  # start, forward, rest, look up
    scenario = with_truth(dataclasses.replace(scenario, actions=SPEC.actions.commanded(labels)))
    said = commands(SPEC, scenario, SPEC.num_frames(0, 4))
    assert said == ("forward", *["forward"] * 2, *["stand still"] * 2, *["look up"] * 2)
