"""The audit distinguishes good critics from bad ones and reports their faults."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldcompass import cli
from worldcompass.audit.clips import (
    CHUNK,
    NO_ITEM,
    OTHER_ITEM,
    Clip,
    other_clips,
    partly_obeyed,
    share_obeyed,
)
from worldcompass.audit.degradations import FORGED, MOTION, PICTURE
from worldcompass.audit.expected import expected
from worldcompass.audit.exploit import RUBBISH_DB, psnr, search
from worldcompass.audit.page import render
from worldcompass.audit.run import punished, run_audit
from worldcompass.audit.tricks import NUM_GENES, TRICKS, replayed
from worldcompass.commands.audit import print_audit
from worldcompass.rewards.reference import TrueContinuation
from worldcompass.rewards.reference import psnr as true_psnr
from worldcompass.seeding import generator_for
from worldcompass.testing import ContractError, check_critic, noise_group
from worldcompass.types import Scores
from worldcompass.worlds.doom.audits import KNOWN, LIKE_THE_TRUTH
from worldcompass.worlds.doom.world import SPEC


def make_clips(count: int = 6) -> list[Clip]:
    """Textures that slide by 2 pixels per frame as commanded: right for 1, left for 2."""
    clips = []
    for index in range(count):
        generator = generator_for("clip", index)
        wide = torch.randint(40, 215, (3, 12, 80), generator=generator, dtype=torch.uint8)
        wide = wide.repeat_interleave(2, -1).repeat_interleave(2, -2)
        label = 1 + index % 2
        step = 2 if label == 1 else -2
        video = torch.stack([wide[:, :, 60 + step * t : 92 + step * t] for t in range(29)])
        labels = torch.full((CHUNK,), label)
        actions = SPEC.actions.commanded(torch.cat([torch.zeros(1, dtype=torch.long), labels]))
        past = SPEC.actions.commanded(torch.tensor([0, label, label, label]))
        own = actions.latents(1, CHUNK + 1)
        clips.append(Clip(video[13:], video[:13], video[0], own, past, f"video/{index}", 1))
    return clips


CLIPS = make_clips()


class Slide:
    """Share of frames that moved as commanded: the truth about ``make_clips``."""

    name = "slide"

    def __call__(self, group):
        frames, actions = group.transitions()
        step = 2 if actions.cameras.labels_K[0] == 1 else -2
        moved = torch.roll(frames[:, :-1].float(), -step, -1)[..., 4:-4]
        right = (moved - frames[:, 1:, ..., 4:-4].float()).abs().mean((-3, -2, -1)) < 8
        return Scores(right.float().mean(1), torch.ones(len(frames), dtype=torch.bool))


class Constant:
    name = "constant"

    def __call__(self, group):
        size = len(group.frames_GF3hw)
        return Scores(torch.ones(size), torch.ones(size, dtype=torch.bool))


class Brightness:
    """A picture critic that prefers bright pictures."""

    name = "brightness"

    def __call__(self, group):
        values = group.frames_GF3hw.float().mean((1, 2, 3, 4)) / 255
        return Scores(values, torch.ones(len(values), dtype=torch.bool))


class Movement:
    """Rewards any motion, independent of the command."""

    name = "movement"

    def __call__(self, group):
        frames, _ = group.transitions()
        moving = (frames.float().diff(dim=1).abs().mean((-3, -2, -1)) > 3).float().mean(1)
        return Scores(moving, torch.ones(len(moving), dtype=torch.bool))


class Silent:
    name = "silent"

    def __call__(self, group):
        size = len(group.frames_GF3hw)
        return Scores(torch.zeros(size), torch.zeros(size, dtype=torch.bool))


def test_a_critic_that_knows_the_truth_is_sound():
    audit = run_audit(Slide(), CLIPS, expected("motion"), seed=0, searched=1)
    assert audit.faults == ()
    assert (
        audit.correlation["share obeyed"] > 0.9 and audit.calibration is not None and audit.calibration < 0.1
    )
    assert audit.punished["wrong commands@1"].mean == 1 and audit.accuracy.mean == 1
    assert audit.cheated["replayed latents"].mean == audit.cheated["frozen picture"].mean == 0
    assert audit.videos == 6 and audit.overlooked() == ["tinted", "speckled"]


class Detail:
    """Rewards every gradient, as if more detail were always better."""

    name = "detail"

    def __call__(self, group):
        values = group.frames_GF3hw.float().diff(dim=-1).abs().mean((1, 2, 3, 4))
        return Scores(values, torch.ones(len(values), dtype=torch.bool))


def test_a_critic_of_detail_falls_for_the_forgeries_that_add_it():
    audit = run_audit(Detail(), CLIPS[:6], expected("forgeries"), seed=0, searched=1)
    assert {"sharpened", "contrasted", "grainy", "speckled"} <= set(audit.overlooked())
    assert any("does not punish sharpened" in fault for fault in audit.faults)


@pytest.mark.parametrize(
    ("critic", "expects", "words"),
    [
        (Constant(), "motion", "does not punish frozen"),
        (Constant(), "pictures", "can be cheated"),
        (Brightness(), "pictures", "does not punish blurred"),
        (Movement(), "motion", "does not punish wrong commands"),
        (Movement(), "motion", "can be cheated: replayed latents"),
    ],
)
def test_bad_critics_fail_for_the_right_reason(critic, expects, words):
    audit = run_audit(critic, CLIPS, expected(expects), seed=0, searched=1)
    assert any(words in fault for fault in audit.faults), audit.faults


def test_a_picture_critic_may_prefer_frozen_clips_but_the_audit_warns(capsys):
    class Still:
        """Notices degraded pictures by their likeness to the first one, and therefore prefers frozen clips."""

        name = "still"

        def __call__(self, group):
            gone = (
                (group.frames_GF3hw.float() - group.past_frames_F3hw[-1].float()).square().mean((1, 2, 3, 4))
            )
            return Scores(-gone, torch.ones(len(gone), dtype=torch.bool))

    audit = run_audit(Still(), CLIPS, expected("noisy"), seed=0, searched=2)
    assert audit.fooled_by_other_tricks()[-2:] == ["frozen picture", "replayed latents"]
    assert audit.faults == ()
    print_audit(audit)
    assert "never use it alone" in capsys.readouterr().out
    assert "Never use it alone" in render(audit, "x")


def test_a_critic_that_always_abstains_cannot_be_audited():
    with pytest.raises(
        ValueError, match="silent abstains from all of the 6 true clips, so that there is nothing"
    ):
        run_audit(Silent(), CLIPS, expected("both"), seed=0)


def test_a_critic_that_scores_few_true_clips_is_not_sound():
    class Shy(Slide):
        """Knows the truth, and abstains from all but one of the true clips."""

        def __call__(self, group):
            scores = super().__call__(group)
            shy = not torch.equal(group.first_frame_3hw, CLIPS[0].first_3hw)
            valid = scores.valid_G.clone()
            valid[0] = not shy
            return Scores(scores.values_G, valid)

    audit = run_audit(Shy(), CLIPS, expected("motion"), seed=0, searched=0)
    assert any("abstains from 83% of the true clips" in fault for fault in audit.faults)
    json.dumps(audit.to_json(), allow_nan=False)


@pytest.mark.filterwarnings("error")  # of means of nothing
def test_a_critic_that_scores_only_the_truth_gets_faults_in_words(capsys):
    class OnlyTrue(Slide):
        """Abstains from every lie."""

        def __call__(self, group):
            scores = super().__call__(group)
            (clip,) = (clip for clip in CLIPS if torch.equal(clip.first_3hw, group.first_frame_3hw))
            same = (group.frames_GF3hw == clip.frames_F3hw).flatten(1).all(1)
            return Scores(scores.values_G, same & (group.actions.labels_K == clip.actions.labels_K).all())

    audit = run_audit(OnlyTrue(), CLIPS, expected("motion"), seed=0, searched=1)
    assert audit.faults[:2] == ("abstains from every clip of frozen", "abstains from every clip of mirrored")
    assert audit.faults[-1].startswith("rank correlation with the share obeyed is unknown")
    print_audit(audit)
    said = capsys.readouterr().out + json.dumps(audit.to_json(), allow_nan=False)
    assert "nan" not in said.lower() and "a full lie costs an unknown number of times the spread" in said
    assert ">nan" not in render(audit, "x")


class TakesIt:
    """Reads the item from the picture's colour: red for armour, green for the flask."""

    name = "takes it"

    def __call__(self, group):
        mean = group.frames_GF3hw.float().mean((1, 3, 4)) / 255  # (G, 3)
        return Scores(mean[:, int("flask" in group.instruction)], torch.ones(len(mean), dtype=torch.bool))


