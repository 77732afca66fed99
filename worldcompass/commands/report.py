"""Write the self-contained HTML page of a run, finished or not.

The page holds everything (table, curves, filmstrips, video, configuration), so that it can be mailed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
  worldcompass report runs/demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass report``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from worldcompass.report import write_report

    print(write_report(args.run))
    return 0
