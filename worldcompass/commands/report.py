"""Write the self-contained HTML page of a run, finished or not, or a page that compares several runs.

The page holds table, curves, filmstrips, video and configuration in one file that can be mailed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
  worldcompass report runs/demo
  worldcompass report runs/demo runs/doom_full --out runs/comparison.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass report``."""
    text = "folder of a run, such as runs/demo; several are compared"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=text)
    text = "file of the page (default: report.html in the run's folder; comparison.html for several runs)"
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from worldcompass.report import write_comparison, write_report

    if len(args.runs) > 1:
        print(write_comparison(args.runs, args.out or Path("comparison.html")))
    else:
        print(write_report(args.runs[0], args.out))
    return 0