def item_clips():
    """An item's colour, another's, none, on four videos."""

    def with_colour(clip, word, channel):
        frames = clip.frames_F3hw // 4
        if channel is not None:
            frames[:, channel] += 150
        return replace(clip, frames_F3hw=frames, instruction=f"pick up the {word}")

    return [
        replace(
            with_colour(clip, word, channel),
            denied={
                OTHER_ITEM: with_colour(clip, word, 1 - channel), NO_ITEM: with_colour(clip, word, None)
            },
        )
        for clip in CLIPS
        for channel, word in enumerate(("armour", "flask"))
    ]  # fmt: skip


def test_a_critic_of_instructions_is_asked_about_them():
    clips = item_clips()
    assert len({clip.name for clip in clips}) == len(clips)
    audit = run_audit(TakesIt(), clips, expected("other item,no item"), seed=0, searched=1)
    assert audit.faults == () and audit.punished["other item@1"].mean == audit.punished["no item@1"].mean == 1
    deaf = run_audit(Constant(), clips, expected("other item,no item"), seed=0, searched=0)
    assert any("does not punish other item: 50%" in fault for fault in deaf.faults)


def test_lies_about_items_are_for_critics_that_see_items(capsys):
    assert cli.main(["audit", "interaction", "--expects", "no item"]) == 2
    assert "interaction scores clips without pick-ups and cannot notice 'no item'" in capsys.readouterr().err


