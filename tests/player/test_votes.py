"""Blind votes: what they add up to, how they are stored, and that the voter cannot know."""

import json
import threading
import time

import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.judging.votes.controls import CONTROLS
from worldcompass.judging.votes.scoring import Tally
from worldcompass.player.votes import Vote, append_vote, control_counts, read_votes, tally_of

VOTE = Vote("2026-01-01T00:00:00+00:00", "base", "trained", "toy/0", 1, "w-3", "after", "after", "tie")
NAMES = ("base", "trained")


def test_ties_are_counted_but_not_in_the_rate():
    votes = [VOTE] * 3 + [Vote(**{**vars(VOTE), "follows": "before"})]
    assert tally_of(votes, "follows") == Tally(3, 1, 0) and tally_of(votes, "follows").win_rate.mean == 0.75
    assert tally_of(votes, "looks") == Tally(0, 0, 4) and not tally_of(votes, "looks").win_rate.known


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


def toy_study(file, latents, control_share=0.0):
    """What the server shares, and a ballot about its two worlds with one start."""
    pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")
    from player_server import toy_shared

    from worldcompass.player.ballot import Ballot
    from worldcompass.player.starts import Start, Starts

    image = toy_shared().starts.first().image_3hw
    shared = toy_shared(starts=Starts((Start("toy/0", "toy", "Toys", image, composites_M=(0, *[9] * 20)),)))
    return shared, Ballot(
        shared, shared.panes, ("base", "trained"), file, latents=latents, control_share=control_share
    )


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
            answer = {"pair": pair["pair"], "follows": "left", "looks": "tie", "place": "right"}
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
    assert all(vote.place not in (vote.left, "tie") and not vote.control for vote in stored)


def test_files_from_before_the_third_question_are_read(tmp_path, capsys):
    file = tmp_path / "votes.jsonl"
    old = {name: value for name, value in vars(VOTE).items() if name not in ("place", "control")}
    file.write_text(json.dumps(old) + "\n")
    assert read_votes(file) == [VOTE] and tally_of([VOTE], "place") == Tally(0, 0, 0)
    assert cli.main(["votes", str(file)]) == 0
    out = capsys.readouterr().out
    assert "wins 100.0%" in out and "place" not in out


def test_controls_are_reported_and_never_counted_as_wins(tmp_path, capsys):
    file = tmp_path / "votes.jsonl"
    control = {
        **vars(VOTE),
        "left": "good",
        "follows": "tie",
        "looks": "bad",
        "place": "tie",
        "control": "grainy",
    }
    same = {**control, "looks": "tie", "control": "same"}
    for fields in (vars(VOTE), control, same, {**control, "looks": "good"}):
        append_vote(file, Vote(**fields))
    votes = read_votes(file)
    assert tally_of(votes, "looks") == Tally(0, 0, 1) and tally_of(votes, "follows") == Tally(1, 0, 0)
    assert control_counts(votes) == {"grainy": {"failed": 1, "passed": 1}, "same": {"passed": 1}}
    assert cli.main(["votes", str(file)]) == 0
    out = capsys.readouterr().out
    assert "trained against base: 1 vote\n" in out
    assert "control grainy              1 passed, 1 failed\n" in out
    for broken in (
        {**control, "left": "after"},
        {**control, "control": "sepia"},
        {**control, "looks": "after"},
    ):
        file.write_text(json.dumps(broken) + "\n")
        with pytest.raises(UserError, match="line 1 is no vote"):
            read_votes(file)


def test_a_hidden_control_looks_like_any_pair_and_is_stored_with_its_name(tmp_path):
    file = tmp_path / "votes.jsonl"
    shared, ballot = toy_study(file, 4, control_share=1.0)
    from player_server import ask, running

    kind = {"Content-Type": "application/json"}
    with running(shared, votes=ballot) as port:
        for _ in range(6):
            pair = json.loads(ask(port, "/vote/next", b"")[1])
            duel = ballot.pairs[pair["pair"]].duel
            assert not {"good", "bad", duel.control, "control"} & set(json.dumps(pair).split('"'))
            clips = [ask(port, pair[side])[1] for side in ("left", "right")]
            assert (clips[0] == clips[1]) == (duel.control == "same")
            answer = {"pair": pair["pair"], "follows": "tie", "looks": "left", "place": "tie"}
            assert ask(port, "/vote", json.dumps(answer).encode(), **kind)[0] == 200
    stored = read_votes(file)
    assert all(vote.control in set(CONTROLS) - {"engine"} for vote in stored)  # the toy has no engine
    assert all(vote.looks == vote.left for vote in stored)


def test_the_engine_is_a_control_where_it_can_show_the_start(tmp_path):
    pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")
    from worldcompass.player.starts import Start

    shared, ballot = toy_study(tmp_path / "votes.jsonl", 4, control_share=1.0)
    ballot.panes["engine"] = shared.panes[0]
    image = shared.starts.first().image_3hw
    reached, picture = Start("a", "a", "g", image, plan=object()), Start("b", "b", "g", image)
    assert {ballot.duel_from(reached).control for _ in range(200)} == set(CONTROLS)
    assert {ballot.duel_from(picture).control for _ in range(200)} == set(CONTROLS) - {"engine"}


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
