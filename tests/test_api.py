"""A few lines of Python, and the commands over them, with the embedded world."""

import json
import zlib

import cv2
import numpy as np
import pytest
import torch

import worldcompass as wc
from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media import video
from worldcompass.types import Group, Scores
from worldcompass.worlds.doom.world import WEIGHTS
from worldcompass.worlds.hands.world import WEIGHTS as HANDS_WEIGHTS

PATH = "w-3, right-2, w+left-2"


@pytest.fixture(scope="module")
def world():
    return wc.load_world()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A wide picture of coloured tiles, RGB (60, 120)."""
    small = np.random.default_rng(0).integers(0, 255, (3, 6, 3), np.uint8)
    file = tmp_path_factory.mktemp("picture") / "my.png"
    cv2.imwrite(str(file), cv2.resize(small, (120, 60), interpolation=cv2.INTER_NEAREST)[..., ::-1])
    return file


def test_imagine_is_the_rollout_along_the_path(world, picture):
    frames = wc.imagine(world, picture, PATH, seed=3, num_steps=1)
    assert frames.shape == (29, 3, 48, 64) and frames.dtype == torch.uint8
    again = wc.imagine(world, video.read_image(picture), PATH, seed=3, num_steps=1)
    assert again.equal(frames)
    assert not wc.imagine(world, picture, PATH, seed=4, num_steps=1).equal(frames)


def test_a_video_of_the_path_scores_above_one_of_another(world):
    """The engine's own walk: the critic tells the command it carries out from one that it does not."""
    from camera_paths import path_of

    from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all

    scenario = replay_all([p for p in evaluation_plans(False) if p.kind == "basic"][:1], 12)[0]
    assert scenario.truth is not None
    right = path_of(scenario.actions.labels_K.tolist())
    opposite = right.translate(str.maketrans("wasd", "sdwa"))
    for a, b in (("left", "RIGHT"), ("right", "left"), ("up", "DOWN"), ("down", "up")):
        opposite = opposite.replace(a, b)
    frames = scenario.truth.frames_F3hw
    good, bad = wc.score(frames, right), wc.score(frames, opposite.lower())
    assert good["interaction"] > 0.9 > 0.6 > bad["interaction"]
    assert good["quality"] == pytest.approx(bad["quality"])


def test_a_users_critic_scores_and_may_abstain():
    class Bright:
        name = "bright"

        def __call__(self, group: Group) -> Scores:
            return Scores(group.frames_GF3hw.float().mean((1, 2, 3, 4)), torch.tensor([False]))

    frames = torch.full((5, 3, 96, 96), 200, dtype=torch.uint8)
    assert wc.score(frames, "w-1", [Bright()]) == {"bright": None}


