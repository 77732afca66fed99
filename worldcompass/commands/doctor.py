"""Say whether a run is learning, and if not, what is wrong. Reads the metrics of a finished or a running run.

Exit code 0: healthy; 1: at least one disease; 2: not a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

# Version of --json. Version 1 carried no number and wrote an interval as value, low, high.
SCHEMA = 2

EXAMPLES = """\
  worldcompass doctor runs/demo
  worldcompass doctor runs/demo --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doctor``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the verdict, the findings and the checks that lack numbers."""
    from worldcompass.doctor import diagnose, read_record
    from worldcompass.doctor.events import to_json
    from worldcompass.errors import EXIT_DISEASED
    from worldcompass.runs.atomic import finite

    record = read_record(args.run)
    diagnosis = diagnose(record)
    if args.json:
        more = {
            "answer": diagnosis.answer,
            "healthy": diagnosis.healthy,
            "events": [to_json(event) for event in record.events],
        }
        found = {"schema": SCHEMA, **vars(diagnosis), **more}
        print(json.dumps(finite(found), indent=1))
    else:
        print("\n".join(diagnosis.lines()))
    return 0 if diagnosis.healthy else EXIT_DISEASED
