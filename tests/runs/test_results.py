"""results.json: written from one type and read into it; what is malformed is one sentence."""

import json
import math
import re

import pytest
from report_runs import make_results

from worldcompass.errors import UserError
from worldcompass.runs.results import (
    ActionCounts,
    Count,
    Curve,
    Evaluation,
    ForwardPasses,
    Results,
    read_results,
    write_results,
)
from worldcompass.statistics import UNKNOWN, Estimate
from worldcompass.ways import Walking

SCORES = {"combined": {"quality": Estimate(0.5, 0.25, 0.75, 24)}}
NO_GAP = {"basic": Estimate(float("nan"), float("nan"), float("nan"), 24)}


def test_results_survive_the_file(tmp_path):
    counts = {"base": {"combined": Count(591, 744)}}
    play = Evaluation(base=SCORES, counts=counts, unseen=Evaluation(base=SCORES))
    found = Evaluation(
        SCORES, SCORES, SCORES, SCORES, {}, counts, Evaluation(base=SCORES), ways={"play": play}
    )
    walking = {"rollout": Walking(4, 8), "play": Walking(1, 4)}
    results = Results(
        found, "5f3c", walking, 12.5, 8.0, ForwardPasses(18, 79, 2, 8), {125: found},
        {"base": {"basic": {"drift": Curve((0.5, 0.25), (0.25, 0.125), (0.75, 0.5))}}},
        {"base": ActionCounts([[1, 2]], [[0, 1]])},
    )  # fmt: skip
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 2


def test_an_unknown_gap_is_null_and_a_missing_file_is_empty(tmp_path):
    assert read_results(tmp_path / "results.json") == Results()
    write_results(tmp_path / "results.json", Results(Evaluation(gap_closed=NO_GAP)))
    stored = json.loads((tmp_path / "results.json").read_text())["gap_closed"]["basic"]
    assert stored == {"mean": None, "ci95": [None, None], "n": 24}
    assert not read_results(tmp_path / "results.json").evaluation.gap_closed["basic"].known


def test_results_of_runs_so_far_are_read_whole_and_written_alike(tmp_path):
    before = make_results()
    (tmp_path / "results.json").write_text(json.dumps(before))
    results = read_results(tmp_path / "results.json")
    assert results.evaluation.score("base", "combined", "judge_accuracy") == Estimate(0.241, 0.211, 0.271, 96)
    assert results.evaluation.score("base", "combined", "nothing") == UNKNOWN
    assert results.to_json() == before | {"schema": 2}
    assert results.evaluation.by_way() == {"rollout": results.evaluation} and not results.walking


def test_curves_of_older_files_are_means_alone_and_unknown_chunks_are_null(tmp_path):
    (tmp_path / "results.json").write_text('{"per_depth": {"base": {"basic": {"drift": [0.5, NaN]}}}}')
    curve = read_results(tmp_path / "results.json").per_depth["base"]["basic"]["drift"]
    assert curve.mean[0] == 0.5 and math.isnan(curve.mean[1]) and not curve.low and not curve.high
    assert curve.to_json() == {"mean": [0.5, None]}
    assert str(Curve.from_json({"mean": [0.5, None]})) == str(curve)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": []}, "base is malformed: expected an object, got list"),
        ({"base": {"combined": {"quality": 3}}}, "base.combined.quality is malformed: expected a mean"),
        (
            {"gap_closed": {"basic": {"mean": "all"}}},
            "gap_closed.basic is malformed: expected a number, got 'all'",
        ),
        ({"seconds": "long"}, "seconds is malformed"),
        ({"forward_passes": {"clip_level": 3}}, "forward_passes is malformed"),
        ({"per_action": {"base": {"asked": [3], "followed": []}}}, "per_action is malformed"),
        (
            {"per_action": {"base": {"asked": [[1, 2]], "followed": [[1]]}}},
            "expected as many followed as asked",
        ),
        ({"horizons": {"soon": {}}}, "horizons is malformed"),
        (
            {"per_depth": {"base": {"basic": {"drift": [0.5, "x"]}}}},
            "per_depth is malformed: expected a list",
        ),
        ({"per_depth": {"base": {"basic": {"drift": 0.5}}}}, "per_depth is malformed: expected an object"),
        (
            {"per_depth": {"base": {"basic": {"drift": {"mean": [0.5, 0.5], "low": [0.1], "high": [0.6]}}}}},
            "per_depth is malformed: 2 means with 1 lower and 1 upper ends",
        ),
        (
            {"walking": {"play": {"chunk_length": 0, "num_steps": 4}}},
            "walking.play is malformed: expected chunk",
        ),
        ({"walking": {"play": 4}}, "walking is malformed: expected an object, got int"),
        ({"ways": {"play": []}}, "evaluation is malformed: expected an object, got list"),
        ({"counts": {"base": {"combined": [1]}}}, "counts is malformed: expected followed and commanded"),
        ({"schema": 3}, "has schema 3, expected 2 or 1"),
    ],
)
def test_malformed_results_are_one_sentence_that_names_the_part(change, words, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(make_results() | change))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_results(tmp_path / "results.json")
    assert str(tmp_path / "results.json") in str(caught.value) and "\n" not in str(caught.value)