def test_a_users_critic_can_be_audited_on_pickups(tmp_path, capsys, monkeypatch):
    shown = []

    def clips(per_map, seed, kind):
        shown.append(kind)
        return item_clips(), []

    monkeypatch.setattr("worldcompass.commands.audit._clips", clips)
    (tmp_path / "mine.py").write_text("from test_audit import TakesIt\n\ndef make():\n    return TakesIt()\n")
    words = [
        "--clips",
        "pickups",
        "--expects",
        "other item,no item",
        "--size",
        "quick",
        "--out",
        f"{tmp_path}/a",
    ]
    assert cli.main(["audit", f"{tmp_path}/mine.py:make", *words]) == 0
    assert shown == ["pickups"] and json.loads((tmp_path / "a" / "audit.json").read_text())["faults"] == []
    assert "full lies it must notice that score below the truth: 100%" in capsys.readouterr().out


def test_a_critic_that_breaks_on_clips_gives_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("worldcompass.commands.audit._clips", lambda *_: (CLIPS, []))
    (tmp_path / "late.py").write_text(
        "from test_audit import Constant\n\nclass Late(Constant):\n    def __call__(self, group):\n"
        "        if group.past_actions is not None:\n            raise KeyError('past')\n"
        "        return super().__call__(group)\n"
    )
    assert cli.main(["audit", f"{tmp_path}/late.py:Late", "--out", f"{tmp_path}/a"]) == 2
    assert "Late cannot be audited: KeyError: 'past', late.py line 6\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [name for name in KNOWN if name != "latency"]
)  # odometry: seconds a candidate
def test_every_critic_that_can_be_audited_keeps_the_contract(name):
    group = replace(noise_group(), instruction="pick up the health pack")
    check_critic(KNOWN[name].make(), group)


def test_a_function_that_makes_no_critic_is_a_mistake(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "def make():\n    raise KeyError('weights')\n\ndef seven():\n    return 7\n"
    )
    assert cli.main(["audit", f"{tmp_path}/mine.py:make"]) == 2
    assert "failed to make a critic (KeyError: 'weights', mine.py line 2)" in capsys.readouterr().err
    assert cli.main(["audit", f"{tmp_path}/mine.py:seven"]) == 2
    assert "returned int: expected a critic" in capsys.readouterr().err
    (tmp_path / "broken.py").write_text(
        "import torch\nfrom worldcompass.types import Scores\n"
        "class Short:\n    name = 'short'\n    def __call__(self, group):\n"
        "        return Scores(torch.zeros(1), torch.ones(1, dtype=torch.bool))\n"
        "def make():\n    return Short()\n"
    )
    assert cli.main(["audit", f"{tmp_path}/broken.py:make"]) == 2
    assert "breaks the contract of critics" in capsys.readouterr().err


def test_an_audit_repeats_itself_and_fits_into_json_and_a_page():
    first, second = (
        run_audit(Brightness(), CLIPS[:2], expected("both"), seed=1, searched=1).to_json() for _ in range(2)
    )
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second))
    page = render(
        run_audit(Brightness(), CLIPS[:2], expected("both"), seed=1, searched=1), "worldcompass audit x"
    )
    assert "not sound" in page and page.count("<img") == len(TRICKS) and "http" not in page


@pytest.mark.parametrize("name", MOTION | PICTURE | FORGED)
def test_degradations_keep_shape_and_type_and_do_something(name):
    clip = CLIPS[0]
    before = clip.frames_F3hw.clone()
    made = (MOTION | PICTURE | FORGED)[name](clip.frames_F3hw, clip.past_F3hw, 1.0, generator_for("degrade"))
    assert made.shape == before.shape and made.dtype == torch.uint8
    assert not torch.equal(made, before) and torch.equal(clip.frames_F3hw, before)


