"""The commands of a blind study: a report of raters and verdict, and one sentence for every mistake."""

import pytest
from toy_votes import answers, honest, made, write_answers

from worldcompass import cli
from worldcompass.judging.votes.form import Answer
from worldcompass.judging.votes.make import Kinds

STRIPS = Kinds(videos=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made(tmp_path_factory.mktemp("study") / "sheet", 12, kinds=STRIPS)


def fails(capsys, *words):
    assert cli.main([*map(str, words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_verdict_names_who_was_left_out_and_why(study, capsys):
    folder, sheet = study
    won = [p.number for p in sheet.compared[:6]]
    good = [
        answers(p, "good" if p.number in won else "tie", (4, 3)) if not p.control else a
        for p, a in zip(sheet.pairs, honest(sheet), strict=True)
    ]
    write_answers(folder.forms / "ada.csv", good, sheet.id)
    write_answers(folder.forms / "bob.csv", [Answer(p.number, "A", "A", "A") for p in sheet.pairs])
    assert cli.main(["votes", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert "runs/toy against the base: sheet " in out and "8 pairs and 4 controls, seed 0" in out
    assert "rater ada\n" in out and "rater bob: left out of the verdict (failed " in out
    assert "control same                1 passed" in out and "control same                1 failed" in out
    verdict = out[out.index("verdict: wins of runs/toy, pairs by the majority of 1 rater\n") :]
    assert "wins 100.0% [61.0, 100.0]  6 won, 0 lost, 2 tied  p = 0.0312  ties as halves 87.5%" in verdict
    assert "4.00 [4.00, 4.00]  rival 3.00 [3.00, 3.00]  difference 1.00 [1.00, 1.00]" in verdict
    assert "8 decided pairs show a true share of wins of 97% or more" in verdict
    assert cli.main(["votes", str(folder.path), str(folder.forms / "bob.csv")]) == 0
    assert "no verdict: no rater is left" in capsys.readouterr().out
    assert cli.main(["votes", str(folder.path), "--keep-all"]) == 0
    assert "majority of 2 raters" in capsys.readouterr().out


def test_mistakes_about_forms_are_one_sentence(study, capsys, tmp_path):
    folder, sheet = study
    assert "lacks pairs 12" in fails(
        capsys, "votes", folder.path, write_answers(tmp_path / "x.csv", honest(sheet)[:-1])
    )
    twins = [write_answers(tmp_path / side / "ada.csv", honest(sheet)) for side in ("one", "two")]
    assert "two forms have one name" in fails(capsys, "votes", folder.path, *twins)
    assert "holds no vote sheet" in fails(capsys, "votes", tmp_path)
    assert "is no folder" in fails(capsys, "votes", tmp_path / "votes.jsonl", twins[0])


def test_a_study_without_answers_says_where_they_go(tmp_path, capsys):
    folder, _ = made(tmp_path / "empty", 8, kinds=STRIPS)
    assert "there are no answered forms in" in fails(capsys, "votes", folder.path)


def test_mistakes_about_runs_are_one_sentence(tmp_path, capsys):
    other = tmp_path / "other"
    (other / "weights").mkdir(parents=True)
    (other / "weights" / "transformer.safetensors").write_bytes(b"")
    out = tmp_path / "out"
    base = ["vote-sheet", "--out", str(out), "--device", "cpu"]
    assert "is a run of another world" in fails(capsys, *base, other)
    assert "holds no trained weights" in fails(capsys, *base, tmp_path)
    assert "got 3 runs" in fails(capsys, *base, "a", "b", "c")
    assert "the following arguments are required: --out" in fails(capsys, "vote-sheet", "runs/demo")
    assert "not allowed with" in fails(capsys, *base, "a", "--strips", "--only-videos")
    from worldcompass.worlds.doom.world import shipped_weights

    assert "hold the same weights" in fails(capsys, *base, shipped_weights())
    assert not out.exists()
