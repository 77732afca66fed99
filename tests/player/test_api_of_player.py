"""The HTTP interface: imagine, score, health; thin over functions that other code may call."""

import base64
import json
from urllib.parse import quote

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import ask, detail, png, running, toy_shared

from worldcompass import api as package
from worldcompass.errors import UserError
from worldcompass.media.video import read_video, write_mp4
from worldcompass.player.fittings import Fittings
from worldcompass.player.session import Shared
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.testing import noise_group
from worldcompass.toy import ToyWorld
from worldcompass.types import Scores

PATH = "w-3, left-1"
JSON = {"Content-Type": "application/json"}


def read_forward(frames_PF3hw):
    """A critic that sees everybody walk forward."""
    labels = torch.full((len(frames_PF3hw), 1 + (frames_PF3hw.shape[1] - 1) // 2), 9)
    labels[:, 0] = 0
    return labels


class Brightness:
    """A critic of its own."""

    name = "brightness"

    def __call__(self, group):
        values = group.frames_GF3hw.float().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


@pytest.fixture(scope="module")
def port():
    toy, fittings = toy_shared(), Fittings(reader=read_forward, critics=(Brightness(),))
    with running(Shared(toy.panes, toy.starts, toy.shelf, toy.fps, fittings)) as port:
        yield port


def imagine(port, **asked):
    return ask(port, "/imagine", json.dumps(asked).encode(), **JSON)


def test_a_wrong_address_is_a_page_for_people_and_json_for_programs(port):
    status, page = ask(port, "/nowhere/<b>", Accept="text/html,*/*")
    assert status == 404 and b'<a href="/">' in page and b"nothing at" in page and b"<b>" not in page
    status, said = ask(port, "/nowhere")
    assert status == 404 and json.loads(said)["detail"].startswith("there is nothing at /nowhere")
    assert json.loads(ask(port, "/clips/none.mp4")[1])["detail"].startswith("this recording was deleted")


def test_a_clip_is_imagined_and_scored(port):
    status, clip = imagine(port, path=PATH, seed=2)
    assert status == 200 and clip == imagine(port, path=PATH, seed=2)[1]
    assert read_video(clip).shape == (9, 3, 4, 4)
    assert imagine(port, path=PATH, seed=2, pane="before")[1] != clip
    picture = base64.b64encode(png(40, 40)).decode()
    assert imagine(port, path=PATH, seed=2, image=picture)[1] != clip
    status, body = ask(port, f"/score?path={quote(PATH)}", clip)
    score = json.loads(body)
    assert status == 200 and score["accuracy"] == 0.75
    assert score["latents"][3] == {"commanded": "yaw left", "seen": "forward", "obeyed": False}
    assert score["sharpness"] > 0
    assert score["scores"] == package.score(read_video(clip), PATH, (Brightness(),), ToyWorld(0).spec)


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"path": "w-300"}, 400, "more than 256 latents"),
        ({"path": "hop-2"}, 400, "cannot read 'hop-2'"),
        ({"path": "w-1", "pane": "Other"}, 400, "expected Before or After"),
        ({"path": "w-1", "start": "nowhere"}, 400, "this start does not exist"),
        ({"path": "w-1", "image": "###"}, 400, "not base64"),
        ({"path": "w-1", "image": "\u00e9"}, 400, "not base64"),
        ({"path": "w-1", "image": "AAAA"}, 400, "not a picture"),
        ({"path": 3}, 422, "cannot read body.path"),
        ({"path": "w-1", "speed": 3}, 422, "cannot read body.speed"),
        ({"path": "w-1", "seed": -1}, 422, "; /docs describes the expected application/json"),
    ],
)
def test_what_cannot_be_imagined_is_answered_with_a_sentence(port, asked, status, sentence):
    reply = detail(imagine(port, **asked))
    assert reply[0] == status and sentence in reply[1]


def test_the_same_address_scores_a_trainers_groups(port):
    group = noise_group(3)
    scores = RemoteCritic(f"http://127.0.0.1:{port}")(group)
    assert scores.values_G.equal(Brightness()(group).values_G)
    status, sentence = detail(ask(port, "/score", b"nonsense"))
    assert status == 422 and "expected a group as safetensors" in sentence and "?path=" in sentence


def test_what_cannot_be_scored_is_answered_with_a_sentence(port, tmp_path):
    clip = write_mp4(tmp_path / "a.mp4", np.zeros((3, 3, 16, 16), np.uint8), 8).read_bytes()
    assert (
        "makes 7 frames with the start image, but the video has 3"
        in detail(ask(port, "/score?path=w-3", clip))[1]
    )
    assert "not a readable video" in detail(ask(port, "/score?path=w-3", b"nonsense"))[1]
    assert detail(ask(port, "/score?path=hop-1", clip))[0] == 400
    large = write_mp4(tmp_path / "b.mp4", np.zeros((1, 3, 2000, 2000), np.uint8), 8).read_bytes()
    with pytest.raises(UserError, match="2000 x 2000"):
        read_video(large, max_frames=1, max_pixels=1920 * 1088)


def test_health_and_the_page_about_it(port):
    status, body = ask(port, "/health")
    assert status == 200 and json.loads(body)["panes"] == ["Before", "After"]
    described = json.loads(ask(port, "/openapi.json")[1])["paths"]
    assert {"/imagine", "/score", "/health", "/starts", "/pictures"} == set(described)
    assert b"HTTP interface" in ask(port, "/docs")[1]
