"""Tables of pages come from stored results: pages are fresh, an edit by hand is found, seeds are one result."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from finished_runs import make_run

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED
from worldcompass.report.tables import (
    Stored,
    everything,
    pooled,
    read_stored,
    reduce_run,
    rewritten,
    table_of,
    with_tables,
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "hands.md"]
STORED = ROOT / "docs" / "results"


def test_the_tables_of_the_pages_are_those_of_the_stored_results():
    stale = [page.name for page, _ in rewritten([*PAGES, ROOT / "docs" / "horizon.md"], STORED)]
    assert not stale, f"update them with worldcompass tables --write {' '.join(stale)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_number_that_is_edited_by_hand_is_found(page, tmp_path, capsys):
    text = page.read_text()
    row = re.search(
        r"\| rollout \| (?:held out \| \S+ to \S+,|actions followed: difference, points \|) \+(\d)", text
    )
    copy = tmp_path / page.name
    copy.write_text(text[: row.start(1)] + str((int(row[1]) + 1) % 10) + text[row.end(1) :])
    arguments = ["--results", str(STORED)]
    assert cli.main(["tables", "--check", str(copy), *arguments]) == 1
    assert f"{copy} has stale tables" in capsys.readouterr().out
    assert cli.main(["tables", "--write", str(copy), *arguments]) == 0 and copy.read_text() == text
    assert cli.main(["tables", "--check", str(copy), *arguments]) == 0 and not capsys.readouterr().err


def test_a_stored_run_says_what_its_results_say(tmp_path):
    run = make_run(tmp_path / "run")
    assert cli.main(["tables", str(run), "--store", str(tmp_path / "kept")]) == 0
    (stored,) = read_stored(tmp_path / "kept")
    assert stored.command == "worldcompass demo --seed 0" and (stored.recipe, stored.seed) == ("demo", 0)
    found, before = pooled([stored]), pooled([reduce_run(run)])
    written = json.loads((run / "results.json").read_text())
    for side in ("engine", "base", "trained", "difference"):
        entry = written["unseen_maps"][side]["basic"][FOLLOWED]
        score = found.unseen.score(side, "basic", FOLLOWED)
        assert score == before.unseen.score(side, "basic", FOLLOWED)
        assert [score.mean, score.low, score.high] == pytest.approx([entry["mean"], *entry["ci95"]], abs=2e-5)


def test_seeds_are_one_result_over_scenarios_and_seeds(tmp_path):
    runs = [reduce_run(make_run(tmp_path / str(seed), seed)) for seed in range(3)]
    together, alone = pooled(runs), [pooled([run]) for run in runs]
    score = together.score("trained", "combined", FOLLOWED)
    assert score.n == 18 and score.mean == pytest.approx(
        np.mean([one.score("trained", "combined", FOLLOWED).mean for one in alone])
    )
    assert together.score("base", "combined", FOLLOWED).mean == pytest.approx(
        alone[0].score("base", "combined", FOLLOWED).mean
    )
    table = table_of("demo", runs)
    assert table.count("share of the gap |") == 3 and "Seeds 0, 1, 2, worldcompass 0.1.0" in table
    short = table_of("demo", runs, short=True)
    rows = [line for line in short.splitlines() if line.startswith("|")]
    assert (
        rows[0] == "| way | starts | combined actions followed | basic actions followed |" and len(rows) == 4
    )
    base, change = (together.score(side, "combined", FOLLOWED) for side in ("base", "difference"))
    low, high = 100 * change.low, 100 * change.high
    cell = (
        f"{100 * base.mean:.1f}% to {100 * score.mean:.1f}%, {100 * change.mean:+.1f} [{low:.1f}, {high:.1f}]"
    )
    assert rows[2].startswith(f"| rollout | held out | {cell} |")
    assert rows[3].startswith("| rollout | never trained on | ") and "realism" not in short
    assert f"| {100 * score.mean:.1f}% |" in table
    assert all(len(line) <= 120 for line in table.splitlines() if not line.startswith("|"))


def test_every_row_says_its_way_of_walking(tmp_path):
    runs = [reduce_run(make_run(tmp_path / str(seed), seed, played=True)) for seed in range(2)]
    found = pooled([Stored.from_json(json.loads(json.dumps(run.to_json()))) for run in runs])
    play = found.ways["play"]
    assert found == pooled(runs) and play.score("base", "combined", FOLLOWED).n == 6
    assert found.score("base", "combined", FOLLOWED).n == 12
    table = table_of("demo", runs)
    change = play.score("trained", "basic", FOLLOWED)
    assert f"| {100 * change.mean:.1f}% |" in table
    ways = [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.startswith("|")]
    assert set(ways) == {"rollout", "play"} and ways.count("play") == 4
    assert "`play`: chunks of 1 latent, 4 denoising steps" in table
    assert "| play | never trained on | basic | gap closed |" in everything(runs)


def test_an_older_run_among_others_leaves_the_way_that_all_measured(tmp_path):
    runs = [reduce_run(make_run(tmp_path / str(seed), seed, played=seed > 0)) for seed in range(2)]
    assert not pooled(runs).ways and pooled(runs[1:]).ways
    old = runs[0].to_json() | {"schema": 1}
    read = Stored.from_json({k: v for k, v in old.items() if k not in ("walking", "ways")})
    assert read.to_json() == runs[0].to_json()
    with pytest.raises(ValueError, match="ways is missing or malformed"):
        Stored.from_json({k: v for k, v in runs[1].to_json().items() if k != "ways"})
    with pytest.raises(ValueError, match=r"ways.play is malformed: expected base and trained"):
        Stored.from_json(runs[1].to_json() | {"ways": {"play": {"base": {}}}})


def test_a_page_keeps_its_prose_and_tables_without_results_say_so(tmp_path):
    runs = [reduce_run(make_run(tmp_path / "run"))]
    page = "a\n<!-- table: demo, short -->\nold\n<!-- /table -->\nb\n"
    page += "<!-- table: longer -->\n1\n<!-- /table -->\nc\n"
    new = with_tables(page, runs)
    assert new.startswith("a\n<!-- table: demo, short -->\n\n| way | starts |") and new.endswith(
        "<!-- /table -->\nc\n"
    )
    assert "There are no stored results of `longer` yet." in new and "\n<!-- /table -->\nb\n" in new
    assert with_tables(new, runs) == new


def test_a_figure_inside_a_sentence_is_written_too_and_one_that_nobody_measured_is_refused(tmp_path):
    runs = [reduce_run(make_run(tmp_path / str(seed), seed)) for seed in range(2)]
    line = "gains <!-- change: demo, combined, {} -->+9.9 [9, 9]<!-- /change --> more"
    new = with_tables(line.format(FOLLOWED), runs)
    change = pooled(runs).score("difference", "combined", FOLLOWED).times(100)
    assert new.startswith("gains <!-- change: demo, combined, judge_accuracy -->") and new.endswith(" more")
    assert f">{change.mean:+.1f} [{change.low:.1f}, {change.high:.1f}]<" in new
    assert "9.9" not in new and with_tables(new, runs) == new
    with pytest.raises(
        UserError, match=r"the page asks for beauty of combined actions of demo, which no stored"
    ):
        with_tables(line.format("beauty"), runs)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"seed": 1, "recipe": "longer"}, "runs of different recipe are not one result: demo, longer"),
        ({"seed": 1, "hashed": "0000"}, "runs of different scenarios_hash"),
        ({"seed": 0}, "each seed counts once, got 0, 0"),
    ],
)
def test_runs_that_are_not_one_result_are_refused(second, words, tmp_path, capsys):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", **second)]
    assert cli.main(["tables", *map(str, runs)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_what_cannot_be_read_is_one_sentence(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "evaluation_base.json").unlink()
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    page.write_text("no table")
    for arguments, words in (
        ([str(run)], "is not a finished run: evaluation_base.json is missing"),
        ([str(tmp_path)], "is not a finished run: results.json is missing"),
        ([], "expected runs, or --write PAGE, or --check PAGE"),
        (["--check", str(page)], "no stored results"),
    ):
        assert cli.main(["tables", *arguments, "--results", str(kept)]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
    kept.mkdir()
    for text, words in (("no table", "has no table"), ("<!-- table: demo -->\n1\n", "does not close it")):
        page.write_text(text)
        with pytest.raises(UserError, match=words):
            list(rewritten([page], kept))
    (kept / "demo_seed0.json").write_text(json.dumps({"schema": 1, "recipe": "demo"}))
    with pytest.raises(
        UserError, match=r"demo_seed0.json is not a stored result: seed is missing or malformed"
    ):
        read_stored(kept)
