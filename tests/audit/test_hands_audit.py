"""Audits of the Hands world's critics on the package's footage: their clips, their lies, and mistakes in a call."""

import pytest
import torch

from worldcompass import cli
from worldcompass.audit.clips import OTHER_ITEM, other_clips, share_obeyed, signs_of
from worldcompass.audit.expected import THING_LIES, expected
from worldcompass.audit.run import run_audit
from worldcompass.audit.tricks import NUM_GENES, TRICKS, replayed
from worldcompass.commands._catalogue import ENTRIES
from worldcompass.worlds.hands.audits import KNOWN, audited_clips
from worldcompass.worlds.hands.rewards.interaction import GripperFollowing


@pytest.fixture(scope="module")
def mixed():
    return audited_clips("mixed", 2, seed=0)


def test_the_reward_for_commands_is_sound_on_the_engine_s_clips(mixed):
    clips, imagined = mixed
    audit = run_audit(GripperFollowing(), clips, expected("frozen,wrong commands"), 0, imagined, searched=0)
    assert audit.punished["frozen@1"].mean == audit.punished["wrong commands@1"].mean == 1
    assert audit.unscored == 0 and audit.correlation["share obeyed"] > 0.8
    assert {f"{lie}@1" for lie in THING_LIES} | {"imagined"} <= set(audit.punished)


def test_commands_of_controls_differ_and_are_obeyed_by_their_signs(mixed):
    clips, _ = mixed
    for clip, other in zip(clips, other_clips(clips), strict=True):
        assert (signs_of(other.actions) != signs_of(clip.actions)).any(-1).all()
        assert share_obeyed(clip, 4) == 1 and share_obeyed(clip, 0) < 0.5


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_tricks_paint_clips_of_this_world_too(trick, mixed):
    clip = mixed[0][0]
    made = trick.paint(torch.linspace(-0.9, 0.9, NUM_GENES), clip, torch.Generator().manual_seed(0))
    assert made.shape == clip.frames_F3hw.shape and not torch.equal(made, clip.frames_F3hw)


def test_what_is_replayed_was_commanded_otherwise(mixed):
    """A latent that is replayed is one of the video's, and none of those that had this command."""
    clip = mixed[0][0]
    video = torch.cat([clip.past_F3hw, clip.frames_F3hw])
    signs = torch.cat([signs_of(clip.past_actions), signs_of(clip.actions)])
    made = replayed(torch.linspace(-0.9, 0.9, NUM_GENES), clip, torch.Generator())
    for latent, own in zip(made.unflatten(0, (-1, 4)), signs_of(clip.actions), strict=True):
        ahead = [k for k in range(1, len(signs)) if torch.equal(video[4 * k - 3 : 4 * k + 1], latent)]
        back = [k for k in range(1, len(signs)) if torch.equal(video[4 * k - 4 : 4 * k].flip(0), latent)]
        assert ahead or back
        assert not any(torch.equal(signs[k], own) for k in ahead)
        assert not any(torch.equal(-signs[k], own) for k in back)


def test_pick_ups_ask_for_another_thing_as_a_lie():
    clips, imagined = audited_clips("pickups", 1, seed=0)
    assert len({clip.video for clip in clips}) >= 6 and imagined == []
    for clip in clips:
        other = clip.denied[OTHER_ITEM]
        assert other.instruction != clip.instruction and torch.equal(other.frames_F3hw, clip.frames_F3hw)
        assert set(clip.denied) == {OTHER_ITEM, *THING_LIES}
        assert not any(torch.equal(clip.denied[lie].frames_F3hw, clip.frames_F3hw) for lie in THING_LIES)


def test_lies_and_clips_that_a_world_does_not_have_are_one_sentence(capsys):
    assert cli.main(["audit", "--world", "hands", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(KNOWN)
    for words, said in (
        (["--world", "hands", "grasp", "--clips", "out and back"], "no clips that go out and back"),
        (["--world", "hands", "grasp", "--expects", "no item"], "cannot tell the lie 'no item'"),
        (["interaction", "--expects", "erased"], "cannot tell the lie 'erased'"),
        (["--world", "hands", "nosuch"], "there is no critic 'nosuch': expected interaction, permanence"),
        (
            ["--world", "hands", "realism"],
            "realism is audited in the world doom, not in hands: choose --world doom",
        ),
        (
            ["grasp"],
            "grasp is audited in the world hands, not in doom: choose --world hands, one of interaction",
        ),
        (["--world", "hands", "cycle"], "cycle needs camera poses, but this world's actions are 4 controls"),
        (
            ["--world", "hands", "latency"],
            "latency needs camera poses, but this world's actions are 4 controls",
        ),
        (["--world", "hands", "hpsv3"], "hpsv3 needs weights, a server or a part of your choice"),
    ):
        assert cli.main(["audit", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_users_critic_that_needs_cameras_is_refused_before_it_is_asked(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "class Cam:\n    name, needs = 'cam', ('cameras',)\n"
        "    def __call__(self, group):\n        return group.actions.cameras.poses\n"
    )
    assert cli.main(["audit", f"{tmp_path}/mine.py:Cam", "--world", "hands"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "mine.py:Cam needs camera poses, but this world's actions are 4 controls (x, y, z, opening)\n"
    )


def test_every_critic_that_can_be_audited_has_its_name_in_the_catalogue():
    listed = {entry.name for entry in ENTRIES if entry.world == "hands"}
    assert listed == set(KNOWN)
    assert all(known.make().name == name for name, known in KNOWN.items())
