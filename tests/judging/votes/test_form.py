"""A form is read completely or refused in one sentence that names the row."""

import dataclasses

import pytest
from toy_votes import honest, toy_sheet, write_answers

from worldcompass.errors import UserError
from worldcompass.judging.votes.form import GRADES, read_form, write_form
from worldcompass.judging.votes.sheet import QUESTIONS

SHEET = toy_sheet(12)
HEADER = "pair,looks,place,overall"


def rows(count=12, answer="A,B,tie"):
    return [f"{number},{answer}" for number in range(1, count + 1)]


def written(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_empty_form_lists_every_pair_and_the_sheet(tmp_path):
    write_form(tmp_path / "form.csv", SHEET)
    lines = (tmp_path / "form.csv").read_text().splitlines()
    assert lines[0] == "pair,looks,place,overall,grade_A,grade_B,sheet" and len(lines) == 13
    assert lines[1] == f"1,,,,,,{SHEET.id}"
    with pytest.raises(UserError, match="line 2: looks is '': expected A, B or tie"):
        read_form(tmp_path / "form.csv", SHEET)


def test_an_answered_form_is_read_as_it_was_meant(tmp_path):
    given = honest(SHEET)
    read = read_form(write_answers(tmp_path / "ada.csv", given, SHEET.id), SHEET)
    assert list(read) == [dataclasses.replace(answer, commands=None) for answer in given]


def test_a_sheet_that_shows_the_engine_asks_for_commands_too(tmp_path):
    sheet = toy_sheet(12, shows_engine=True)
    assert sheet.id != SHEET.id
    write_form(tmp_path / "form.csv", sheet)
    header = "pair,looks,place,overall,commands,grade_A,grade_B,sheet"
    assert (tmp_path / "form.csv").read_text().splitlines()[0] == header
    given = honest(sheet)
    assert list(read_form(write_answers(tmp_path / "a.csv", given, sheet.id, engine=True), sheet)) == given
    with pytest.raises(UserError, match=r"is not a form: expected the columns .*overall, commands"):
        read_form(write_answers(tmp_path / "b.csv", given, sheet.id), sheet)
    with pytest.raises(UserError, match="is not a form"):
        read_form(write_answers(tmp_path / "c.csv", given, SHEET.id, engine=True), SHEET)


def test_spreadsheets_may_use_semicolons_small_letters_blanks_and_any_order(tmp_path):
    lines = [
        "pair;looks;place;overall;grade_A;grade_B",
        *(f" {n} ;a; B ;TIE;5;" for n in range(12, 0, -1)),
        ";;;;;",
    ]
    path = tmp_path / "ada.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    answers = read_form(path, SHEET)
    assert [a.pair for a in answers] == list(range(1, 13))
    assert {tuple(a.on(q) for q in QUESTIONS) for a in answers} == {("A", "B", "tie")}
    assert {tuple(getattr(a, g) for g in GRADES) for a in answers} == {(5, None)}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([HEADER, *rows(11)], "lacks pairs 12: answer every pair"),
        ([HEADER, *rows(), "3,A,A,A"], r"answers a pair twice \(3\)"),
        ([HEADER, *rows(), "13,A,A,A"], "line 14: there is no pair '13' on this sheet: expected 1 to 12"),
        ([HEADER, *rows(), "x,A,A,A"], "there is no pair 'x'"),
        ([HEADER, *rows(answer="A,B,left")], "line 2: overall is 'left': expected A, B or tie"),
        ([HEADER, *rows(answer="A,B")], "line 2: expected 4 cells, got 3"),
        ([f"{HEADER},grade_A", *rows(answer="A,B,tie,6")], "grade_A is '6': expected a whole number from 1 to 5"),
        ([f"{HEADER},sheet", *rows(answer="A,B,tie,0123456789ab")], "belongs to sheet 0123456789ab"),
        (["pair,looks,overall", *rows()], "is not a form: expected the columns pair, looks"),
        ([f"{HEADER},gradeA", *rows(answer="A,B,tie,4")], "is not a form"),
        ([f"{HEADER},looks", *rows(answer="A,B,tie,A")], "is not a form"),
        ([""], "got nothing"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_count_is_refused(lines, words, tmp_path):
    with pytest.raises(UserError, match=words):
        read_form(written(tmp_path / "ada.csv", lines), SHEET)


def test_a_missing_form_and_a_picture_are_no_forms(tmp_path):
    with pytest.raises(UserError, match="there is no form"):
        read_form(tmp_path / "absent.csv", SHEET)
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="not a text file"):
        read_form(tmp_path / "photo.csv", SHEET)