def test_the_commands_imagine_and_score(picture, tmp_path, capsys):
    clip = tmp_path / "clips" / "clip.mp4"
    options = ["--path", PATH, "--steps", "1", "--device", "cpu"]
    assert cli.main(["imagine", "--image", str(picture), "--out", str(clip), *options]) == 0
    assert video.read_video(clip).shape == (29, 3, 48, 64)
    capsys.readouterr()
    assert cli.main(["score", "--video", str(clip), "--path", PATH, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"interaction", "quality"}
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\nfrom worldcompass.types import Scores\n\n\nclass Length:\n    name = 'length'\n\n"
        "    def __call__(self, group):\n        count = len(group.frames_GF3hw[0])\n"
        "        return Scores(torch.tensor([float(count)]), torch.tensor([True]))\n\n\n"
        "def make():\n    return Length()\n"
    )
    asked = ["--critic", f"{own}:make", "--critic", "stability"]
    assert cli.main(["score", "--video", str(clip), "--path", PATH, "--json", *asked]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) == {"length", "stability"} and scores["length"] == 29
    assert cli.main(["score", "--video", str(clip), "--path", PATH, "--critic", "taste"]) == 2
    assert "there is no critic 'taste'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["imagine", "--image", "{picture}", "--path", "w-3, fly-2"], "cannot read 'fly-2'"),
        (["imagine", "--image", "{text}", "--path", "w-3"], "is not an image"),
        (["imagine", "--image", "{tmp}/none.png", "--path", "w-3"], "there is no file"),
        (["imagine", "--image", "{billion}", "--path", "w-3"], "scale it down"),
        (["imagine", "--image", "{narrow}", "--path", "w-3"], "is 100 x 20: crop it to no more than 4 : 1"),
        (["imagine", "--image", "{picture}", "--path", "w-99999999"], "more than 10000 latents"),
        (["imagine", "--image", "{picture}", "--path", "w+s-3"], "opposite ways at once"),
        (["imagine", "--image", "{picture}", "--path", "w-3", "--out", "clip.avi"], "ends in .mp4"),
        (
            ["imagine", "--image", "{picture}", "--path", "w-3", "--weights", "{tmp}/none"],
            "no trained weights",
        ),
        (["score", "--video", "{text}", "--path", "w-3"], "not a readable video"),
        (["score", "--video", "{tmp}/none.mp4", "--path", "w-3"], "there is no file"),
        (["score", "--video", "{short}", "--path", "w-3"], "makes 13 frames with the start image"),
    ],
)
def test_mistakes_are_one_sentence(words, said, picture, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("no picture")
    video.write_mp4(tmp_path / "short.mp4", np.zeros((3, 3, 48, 64), np.uint8), 8)
    data = picture.read_bytes()
    header = data[12:16] + (40_000).to_bytes(4, "big") * 2 + data[24:29]
    sealed = header + zlib.crc32(header).to_bytes(4, "big")
    (tmp_path / "billion.png").write_bytes(data[:12] + sealed + data[33:])
    cv2.imwrite(str(tmp_path / "narrow.png"), np.zeros((20, 100, 3), np.uint8))
    names = {"picture": picture, "text": tmp_path / "a.txt", "tmp": tmp_path, "short": tmp_path / "short.mp4"}
    names |= {"billion": tmp_path / "billion.png", "narrow": tmp_path / "narrow.png"}
    assert cli.main([word.format(**names) for word in words]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'dream'"):
        wc.dream  # noqa: B018


def test_a_run_folder_serves_as_weights(world, tmp_path):
    with pytest.raises(UserError, match="holds no trained weights"):
        wc.load_world(tmp_path)
    (tmp_path / "weights").mkdir()
    WEIGHTS.export(world.net, tmp_path / "weights" / WEIGHTS.net)
    found, shipped = (w.net.state_dict() for w in (wc.load_world(tmp_path), world))
    assert all(torch.equal(found[name], shipped[name]) for name in shipped)


def test_weights_say_which_world_they_are_of(tmp_path):
    hands = wc.load_world(name="hands")
    HANDS_WEIGHTS.export(hands.net, tmp_path / HANDS_WEIGHTS.net)
    assert wc.load_world(tmp_path).spec.name == "hands"
    assert wc.load_world().spec.name == "doom"


def test_a_world_of_ones_own_imagines_from_the_shell(picture, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(
        "from worldcompass.toy import ToyWorld\n\n"
        "def make(weights, device):\n    return ToyWorld(int(weights.name))\n\n"
        "def nothing(weights, device):\n    return 3\n"
    )
    asked = ["imagine", "--image", str(picture), "--path", "w-3", "--out", str(tmp_path / "own.mp4")]
    assert cli.main([*asked, "--weights", "5", "--world", f"{own}:make"]) == 0
    assert len(video.read_video(tmp_path / "own.mp4")) == 7
    for world, weights, said in (
        ("mars", "5", "there is no world 'mars': expected doom, hands, FILE.py:FUNCTION, or a recipe of"),
        (f"{own}:nothing", "5", "returned int: expected a world that check_world_model accepts"),
        (f"{own}:make", "base", "failed to make a world (invalid literal for int()"),
    ):
        assert cli.main([*asked, "--weights", weights, "--world", world]) == 2
        assert said in capsys.readouterr().err


def test_imagine_says_first_where_it_cannot_write_and_what_folder_it_makes(
    picture, tmp_path, monkeypatch, capsys
):
    def never(*_):
        raise AssertionError("a world was loaded first")

    words = ["imagine", "--image", str(picture), "--path", "w-1", "--device", "cpu", "--out"]
    monkeypatch.setattr("worldcompass.commands.imagine.world_maker", lambda *_: never)
    assert cli.main([*words, "/proc/clips/clip.mp4"]) == 2  # where even root cannot write
    assert "cannot write to /proc/clips (" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        cli.main([*words, str(tmp_path / "new" / "clip.mp4")])
    assert f"{tmp_path / 'new'} does not exist yet: it is made" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
