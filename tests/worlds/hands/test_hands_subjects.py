"""What the Hands world gives to a blind study, and the command that makes its sheet."""

import json

import pytest
from other_weights import run_with_other_weights

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.judging.votes import sheet
from worldcompass.judging.votes.sheet import draw_sheet
from worldcompass.worlds.doom.world import WEIGHTS as DOOM_WEIGHTS
from worldcompass.worlds.hands.subjects import hands_subjects
from worldcompass.worlds.hands.world import WEIGHTS


@pytest.fixture
def run(tmp_path):
    return run_with_other_weights(tmp_path / "run", 0.9, WEIGHTS)


def test_a_sheet_of_48_pairs_has_enough_scenes_that_nothing_trained_on(run):
    subjects = hands_subjects(run, None, 93, "cpu")
    drawn = draw_sheet(subjects, 48, 0)
    assert len({pair.scenario for pair in drawn.compared}) == len(drawn.compared) == 34
    assert all(name.split("/")[0] != "train" for name in subjects.scenario_ids)
    (scenario,) = subjects.prepare(subjects.scenario_ids[-1:])
    assert scenario.truth.frames_F3hw.shape == (93, 3, 64, 64)


def test_a_run_of_another_world_is_refused(tmp_path):
    other = run_with_other_weights(tmp_path / "doom", 0.9, DOOM_WEIGHTS)
    with pytest.raises(UserError, match="a run of another world"):
        hands_subjects(other, None, 93, "cpu")


def test_the_command_makes_a_sheet_of_hands(run, tmp_path, one_thread, monkeypatch):
    monkeypatch.setattr(sheet, "MIN_COMPARED", 2)  # what a verdict needs is tested with the sheets
    arguments = ["vote-sheet", str(run), "--world", "hands", "--pairs", "3", "--strips"]
    assert cli.main([*arguments, "--out", str(tmp_path / "study")]) == 0
    key = json.loads((tmp_path / "study" / "key" / "key.json").read_text())
    assert key["world"] == "hands" and len(key["pairs"]) == 3


def test_a_length_that_the_world_lacks_is_one_sentence(run, tmp_path, capsys):
    arguments = ["vote-sheet", str(run), "--world", "hands", "--frames", "253"]
    assert cli.main([*arguments, "--out", str(tmp_path / "study")]) == 2
    assert "videos of hands have 93, 125 frames, got --frames 253" in capsys.readouterr().err
