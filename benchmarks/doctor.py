"""Does the doctor find what was planted, how soon, and is he silent on healthy runs?

``python benchmarks/doctor.py`` makes toy runs with every disease at strengths and seeds that were not used to set
the doctor's limits, then healthy ones with other seeds, and prints two tables. ``--only`` takes part of it.
``--mild`` plants weak diseases, of which some must escape him.
``--runs FOLDER ...`` looks instead at every step of runs that were made before, such as real ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from diseases import HEALTHY_RUNS, MILD, PLANTS, STRENGTHS, Patient, course, run


def findings(patient: Patient, seed: int) -> tuple[dict[str, int], str, int]:
    """Step at which each finding was first made, the verdict at the end, and the steps taken."""
    with tempfile.TemporaryDirectory() as folder:
        run(patient, seed, Path(folder))
        return found_in(Path(folder))


def found_in(folder: Path) -> tuple[dict[str, int], str, int]:
    """The same of a run that is there."""
    said = course(folder)
    first: dict[str, int] = {}
    for diagnosis in said:
        for finding in diagnosis.findings:
            first.setdefault(finding.name, max(diagnosis.steps, finding.since))
    return first, said[-1].state, said[-1].steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="10,11,12", help="comma-separated (default: %(default)s)")
    parser.add_argument("--only", default="", help="comma-separated diseases, or healthy (default: all)")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], help="folders of finished runs to look at"
    )
    parser.add_argument("--mild", action="store_true", help="weak diseases instead, and no healthy runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.runs:
        print("| run | steps | found at any step | verdict at the end |\n| --- | --- | --- | --- |")
        for folder in args.runs:
            first, verdict, steps = found_in(folder)
            found = ", ".join(f"{name} at {step}" for name, step in first.items()) or "none"
            print(f"| {folder.name} | {steps} | {found} | {verdict} |", flush=True)
        return
    seeds = [int(seed) for seed in args.seeds.split(",")]
    wanted = [name.strip() for name in args.only.split(",") if name.strip()] or [*PLANTS, "healthy"]
    print(
        "| disease | strength | detected | after steps | found beside it |\n| --- | --- | --- | --- | --- |"
    )
    for name in (name for name in (MILD if args.mild else PLANTS) if name in wanted):
        for strength in (MILD[name],) if args.mild else STRENGTHS[name][1:]:
            found = [findings(PLANTS[name](strength), seed)[0] for seed in seeds]
            steps = sorted(first[name] for first in found if name in first)
            beside = sorted({other for first in found for other in first} - {name})
            print(
                f"| {name} | {strength:g} | {len(steps)} of {len(seeds)} | {', '.join(map(str, steps)) or '–'} "
                f"| {', '.join(beside) or '–'} |",
                flush=True,
            )
    if "healthy" not in wanted or args.mild:
        return
    print("\n| healthy run | steps | false alarms | verdicts |\n| --- | --- | --- | --- |")
    for name, patient in HEALTHY_RUNS.items():
        made = [findings(patient, seed) for seed in seeds]
        alarms = sorted({f"{finding} at {step}" for first, _, _ in made for finding, step in first.items()})
        print(
            f"| {name} | {patient.config.steps} | {', '.join(alarms) or 'none'} "
            f"| {', '.join(verdict for _, verdict, _ in made)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
