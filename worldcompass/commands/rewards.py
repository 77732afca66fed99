"""What critics and camera estimators there are, what each needs, and whether it is installed here.

docs/rewards.md says what each measures, and how to use it in a recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

EXAMPLES = """\
  worldcompass rewards
  worldcompass rewards --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass rewards``."""
    parser.add_argument("--json", action="store_true", help="print everything as one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from worldcompass.rewards.catalogue import ENTRIES

    if args.json:
        rows = [dataclasses.asdict(entry) | {"installed": entry.installed} for entry in ENTRIES]
        print(json.dumps(rows, indent=1))
        return 0
    for kind in dict.fromkeys(entry.kind for entry in ENTRIES):
        print(f"{kind}:")
        for entry in (e for e in ENTRIES if e.kind == kind):
            print(f"  {entry.name:<18}{entry.summary}")
            memory = f"{entry.gpu_gib:g} GiB GPU" if entry.gpu_gib else "CPU"
            state = "installed" if entry.installed else f"not installed: {entry.install}"
            print(f"  {'':<18}weights: {entry.weights}; {memory}; {entry.license}; {state}")
    return 0
