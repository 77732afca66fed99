"""The form of a rater: an empty one, and reading an answered one."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldcompass.errors import UserError
from worldcompass.judging.votes.sheet import COMMANDS, Sheet
from worldcompass.runs.atomic import write_text

GRADES = ("grade_A", "grade_B")
BEST_GRADE = 5

Letters = Literal["A", "B", "tie"]
_ANSWERS: dict[str, Letters] = {"a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True)
class Answer:
    """A rater's row about one pair."""

    pair: int
    looks: Letters
    """Which looks better."""
    place: Letters
    """Which still shows the place of the start image."""
    overall: Letters
    grade_A: int | None = None
    """1 to 5, the best; None when not given."""
    grade_B: int | None = None
    commands: Letters | None = None
    """Which does what was commanded; None on sheets that do not show the engine."""

    def on(self, question: str) -> Letters:
        """The answer to one of ``Sheet.questions``."""
        return getattr(self, question)


def header_of(sheet: Sheet) -> tuple[str, ...]:
    """The columns of a sheet's form."""
    return ("pair", *sheet.questions, *GRADES, "sheet")


def write_form(path: Path, sheet: Sheet) -> None:
    """Write an empty form; each row carries the sheet's id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = header_of(sheet)
    writer.writerow(header)
    writer.writerows([pair.number, *[""] * (len(header) - 2), sheet.id] for pair in sheet.pairs)
    write_text(path, text.getvalue())


def read_form(path: Path, sheet: Sheet) -> tuple[Answer, ...]:
    """All answers of a rater in the order of the sheet.

    Columns may be separated by commas or semicolons. The columns of grades and of the sheet may be missing.

    Raises:
        UserError: for a missing or malformed file, another sheet's form, missing or repeated pairs, or an answer
            that is none; it names the row.
    """
    rows = _rows(path, sheet)
    answers = [_answer(row, f"{path}, line {line}", sheet) for line, row in rows]
    counts, numbers = Counter(answer.pair for answer in answers), [pair.number for pair in sheet.pairs]
    if repeated := [str(number) for number, count in counts.items() if count > 1]:
        raise UserError(f"{path} answers a pair twice ({', '.join(repeated)}): leave one row for each")
    if missing := [str(number) for number in numbers if number not in counts]:
        raise UserError(f"{path} lacks pairs {', '.join(missing)}: answer every pair of the sheet")
    return tuple(sorted(answers, key=lambda answer: answer.pair))


def _rows(path: Path, sheet: Sheet) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and cells by column, without empty lines."""
    if not path.is_file():
        raise UserError(f"there is no form {path}: expected a CSV file with an answered form.csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: expected a form saved as CSV in UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if ";" in first else ",")
    header = [cell.strip() for cell in next(reader, [])]
    lacking, known = {"pair", *sheet.questions} - set(header), header_of(sheet)
    if lacking or len(set(header)) < len(header) or set(header) - set(known):
        raise UserError(
            f"{path} is not a form: expected the columns {', '.join(known)}, got {first.strip() or 'nothing'}"
        )
    found = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}, line {reader.line_num}: expected {len(header)} cells, got {len(cells)}")
        found.append((reader.line_num, dict(zip(header, map(str.strip, cells), strict=True))))
    return found


def _answer(row: Mapping[str, str], place: str, sheet: Sheet) -> Answer:
    if row.get("sheet", sheet.id) not in ("", sheet.id):
        raise UserError(
            f"{place}: this form belongs to sheet {row['sheet']}, and the key to sheet {sheet.id}"
        )
    number = row["pair"]
    if not number.isdecimal() or int(number) not in {pair.number for pair in sheet.pairs}:
        raise UserError(
            f"{place}: there is no pair {number!r} on this sheet: expected 1 to {len(sheet.pairs)}"
        )
    return Answer(
        pair=int(number),
        looks=_letters(row, "looks", place),
        place=_letters(row, "place", place),
        overall=_letters(row, "overall", place),
        commands=_letters(row, COMMANDS, place) if sheet.engine else None,
        grade_A=_grade(row, "grade_A", place),
        grade_B=_grade(row, "grade_B", place),
    )


def _letters(row: Mapping[str, str], question: str, place: str) -> Letters:
    answer = _ANSWERS.get(row[question].lower())
    if answer is None:
        raise UserError(f"{place}: {question} is {row[question]!r}: expected A, B or tie")
    return answer


def _grade(row: Mapping[str, str], name: str, place: str) -> int | None:
    text = row.get(name, "")
    if not text:
        return None
    if text not in map(str, range(1, BEST_GRADE + 1)):
        raise UserError(
            f"{place}: {name} is {text!r}: expected a whole number from 1 to {BEST_GRADE}, or nothing"
        )
    return int(text)
