"""Starts and panes of the player: a user's pictures, and the engine."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import Browser, ask, detail, png, toy_starts

from worldcompass.media.pictures import picture_size
from worldcompass.player import starts
from worldcompass.player.messages import encode_frame
from worldcompass.player.starts import Start, start_from_picture
from worldcompass.worlds.doom.player import EnginePane, doom_starts


def test_own_pictures_begin_walks(port):
    status, body = ask(port, "/pictures", png(300, 200))
    added = json.loads(body)
    assert status == 200 and added["image"].startswith("data:image/png;base64,")
    shown, others = (json.loads(ask(port, f"/starts{own}")[1]) for own in (f"?own={added['id']}", ""))
    assert [s["id"] for s in shown] == [
        *(s["id"] for s in others),
        added["id"],
    ]  # in this page's gallery alone
    with Browser(port) as browser:
        assert browser.begin(start=added["id"], path="w-1")["start"] == added["id"]


def test_bad_pictures_are_answered_with_a_sentence(port, monkeypatch):
    declares_a_billion = png(20, 20)[:16] + (40_000).to_bytes(4) * 2 + png(20, 20)[24:]
    for body, sentence in [
        (b"GIF89a...", "not a picture that can be read: choose a PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (png(20, 20)[:60], "damaged"),
        (png(8, 20), "8 x 20: expected sides of 16 to 6000"),
        (png(400, 20), "crop it to no more than 4 : 1"),
        (declares_a_billion, "40000 x 40000"),
    ]:
        status, text = detail(ask(port, "/pictures", body))
        assert status == 400 and sentence in text
    monkeypatch.setattr("worldcompass.player.server.MAX_UPLOAD_BYTES", 2**20)
    status, text = detail(ask(port, "/pictures", bytes(2**20 + 1)))
    assert (status, text) == (413, "the picture has more than 1 MiB: send a smaller one")


def test_jpegs_are_measured_before_they_are_decoded():
    jpeg = cv2.imencode(".jpg", np.zeros((30, 50, 3), np.uint8))[1].tobytes()
    assert picture_size(jpeg) == (50, 30) and picture_size(jpeg[:30]) is None
    assert start_from_picture(jpeg, (48, 64)).image_3hw.shape == (3, 48, 64)


def test_only_the_newest_pictures_are_kept():
    kept = toy_starts()
    for i in range(starts.MAX_PICTURES + 5):
        kept.add(Start(f"own/{i}", "", starts.OWN, torch.zeros(3, 4, 4)))
    ids = [s.id for s in kept.all()]
    assert len(ids) == 2 + starts.MAX_PICTURES and "own/4" not in ids and "toy/0" in ids


def test_the_engine_walks_beside_and_rewinds_by_playing_again():
    start = next(iter(doom_starts()))
    pane = EnginePane("Engine")
    place = pane.begin(start, 0)
    assert place.frames_F3hw[0].equal(start.image_3hw)
    assert pane.begin(Start("own/1", "", starts.OWN, start.image_3hw), 0) is None
    first = place.step(2)
    there = first.step(2).frames_F3hw
    first.step(1)
    assert first.step(2).frames_F3hw.equal(there)
    game = place.game
    pane.close()
    assert not game.close.alive


def test_frames_survive_the_way_to_the_browser():
    frame = torch.randint(0, 255, (3, 12, 16)).byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(encode_frame(frame), np.uint8), 1), cv2.COLOR_BGR2RGB)
    error = np.abs(back.astype(int) - frame.movedim(0, -1).numpy().astype(int))
    assert error.mean() < 4
