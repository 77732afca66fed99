"""Score blind votes: how often the trained weights win, with intervals, and which raters failed hidden controls.

A folder of worldcompass vote-sheet is scored with its answered forms, by default all CSV files of FOLDER/forms. The
name of a file is that of its rater. A file of worldcompass play --vote is counted by pair of weights.

The share of wins leaves out ties; another one counts each as half a win. Intervals are Wilson's, 95%; p is the
exact two-sided sign test.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.judging.votes.controls import Outcome
    from worldcompass.judging.votes.scoring import Grades, Rater, Tally, Verdict
    from worldcompass.judging.votes.sheet import Sheet
    from worldcompass.player.votes import Vote

EXAMPLES = """\
  worldcompass votes
  worldcompass votes runs/votes.jsonl
  worldcompass votes runs/votes_demo
  worldcompass votes runs/votes_demo ada.csv bea.csv --keep-all
"""

OUTCOMES: tuple[Outcome, ...] = ("passed", "missed", "failed")
SAYS = {
    "looks": "looks better",
    "place": "shows the start's place",
    "overall": "better overall",
    "commands": "does what was commanded",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass votes``."""
    text = "file of votes, or folder of a vote sheet (default: %(default)s)"
    parser.add_argument("path", type=Path, nargs="?", default=Path("runs/votes.jsonl"), help=text)
    text = "answered forms of the sheet (default: FOLDER/forms/*.csv)"
    parser.add_argument("forms", type=Path, nargs="*", metavar="FORM.csv", help=text)
    parser.add_argument("--keep-all", action="store_true", help="count raters who failed controls too")


def run(args: argparse.Namespace) -> int:
    """Print the verdict of a sheet, or the counts of a file."""
    if args.path.is_dir():
        return _sheet(args.path, args.forms, args.keep_all)
    if args.forms or args.keep_all:
        raise UserError(f"{args.path} is no folder: forms and --keep-all need the folder of a vote sheet")
    return _file(args.path)


# --------------------------------------------------------------------------- votes of a sheet


def _sheet(path: Path, files: list[Path], keep_all: bool) -> int:
    from worldcompass.judging.votes.form import read_form
    from worldcompass.judging.votes.scoring import score
    from worldcompass.judging.votes.sheet import SheetFolder, read_key

    folder = SheetFolder(path)
    sheet = read_key(folder)
    files = files or sorted(folder.forms.glob("*.csv"))
    if not files:
        raise UserError(f"there are no answered forms in {folder.forms}: put them there, or name them")
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise UserError(f"two forms have one name ({', '.join(sorted(names))}): name each after its rater")
    forms = {file.stem: read_form(file, sheet) for file in files}
    verdict = score(sheet, forms, keep_all)
    print(f"{sheet.titles[sheet.subject]} against {sheet.titles[sheet.rival]}: sheet {sheet.id},"
          f" {len(sheet.compared)} pairs and {len(sheet.controls)} controls, seed {sheet.seed}")  # fmt: skip
    for rater in verdict.raters:
        _print_rater(rater, rater.name in verdict.kept)
    _print_verdict(verdict, sheet)
    return 0


def _print_rater(rater: Rater, kept: bool) -> None:
    from worldcompass.judging.votes.controls import CONTROLS

    fault = f"failed {', '.join(rater.faults)}" if rater.faults else ""
    print(f"rater {rater.name}{'' if kept else ': left out of the verdict'}{f' ({fault})' if fault else ''}")
    for name, control in CONTROLS.items():
        counts: dict[Outcome, int] = {what: rater.count(name, what) for what in OUTCOMES}
        if any(counts.values()):
            print(f"  control {name:<20}{_outcomes(counts)}  ({control.says})")
    if rater.chose_A == rater.chose_A:
        print(f"  chose A in {100 * rater.chose_A:.0f}% of the decided answers")
    for question, count in rater.tallies.items():
        print(_line(SAYS[question], count))
    _print_grades(rater.grades)


def _outcomes(counts: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{counts[what]} {what}" for what in OUTCOMES if counts.get(what))


def _print_verdict(verdict: Verdict, sheet: Sheet) -> None:
    if not verdict.kept:
        print("no verdict: no rater is left; more raters, or --keep-all")
        return
    raters = f"{len(verdict.kept)} rater{'s' * (len(verdict.kept) != 1)}"
    print(f"verdict: wins of {sheet.titles[sheet.subject]}, pairs by the majority of {raters}")
    for question, count in verdict.tallies.items():
        print(_line(SAYS[question], count))
    _print_grades(verdict.grades)
    print(
        f"  {verdict.num_pairs} decided pairs show a true share of wins of {100 * verdict.detectable:.0f}% or more"
        " with 80% at two-sided 5%; ties raise it"
    )


def _print_grades(grades: Grades) -> None:
    if grades.difference.known:
        parts = {"": grades.subject, "rival ": grades.rival, "difference ": grades.difference}
        cells = [f"{name}{g.mean:.2f} [{g.low:.2f}, {g.high:.2f}]" for name, g in parts.items()]
        print(f"  {'mean grade of 5':<28}{'  '.join(cells)}")


def _line(words: str, count: Tally) -> str:
    rate, halves = count.win_rate, count.with_halves
    result = f"wins {100 * rate.mean:.1f}%" if rate.known else "no decided vote"
    with_ties = f"  ties as halves {halves.in_percent()}" if count.ties and halves.known else ""
    return (
        f"  {words:<28}{result} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        f"  {count.wins} won, {count.losses} lost, {count.ties} tied  p = {count.p:.3g}{with_ties}"
    )


# --------------------------------------------------------------------------- votes of the player


def _file(path: Path) -> int:
    from worldcompass.player.votes import QUESTIONS, control_counts, read_votes, tally_of

    def weights(vote: Vote) -> tuple[str, str]:
        return vote.before, vote.after

    for (before, after), group in groupby(sorted(read_votes(path), key=weights), weights):
        votes = list(group)
        compared = [vote for vote in votes if not vote.control]
        print(f"{after} against {before}: {len(compared)} vote{'s' * (len(compared) != 1)}")
        for question, words in QUESTIONS.items():
            if any(vote.answer(question) for vote in compared) or question != "place":
                print(_line(words, tally_of(compared, question)))
        for name, counts in control_counts(votes).items():
            print(f"  control {name:<20}{_outcomes(counts)}")
    return 0
