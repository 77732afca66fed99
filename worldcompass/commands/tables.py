"""Combine the seeds of one recipe into one result, store it, and write the tables of pages from stored results.

With runs, it prints one table of all of them, with intervals over scenarios and seeds. Exit code 1: --check found a
page with stale tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass tables runs/seed0 runs/seed1 runs/seed2
  worldcompass tables runs/seed0 runs/seed1 runs/seed2 --store docs/results
  worldcompass tables --write README.md docs/results.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass tables``."""
    text = "folders of finished runs of one recipe, of different seeds"
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help=text)
    text = "store the runs' results as FOLDER/RECIPE_seedN.json"
    parser.add_argument("--store", type=Path, metavar="FOLDER", help=text)
    text = "rewrite the tables between <!-- table: NAME --> and <!-- /table -->"
    parser.add_argument("--write", type=Path, nargs="+", default=[], metavar="PAGE", help=text)
    text = "list pages with stale tables, and write nothing"
    parser.add_argument("--check", type=Path, nargs="+", default=[], metavar="PAGE", help=text)
    text = "stored results that --write and --check use (default: %(default)s)"
    parser.add_argument("--results", type=Path, default=Path("docs/results"), metavar="FOLDER", help=text)


def run(args: argparse.Namespace) -> int:
    """Print, store, write or check."""
    from worldcompass.errors import EXIT_DISEASED
    from worldcompass.report.tables import everything, reduce_run, rewritten, store, write_tables

    if sum(map(bool, (args.runs, args.write, args.check))) != 1 or (args.store and not args.runs):
        raise UserError("expected runs, or --write PAGE, or --check PAGE; --store needs runs")
    if args.runs:
        print(everything([reduce_run(folder) for folder in args.runs]))
        for folder in args.runs if args.store else ():
            print(f"stored {store(folder, args.store)}")
    for page in write_tables(args.write, args.results) if args.write else ():
        print(f"wrote {page}")
    stale = [page for page, _ in rewritten(args.check, args.results)] if args.check else []
    for page in stale:
        print(f"{page} has stale tables: update them with worldcompass tables --write {page}")
    return EXIT_DISEASED if stale else 0
