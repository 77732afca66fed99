"""What a user may not read or write is one sentence that says so; nothing is called empty or damaged for it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.bouncing import FORMAT, recordings
from support.permissions import enforced

from worldcompass import cli
from worldcompass.runs.atomic import write_text
from worldcompass.worlds.open.layouts import Part, check_parts
from worldcompass.worlds.small import data


@pytest.fixture
def closed(tmp_path):
    """Makes a file or folder unreadable and unwritable for the test."""
    paths = {}

    def close(path, mode=0):
        paths[path] = path.stat().st_mode
        path.chmod(mode)
        return str(path)

    yield close
    for path, mode in paths.items():
        path.chmod(mode)


def pictures(folder):
    folder.mkdir()
    cv2.imwrite(str(folder / "hall.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "hall.txt").write_text("a hall")


def refused(capsys, *words):
    with enforced():
        assert cli.main([*map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == "", "nothing was done before"
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err.removeprefix("error: ").strip()


def test_a_folder_of_pictures_that_may_not_be_listed_is_not_empty(tmp_path, closed, capsys):
    pictures(tmp_path / "pictures")
    words = ("prepare", "--model", "worldplay-8b", "--images", closed(tmp_path / "pictures"))
    said = refused(capsys, *words, "--checkpoints", tmp_path, "--out", tmp_path / "out")
    assert said == f"Permission denied: {tmp_path / 'pictures'}"


def test_checkpoints_that_may_not_be_listed_are_not_missing(tmp_path, closed):
    (tmp_path / "vae").mkdir()
    closed(tmp_path / "vae")
    with enforced(), pytest.raises(PermissionError, match="vae"):
        check_parts(tmp_path, (Part("vae", ("*.safetensors",), "the autoencoder"),))


def test_a_pose_file_that_may_not_be_read_is_not_to_be_made_anew(tmp_path, closed, capsys):
    (tmp_path / "poses.json").write_text("{}")
    said = refused(capsys, "trajectories", "--read", closed(tmp_path / "poses.json"))
    assert said == f"Permission denied: {tmp_path / 'poses.json'}"


def test_a_shard_that_may_not_be_read_is_not_to_be_deleted(tmp_path, closed):
    root = recordings(tmp_path / "data")
    closed(root / "train" / "0" / "frames.npy")
    with enforced(), pytest.raises(PermissionError, match=r"0/frames\.npy"):
        data.load(root, "train", FORMAT)
    closed(root / "heldout")
    with enforced(), pytest.raises(PermissionError, match="heldout"):
        data.load(root, "heldout", FORMAT)


@pytest.mark.parametrize("shared", [False, True])
def test_what_cannot_be_written_goes_by_its_own_name(shared, tmp_path, closed):
    (tmp_path / "readonly").mkdir()
    page = Path(closed(tmp_path / "readonly", 0o500)) / "page.html"
    with enforced(), pytest.raises(PermissionError) as refusal:
        write_text(page, "hello", shared)
    assert refusal.value.filename == str(page)


def test_a_machine_is_examined_only_where_runs_can_be_written(tmp_path, closed, capsys):
    (tmp_path / "readonly").mkdir()
    folder = closed(tmp_path / "readonly", 0o500)
    said = refused(capsys, "doctor", "--machine", "--folder", folder)
    assert said == (
        f"cannot write to {folder} (Permission denied): expected a writable folder, choose another --folder"
    )
