"""The verdict: bad raters are found by their controls, and the counts match those by hand."""

import dataclasses
import math
import random

import pytest
from toy_votes import answers, honest, other, right, toy_sheet

from worldcompass.judging.votes.controls import CONTROLS, outcome
from worldcompass.judging.votes.form import Answer
from worldcompass.judging.votes.scoring import Tally, majorities, score
from worldcompass.judging.votes.sheet import QUESTIONS

SHEET = toy_sheet(24)


def by_number(won, lost):
    """A taste: the first compared pairs are won, the next lost, the others tied."""
    numbers = [pair.number for pair in SHEET.compared]
    taste = dict(zip(numbers, ["good"] * won + ["bad"] * lost, strict=False))
    return lambda pair: taste.get(pair.number, "tie")


def lover_of(control):
    """Answers all else right, and prefers the forged copy of this control."""
    return [
        answers(p, ("bad" if p.control == control else right(p)) if p.control else "good")
        for p in SHEET.pairs
    ]


def always(letter):
    return [Answer(pair.number, letter, letter, letter) for pair in SHEET.pairs]


def at_random(seed):
    dice = random.Random(seed)
    return [Answer(p.number, *(dice.choice(("A", "B", "tie")) for _ in QUESTIONS)) for p in SHEET.pairs]


def test_an_honest_rater_passes_every_control_and_counts():
    verdict = score(SHEET, {"ada": honest(SHEET, by_number(10, 3))})
    (rater,) = verdict.raters
    assert verdict.kept == ("ada",) and rater.faults == ()
    assert {c.outcome for c in rater.checked} == {"passed"} and len(rater.checked) == 7
    assert verdict.tallies == {question: Tally(10, 3, 4) for question in QUESTIONS}
    assert verdict.num_pairs == 17


@pytest.mark.parametrize("control", ["sharpened", "grainy", "engine"])
def test_a_rater_who_prefers_the_worse_side_of_a_strict_control_is_left_out(control):
    forms = {"ada": honest(SHEET, by_number(3, 0)), "eve": lover_of(control)}
    verdict = score(SHEET, forms)
    assert verdict.kept == ("ada",) and verdict.raters[1].faults == (control,)
    assert verdict.tallies["looks"] == Tally(3, 0, 14)
    assert score(SHEET, forms, keep_all=True).kept == ("ada", "eve")


@pytest.mark.parametrize("control", ["same", "blurred"])
def test_a_rater_who_fails_another_control_is_reported_and_kept(control):
    given = lover_of(control)
    (rater,) = score(SHEET, {"eve": given}).raters
    assert rater.faults == () and rater.count(control, "failed") == sum(
        p.control == control for p in SHEET.controls
    )


@pytest.mark.parametrize("letter", ["A", "B"])
@pytest.mark.parametrize("pairs", [8, 9, 12, 24])
def test_a_rater_who_always_names_one_side_is_found_on_every_sheet(letter, pairs):
    for seed in range(5):
        sheet = toy_sheet(pairs, seed)
        given = [Answer(pair.number, letter, letter, letter) for pair in sheet.pairs]
        (rater,) = score(sheet, {"bob": given}).raters
        assert rater.faults and rater.chose_A == float(letter == "A")


def test_a_rater_who_only_ties_is_found_by_the_engine():
    (rater,) = score(SHEET, {"bob": always("tie")}).raters
    assert rater.faults == ("engine",) and math.isnan(rater.chose_A)
    assert rater.count("sharpened", "missed") == 2 and rater.count("same", "passed") == 1


def test_random_raters_are_nearly_always_found():
    forms = {f"dice {seed}": at_random(seed) for seed in range(50)}
    verdict = score(SHEET, forms)
    assert len(verdict.kept) <= 2


def test_no_verdict_is_given_without_raters_who_count():
    verdict = score(SHEET, {"bob": always("A")})
    assert verdict.kept == () and verdict.tallies["overall"] == Tally(0, 0, 0)
    assert not verdict.tallies["overall"].win_rate.known and not verdict.tallies["overall"].with_halves.known