def test_obeyed_shares_are_true_by_construction():
    clip = CLIPS[0]
    assert [share_obeyed(clip, k) for k in range(CHUNK + 1)] == [0, 0.25, 0.5, 0.75, 1]
    half = partly_obeyed(clip, 2)
    assert torch.equal(half[:8], clip.frames_F3hw[:8]) and torch.equal(
        half[8:], half[7:8].expand(8, -1, -1, -1)
    )
    assert all(
        (o.actions.labels_K != c.actions.labels_K).all()
        for o, c in zip(other_clips(CLIPS), CLIPS, strict=True)
    )


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_tricks_paint_rubbish_of_the_clip_s_shape(trick):
    clip = CLIPS[0]
    genes = torch.linspace(-0.9, 0.9, NUM_GENES)
    made = trick.paint(genes, clip, torch.Generator().manual_seed(0))
    again = trick.paint(genes, clip, torch.Generator().manual_seed(0))
    assert made.shape == clip.frames_F3hw.shape and made.dtype == torch.uint8 and torch.equal(made, again)
    moves = made.float().diff(dim=0).abs().mean() > 0.5
    assert bool(moves) == (trick.name != "frozen picture")


def test_what_lies_near_the_truth_is_no_rubbish():
    """For a critic that prefers likeness to the engine, the search finds clips far from it or none."""
    clip = CLIPS[0]
    for trick in TRICKS:
        found = search(
            lambda made: torch.tensor([psnr(m, clip.frames_F3hw) for m in made]),
            clip,
            trick,
            generator_for("s"),
        )
        assert found is None or found.psnr < RUBBISH_DB or not trick.may_hit
    assert psnr(clip.frames_F3hw, clip.frames_F3hw) > 70


def test_replayed_latents_never_do_what_is_commanded():
    """In a video that slides only to one side, only latents played backwards are wrong."""
    clip = CLIPS[0]
    for seed in range(5):
        genes = 2 * torch.rand(NUM_GENES, generator=generator_for("genes", seed)) - 1
        made = replayed(genes, clip, generator_for("none"))
        for latent in made.unflatten(0, (CHUNK, 4)):
            back = torch.roll(latent[:-1].float(), 2, -1)[..., 4:-4]
            torch.testing.assert_close(back, latent[1:, ..., 4:-4].float())


def test_tricks_count_against_critics_that_must_notice_them():
    counted = {
        words: [t.name for t in TRICKS if expected(words).counts(t)]
        for words in ("motion", "pictures", "both")
    }
    assert counted["motion"] == ["sliding texture", "frozen picture", "replayed latents"]
    assert counted["pictures"] == ["sliding texture", "obedient texture", "obedient colours"]
    assert counted["both"] == [trick.name for trick in TRICKS]


def test_a_critic_may_be_expected_to_notice_single_lies(capsys):
    audit = run_audit(Brightness(), CLIPS, expected("frozen, blurred"), seed=0, searched=0)
    assert audit.expects.lies == ("frozen", "blurred") and audit.expects.pictures == ("blurred",)
    assert not any("noisy" in fault or "wrong commands" in fault for fault in audit.faults)
    mixed = expected("motion, blurred, dropped")
    assert mixed.motion and mixed.lies[-2:] == ("blurred", "dropped")
    lost = run_audit(Brightness(), CLIPS, expected("dropped,cut"), seed=0, searched=0).faults
    assert [fault.partition(":")[0] for fault in lost[:2]] == [
        "does not punish dropped",
        "does not punish cut",
    ]
    with pytest.raises(ValueError, match="cannot be expected to notice 'smell'"):
        expected("blurred,smell")
    assert cli.main(["audit", "stability", "--expects", "smell"]) == 2
    assert "motion, pictures, both, forgeries, or some of frozen" in capsys.readouterr().err


def test_likeness_to_the_truth_is_not_audited_on_wrong_commands():
    audit = run_audit(
        TrueContinuation(true_psnr, "psnr"), CLIPS, expected(LIKE_THE_TRUTH), seed=0, searched=1
    )
    assert audit.punished["wrong commands@1"].n == 0 and audit.punished["frozen@1"].mean == 1
    assert audit.faults == () and "wrong commands" not in audit.overlooked()


def test_every_known_critic_must_notice_something():
    for name, known in KNOWN.items():
        assert expected(known.expects).lies, name
    assert KNOWN["cycle"].clips == "out and back"


def test_a_critic_that_breaks_the_contract_is_not_audited(tmp_path):
    class Broken(Brightness):
        def __call__(self, group):
            scores = super().__call__(group)
            return Scores(scores.values_G * torch.nan, scores.valid_G)

    with pytest.raises(ContractError, match="finite"):
        run_audit(Broken(), CLIPS[:2], expected("pictures"), seed=0)


def test_a_tie_is_punished_half_and_an_abstention_not_at_all():
    half = punished(np.array([1.0, 1.0, np.nan]), np.ones(3), np.array(["a", "b", "c"]))
    assert (half.mean, half.n) == (0.5, 2) and half.low < 0.2 and half.high > 0.8


def test_an_unknown_critic_is_refused(capsys):
    assert cli.main(["audit", "nonsense"]) == 2
    assert "there is no critic 'nonsense': expected interaction" in capsys.readouterr().err
