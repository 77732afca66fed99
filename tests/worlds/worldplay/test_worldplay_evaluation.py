"""Evaluation of WorldPlay weights from the shell, at tiny size: sides on the same videos, kept and compared."""

import json
from pathlib import Path

import pytest
import torch
from worldplay_tiny import random_network

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.player.panes import WorldPane
from worldcompass.recipes import worldplay_8b
from worldcompass.types import Scenario
from worldcompass.worlds.open import evaluation
from worldcompass.worlds.open.player import prepared_starts, prepared_world
from worldcompass.worlds.open.weights import FILE_NAME, export_weights


@pytest.fixture
def rival(tmp_path):
    """Weights other than the recipe's own, in a folder as ``ar_rl_model`` is released."""
    net = random_network("8b")
    export_weights(net, tmp_path / "ar_rl_model" / FILE_NAME)
    return tmp_path / "ar_rl_model"


def test_weights_are_compared_on_the_same_videos_and_finished_ones_are_kept(
    tmp_path, rival, capsys, monkeypatch
):
    out = tmp_path / "out"
    words = [
        "evaluate",
        "--recipe",
        "worldplay_8b:smoke",
        "--scenarios",
        "2",
        "--latents",
        "8",
        "--steps",
        "2",
    ]
    words += ["--device", "cpu", "--out", str(out), "--checkpoint", str(rival)]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"interaction", "quality"}
    quality = {name: value["mean"] for name, value in results["quality"].items()}
    assert quality["ar_rl_model - base"] == pytest.approx(quality["ar_rl_model"] - quality["base"])
    assert quality["ar_rl_model"] != quality["base"]
    assert "ar_rl_model - base" in said and "the critics are those of the training" in said
    videos = sorted(path.relative_to(out).as_posix() for path in out.glob("*/*.mp4"))
    assert videos == [f"{side}/stand-in-{i}.mp4" for side in ("ar_rl_model", "base") for i in (0, 1)]
    made = []
    whole = evaluation._evaluate_one
    monkeypatch.setattr(evaluation, "_evaluate_one", lambda *a: made.append((a[5], a[2].id)) or whole(*a))
    (out / "base" / "stand-in-1.json").unlink()
    assert cli.main(words) == 0
    assert made == [("base", "stand-in-1")]
    assert json.loads((out / "results.json").read_text()) == results
    for other, named in (
        (["--seed", "3"], "--seed"),
        (["--set", "whole_timesteps=true"], "whole_timesteps"),
        (["--set", "config.autocast_bf16=true"], "config.autocast_bf16"),
    ):
        assert cli.main([*words, *other]) == 2
        assert f"holds an evaluation with other {named}: choose another --out" in capsys.readouterr().err
    assert cli.main([*words, "--set", "config.steps=7"]) == 0  # which changes no video


def test_weights_that_changed_in_their_place_are_not_taken_for_the_old_ones(tmp_path, rival, capsys):
    words = [
        "evaluate",
        "--recipe",
        "worldplay_8b:smoke",
        "--scenarios",
        "1",
        "--latents",
        "4",
        "--steps",
        "1",
    ]
    words += ["--device", "cpu", "--out", str(tmp_path / "out"), "--checkpoint", str(rival)]
    assert cli.main(words) == 0
    net = random_network("8b")
    with torch.no_grad():
        next(net.parameters()).add_(1)
    export_weights(net, rival / FILE_NAME)
    assert cli.main(words) == 2
    assert "holds an evaluation with other the weights of ar_rl_model" in capsys.readouterr().err


def test_every_side_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = Path("a/w"), Path("b/w")
    sides = evaluation.sides_of([a, b, Path("a")])
    assert list(sides.values()) == [None, a, b, Path("a")] and list(sides)[:2] == ["base", "w"]
    for wrong in ([Path("base")], [Path("x/base")], [a, a], [a, b, b]):
        with pytest.raises(UserError, match="has the name of another side"):
            evaluation.sides_of(wrong)


def test_weights_that_are_not_there_are_refused_before_loading(tmp_path, capsys):
    words = ["evaluate", "--recipe", "worldplay_8b:smoke", "--device", "cpu", "--scenarios", "2"]
    words += ["--out", str(tmp_path / "out")]
    assert cli.main([*words, "--checkpoint", str(tmp_path)]) == 2
    assert "expected a run, a folder of weights, or their file" in capsys.readouterr().err
    assert cli.main([*words, "--latents", "7"]) == 2
    assert "--latents is 7: expected a multiple of 4" in capsys.readouterr().err
    assert cli.main(["evaluate", "--recipe", "demo", "--device", "cpu"]) == 2
    assert "no recipe of an open checkpoint" in capsys.readouterr().err


def test_worldplay_is_played_from_prepared_images(rival):
    """A walk of two keys; both sets of weights get the same start, and another picture is refused."""
    recipe = worldplay_8b.smoke()
    worlds = [prepared_world(recipe, weights, "cpu") for weights in (None, rival)]
    starts = prepared_starts(worlds[0])
    assert [start.id for start in starts] == [f"stand-in-{i}" for i in range(4)]
    assert starts[0].image_3hw.shape == (3, *worlds[0].spec.frame_size)
    seen = []
    for world in worlds:
        pane = WorldPane("World", world, num_steps=2)
        place = pane.begin(starts[0], seed=1).step(9).settle().step(1)
        assert place.composites_M == (0, *[9] * 3, *[1] * 4)
        seen.append(place.frames_F3hw)
        pane.close()
    assert seen[0].shape == (16, 3, *worlds[0].spec.frame_size) and not torch.equal(*seen)
    with pytest.raises(UserError, match="starts from prepared images only"):
        worlds[0].begin([Scenario("my picture", worlds[0].spec.actions.commanded(torch.zeros(1).long()))])
