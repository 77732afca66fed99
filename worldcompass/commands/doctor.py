"""Say whether a run is learning, and if not, what is wrong. Reads the metrics of a finished or a running run.

Exit code 0: healthy; 1: at least one disease; 2: not a run. --machine examines this machine instead, in about a
minute: types and kernels, one block of the recipe in its real size against its plan, links between GPUs, disk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from worldcompass.commands._options import add_device, check_device
from worldcompass.errors import UserError

# Version of --json. Version 1 carried no number and wrote an interval as value, low, high.
SCHEMA = 2

EXAMPLES = """\
  worldcompass doctor runs/demo
  worldcompass doctor runs/demo --json
  worldcompass doctor --machine                             # with a block of worldplay_8b:lora
  worldcompass doctor --machine worldplay_5b --folder /data/runs
"""
RECIPE = "worldplay_8b:lora"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doctor``."""
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run, such as runs/demo")
    text = "examine this machine for a recipe (default: %(const)s)"
    parser.add_argument("--machine", nargs="?", const=RECIPE, default=None, metavar="RECIPE", help=text)
    text = "with --machine: where runs would be written (default: %(default)s)"
    parser.add_argument("--folder", type=Path, default=Path("runs"), metavar="FOLDER", help=text)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the verdict, the findings and the checks that lack numbers."""
    if args.machine is not None:
        return _machine(args)
    if args.run is None:
        raise UserError("expected a run: name its folder, or examine this machine with --machine")
    from worldcompass.doctor import diagnose, read_record
    from worldcompass.errors import EXIT_DISEASED
    from worldcompass.runs.atomic import finite
    from worldcompass.runs.events import to_json

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


def _machine(args: argparse.Namespace) -> int:
    """Print one page about this machine; exit code 1 when something is bad."""
    import warnings

    import torch

    from worldcompass.cost.machine import survey
    from worldcompass.errors import EXIT_DISEASED
    from worldcompass.recipes.load import make_recipe
    from worldcompass.runs.folder import writable

    device = check_device(args.device)
    recipe = make_recipe(args.machine)
    if not hasattr(recipe, "needs"):
        raise UserError(f"{args.machine} declares no needs: name a recipe that worldcompass plan knows")
    writable(args.folder, "--folder")
    ranks = torch.cuda.device_count() if device == "cuda" else 1
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that a trace without data does not run
        for finding in survey(recipe.needs(), device, args.folder, ranks):
            found.append(finding)
            if not args.json:
                print(f"{finding.verdict:5} {finding.what:42} {finding.found}", flush=True)
    bad = [finding for finding in found if finding.verdict == "bad"]
    if args.json:
        print(json.dumps({"schema": SCHEMA, "machine": [vars(finding) for finding in found]}, indent=1))
    else:
        print(f"{len(bad)} of {len(found)} findings are bad" if bad else "nothing speaks against a run")
    return EXIT_DISEASED if bad else 0
