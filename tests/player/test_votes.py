"""Blind votes: what they add up to, how they are stored, and that the voter cannot know."""

import json
import threading
import time

import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.player.votes import Tally, Vote, append_vote, read_votes, tally

VOTE = Vote("2026-01-01T00:00:00+00:00", "base", "trained", "toy/0", 1, "w-3", "after", "after", "tie")


def test_ties_are_counted_but_not_in_the_rate():
    votes = [VOTE] * 3 + [Vote(**{**vars(VOTE), "follows": "before"})]
    assert tally(votes, "follows") == Tally(3, 1, 0) and tally(votes, "follows").win_rate.mean == 0.75
    assert tally(votes, "looks") == Tally(0, 0, 4) and not tally(votes, "looks").win_rate.known


def test_votes_on_different_weights_are_never_added_up(tmp_path, capsys):
    file = tmp_path / "deep" / "votes.jsonl"
    for after in ("one", "two", "one"):
        append_vote(file, Vote(**{**vars(VOTE), "after": after}))
    assert read_votes(file)[1].after == "two"
    assert cli.main(["votes", str(file)]) == 0
    out = capsys.readouterr().out
    assert "one against base: 2 votes" in out and "two against base: 1 vote\n" in out
    assert "wins 100.0% [34.2, 100.0]  2 won, 0 lost, 0 tied  p = 0.5" in out


def test_a_broken_file_names_its_line(tmp_path):
    file = tmp_path / "votes.jsonl"
    append_vote(file, VOTE)
    for line in ("{", "[]", "3", '{"time": 1}', json.dumps({**vars(VOTE), "looks": "left"})):
        file.write_text(file.read_text().splitlines()[0] + "\n" + line + "\n")
        with pytest.raises(UserError, match="line 2 is no vote"):
            read_votes(file)
    file.write_bytes(b"\xff\xd8 a picture")
    with pytest.raises(UserError, match="line 1 is no vote"):
        read_votes(file)
    with pytest.raises(UserError, match="worldcompass play --vote"):
        read_votes(tmp_path / "absent.jsonl")


def toy_study(file, latents):
    """What the server shares, and a ballot about its two worlds with one start."""
    pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")
    from player_server import toy_shared

    from worldcompass.player.ballot import Ballot
    from worldcompass.player.starts import Start, Starts

    image = toy_shared().starts.first().image_3hw
    shared = toy_shared(starts=Starts((Start("toy/0", "toy", "Toys", image, composites_M=(0, *[9] * 20)),)))
    return shared, Ballot(shared, shared.panes, ("base", "trained"), file, latents=latents)


def test_the_voter_sees_two_clips_and_no_names(tmp_path):
    file = tmp_path / "votes.jsonl"
    shared, ballot = toy_study(file, 6)
    from player_server import ask, detail, running

    sides = {}
    with running(shared, votes=ballot) as port:
        for _ in range(2):
            pair = json.loads(ask(port, "/vote/next", b"")[1])
            assert pair["keys"][:3] == [[], ["w"], ["w"]]
            assert not {"before", "after", "base", "trained"} & set(json.dumps(pair).lower().split('"'))
            clips = [ask(port, pair[side])[1] for side in ("left", "right")]
            assert clips[0] != clips[1] and all(b"ftyp" in clip[:16] for clip in clips)
            answer = {"pair": pair["pair"], "follows": "left", "looks": "tie"}
            body, kind = json.dumps(answer).encode(), {"Content-Type": "application/json"}
            sides[pair["pair"]] = ballot.pairs[pair["pair"]].left
            assert ask(port, "/vote", body, **kind)[0] == 200
            assert "answered or has expired" in detail(ask(port, "/vote", body, **kind))[1]
            assert ask(port, pair["left"])[0] == 404
        assert ask(port, "/vote", b'{"pair": 3}', **kind)[0] == 422
        assert b"Which is better?" in ask(port, "/")[1]
    stored = read_votes(file)
    assert [vote.follows for vote in stored] == list(sides.values()) == [vote.left for vote in stored]
    assert all(vote.looks == "tie" and vote.path == "w-6" for vote in stored)


def test_ctrl_c_while_a_pair_is_imagined_is_a_sentence_and_no_traceback(tmp_path, caplog):
    """What Ctrl-C does: uvicorn's handler asks the server to end, which ``running`` does too."""
    shared, ballot = toy_study(tmp_path / "votes.jsonl", 6)
    from player_server import ask, detail, running

    begun, replies = threading.Event(), []
    decode = shared.panes[0].world.decode

    def slow(*arguments):
        begun.set()
        time.sleep(0.5)
        return decode(*arguments)

    shared.panes[0].world.decode = slow
    with running(shared, votes=ballot) as port:
        voter = threading.Thread(target=lambda: replies.append(detail(ask(port, "/vote/next", b""))))
        voter.start()
        assert begun.wait(60)
    voter.join(60)
    assert replies == [(503, "the server has stopped: start it again, then reload")]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
