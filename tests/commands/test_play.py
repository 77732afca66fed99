"""The command that starts the player: mistakes, a world of one's own, the default run."""

import json
import os
import sys

import pytest

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import png

from worldcompass import cli
from worldcompass.commands._listening import listen
from worldcompass.player import starts


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--after", "absent"], "absent holds no trained weights"),
        (["--single", "--after", "x"], "leave out one of the two"),
        (["--fps", "0"], "--fps 0 is out of range"),
        (["--port", "70000"], "--port 70000 is out of range"),
        (["--single", "--vote"], "--vote compares two sets of weights"),
        (
            ["--single", "--host", "203.0.113.1"],
            "cannot listen on 203.0.113.1 port 8765: Cannot assign requested address; name an address",
        ),
    ],
)
def test_mistakes_on_the_command_line(words, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["play", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def served(monkeypatch):
    """What the command would serve; its server ends at once."""
    from worldcompass.player import server

    made = []
    serve = type("Server", (), {"run": lambda self, sockets: sockets[0].close()})
    monkeypatch.setattr(server, "create_app", lambda shared, *_: made.append(shared))
    monkeypatch.setattr(server, "web_server", lambda app: serve())
    return made


def test_a_world_of_ones_own_is_played_from_the_shell(served, tmp_path, capsys):
    own, picture = tmp_path / "own.py", tmp_path / "my room.png"
    own.write_text(
        "from worldcompass.toy import ToyWorld\n\n"
        "def make(weights, device):\n    return ToyWorld(0 if weights is None else 1)\n"
    )
    picture.write_bytes(png(40, 30))
    words = ["play", "--world", f"{own}:make", "--port", "0", "--no-browser"]
    assert cli.main([*words, "--start", str(picture), "--after", str(tmp_path)]) == 0
    (shared,) = served
    start = shared.starts.first()
    assert (start.title, start.group) == ("my room", starts.GIVEN) and shared.fittings.critics == ()
    before, after = (pane.begin(start, 0).step(9).frames_F3hw for pane in shared.panes)
    assert before.shape == (2, 3, 4, 4) and not before.equal(after)
    for more, said in {
        (): "name a picture to start from with --start FILE",
        ("--start", str(own)): "own.py: this file is not a picture that can be read",
        ("--start", "absent.png"): "there is no file absent.png",
        ("--start", str(picture), "--engine"): "--engine works with doom and hands alone",
        ("--start", str(picture), "--after", "absent"): "there are no weights at absent",
    }.items():
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["play", "--single"]) == 2
    assert (
        "the player needs uvicorn: install it with pip install 'worldcompass[web]'" in capsys.readouterr().err
    )


def test_a_busy_port_is_named_before_anything_is_loaded(capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["play", "--single", "--port", str(port)]) == 2
    assert f"port {port}: Address already in use; choose another with --port" in capsys.readouterr().err


def test_the_newest_finished_run_is_the_default(tmp_path, monkeypatch, capsys):
    """The runs hold empty files, so that each command ends with the name of what it would have shown."""
    monkeypatch.chdir(tmp_path)
    for name, world in {"old": "doom", "new": "doom", "other": "hands", "unfinished": "doom"}.items():
        (tmp_path / "runs" / name / "weights").mkdir(parents=True)
        (tmp_path / "runs" / name / "weights" / f"{world}_world.safetensors").touch()
    for at, name in enumerate(("old", "new", "other")):
        results = tmp_path / "runs" / name / "results.json"
        results.touch()
        os.utime(results, (at, at))
    for world, name in (("doom", "new"), ("hands", "other")):
        assert cli.main(["play", "--world", world, "--port", "0", "--no-browser"]) == 2
        said = capsys.readouterr()
        assert f"comparing with the newest finished run, runs/{name} (" in said.out
        assert f"runs/{name}/weights/{world}_world.safetensors is not a safetensors file" in said.err


def test_the_newest_run_is_the_last_one_started_whatever_the_times_of_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, day in {"late": 2, "early": 1}.items():
        (tmp_path / "runs" / name / "weights").mkdir(parents=True)
        (tmp_path / "runs" / name / "weights" / "doom_world.safetensors").touch()
        (tmp_path / "runs" / name / "results.json").touch()
        os.utime(tmp_path / "runs" / name / "results.json", (10 - day, 10 - day))  # as a copy may have it
        record = {"started": f"2026-01-0{day}T00:00:00+00:00"}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(record))
    assert cli.main(["play", "--port", "0", "--no-browser"]) == 2
    assert "comparing with the newest finished run, runs/late (" in capsys.readouterr().out


@pytest.mark.parametrize("world", ["doom", "hands"])
def test_without_a_finished_run_there_is_one_pane(tmp_path, monkeypatch, capsys, served, world):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "unfinished" / "weights").mkdir(parents=True)
    (tmp_path / "runs" / "unfinished" / "weights" / f"{world}_world.safetensors").touch()
    assert cli.main(["play", "--world", world, "--port", "0", "--no-browser"]) == 0
    said = capsys.readouterr().out
    assert f"showing one world (worldcompass demo --world {world} trains one)" in said
    assert [pane.name for pane in served[0].panes] == ["World"]
