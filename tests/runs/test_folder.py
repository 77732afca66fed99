"""Where a run's files are, and who may write to its folder."""

import pytest

from worldcompass.errors import UserError
from worldcompass.runs.folder import RunFolder, claim, owner_of, training_member, weights_folder

FILE = "world.safetensors"


def test_no_two_paths_of_a_run_are_the_same(tmp_path):
    folder = RunFolder(tmp_path)
    paths = [value for name in dir(RunFolder) if hasattr(value := getattr(folder, name), "parts")]
    paths += [folder.clip(1), folder.evaluation("base"), folder.videos("base"), folder.rolled_back(1)]
    assert len(set(paths)) == len(paths) > 15
    assert all(path.is_relative_to(tmp_path) for path in paths) and not list(tmp_path.iterdir())


def test_clips_and_members_come_in_the_order_of_their_numbers(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (12, 2):
        folder.clip(step).parent.mkdir(exist_ok=True)
        folder.clip(step).touch()
    folder.untrained.touch()
    (folder.samples / "step_000012 (copy).mp4").touch()
    folder.path.joinpath("members", "9_backup").mkdir(parents=True)
    for number in (10, 9):
        folder.member(number).path.mkdir(parents=True)
    assert folder.clips() == {2: folder.clip(2), 12: folder.clip(12)}
    assert folder.members() == [folder.member(9), folder.member(10)]
    assert str(folder.member(10).path) in training_member(folder) and training_member(folder.member(9)) == ""


def test_the_weights_of_a_run_and_a_folder_of_weights_are_found(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.weights.mkdir(parents=True)
    with pytest.raises(UserError, match="holds no trained weights: expected a finished run"):
        weights_folder(run.path, FILE)
    run.record.touch()
    with pytest.raises(UserError, match="holds an unfinished run"):
        weights_folder(run.path, FILE)
    (run.weights / FILE).touch()
    assert weights_folder(run.path, FILE) == weights_folder(run.weights, FILE) == run.weights
    assert owner_of(run.weights) == run.path and owner_of(tmp_path) == tmp_path
    assert not run.finished
    run.results.touch()
    assert run.finished


def test_a_folder_is_claimed_once_and_read_afterwards(tmp_path):
    folder, record = tmp_path / "new" / "data", tmp_path / "new" / "data" / "facts.json"
    assert claim(folder, record, {"seed": 1}, "a dataset") is None
    assert claim(folder, record, {"seed": 2}, "a dataset") == {"seed": 1}
    record.write_text("[")
    with pytest.raises(UserError, match=r"facts\.json is not the record of a dataset"):
        claim(folder, record, {}, "a dataset")


def test_a_folder_of_something_else_and_a_full_disk_are_refused(tmp_path):
    (tmp_path / "mine").touch()
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(
            UserError, match="is not an empty folder and holds no dataset: choose another --out"
        ):
            claim(folder, folder / "facts.json", {}, "a dataset")
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"B free, a dataset needs 1000000000\.0 GB: free space or lower --frames"
    ):
        claim(out, out / "facts.json", {}, "a dataset", 1e18, "lower --frames")
    assert not list(out.iterdir())