def test_a_control_is_judged_by_looks_and_the_main_question():
    control = CONTROLS["sharpened"]
    assert outcome(control, {"looks": "good", "place": "bad", "overall": "good"}) == "passed"
    assert outcome(control, {"looks": "bad", "place": "good", "overall": "good"}) == "failed"
    assert outcome(control, {"looks": "good", "place": "tie", "overall": "tie"}) == "missed"
    assert outcome(control, {"looks": "good", "place": "bad"}) == "passed"  # a study without 'overall'
    same = CONTROLS["same"]
    assert outcome(same, {"looks": "tie", "place": "tie", "overall": "tie"}) == "passed"
    assert outcome(same, {"looks": "tie", "place": "good", "overall": "tie"}) == "failed"


def test_shares_and_tests_match_those_by_hand():
    count = Tally(8, 2, 10)
    rate, halves = count.win_rate, count.with_halves
    assert (rate.mean, rate.n) == (0.8, 10)
    assert (rate.low, rate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson, z = 1.96
    assert (halves.mean, halves.n) == (0.65, 20)
    assert (halves.low, halves.high) == pytest.approx((0.4329, 0.8188), abs=1e-4)
    assert count.p == pytest.approx(2 * (1 + 10 + 45) / 1024)


def test_pairs_are_decided_by_more_than_half_of_the_raters():
    first = SHEET.compared[0].number
    tastes = {"ada": "good", "bea": "good", "cid": "bad", "dan": "tie"}

    def forms(*names):
        return {n: honest(SHEET, lambda p, n=n: tastes[n] if p.number == first else "tie") for n in names}

    assert majorities(SHEET, forms("ada", "bea", "cid"), "looks")[0] == "good"
    assert majorities(SHEET, forms("ada", "cid", "dan"), "looks")[0] == "tie"
    assert majorities(SHEET, forms("ada", "bea", "cid", "dan"), "looks")[0] == "tie"
    assert majorities(SHEET, forms("cid"), "looks")[0] == "bad"


def test_commands_are_counted_where_the_sheet_shows_what_they_ask_for():
    sheet = toy_sheet(24, shows_engine=True)
    given = [
        dataclasses.replace(a, looks="tie", commands=a.overall) for a in honest(sheet, lambda pair: "good")
    ]
    tallies = score(sheet, {"ada": given}, keep_all=True).tallies
    assert tallies["commands"] == Tally(17, 0, 0) and tallies["looks"] == Tally(0, 0, 17)
    assert "commands" not in score(SHEET, {"ada": honest(SHEET)}).tallies


def test_each_question_is_counted_on_its_own():
    given = [dataclasses.replace(a, place=other(a.overall) if a.overall != "tie" else "tie") for a in
             honest(SHEET, by_number(17, 0))]  # fmt: skip
    tallies = score(SHEET, {"ada": given}).tallies
    assert tallies["overall"] == Tally(17, 0, 0) and tallies["place"] == Tally(0, 17, 0)


def test_grades_follow_the_sides_and_leave_out_controls():
    given = [answers(p, "good", (1, 1) if p.control else (4, 2)) for p in SHEET.pairs]
    grades = score(SHEET, {"ada": given}, keep_all=True).grades
    assert (grades.subject.mean, grades.rival.mean, grades.difference.mean) == (4, 2, 2)
    assert (grades.difference.low, grades.difference.high, grades.difference.n) == (2, 2, 17)


def test_grades_of_several_raters_are_averaged_by_scenario_before_the_interval():
    def graded(low):
        return [
            answers(p, "good", (low + (p.number % 2), 1)) if not p.control else answers(p, right(p))
            for p in SHEET.pairs
        ]

    grades = score(SHEET, {"ada": graded(2), "bea": graded(4)}).grades
    expected = 3 + sum(p.number % 2 for p in SHEET.compared) / 17
    assert grades.subject.mean == pytest.approx(expected) and grades.subject.n == 17
    assert grades.subject.low < expected < grades.subject.high


def test_grades_of_fewer_than_two_pairs_are_unknown():
    given = honest(SHEET)
    given[SHEET.compared[0].number - 1] = answers(SHEET.compared[0], "good", (5, 1))
    assert not score(SHEET, {"ada": given}).grades.subject.known
