"""Does the memory of a run grow? Peaks of a real training process over 200 steps.

``python benchmarks/memory.py worldplay_8b:smoke`` starts ``worldcompass train``, and every few steps reads the
highest resident memory since the last reading and resets it (Linux: /proc/PID/clear_refs). Exit code 1 when the
highest peak of the second half exceeds that of the first by more than --tolerance.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_metrics

POLL_SECONDS = 0.1
MIB = 1024  # of the kibibytes in which Linux counts


def peak_since_reset(pid: int) -> float:
    """Highest resident memory in MiB since the last call; the next one counts from here."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / MIB


def watch(recipe: str, out: Path, steps: int, every: int, settings: list[str]) -> dict[int, float]:
    """Peaks in MiB by the step at which they were read."""
    fixed = [f"config.steps={steps}", "config.save_every=20", *settings]
    options = [word for setting in fixed for word in ("--set", setting)]
    command = [sys.executable, "-m", "worldcompass", "train", recipe, "--out", str(out), *options]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    while run.poll() is None:
        rows = read_metrics(RunFolder(out).metrics)
        done = rows[-1].step if rows else 0
        if done < steps and done // every > len(peaks):
            peaks[done] = peak_since_reset(run.pid)
        time.sleep(POLL_SECONDS)
    if run.returncode != 0:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    return peaks


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="worldplay_8b:smoke", metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps between two readings")
    parser.add_argument("--tolerance", type=float, default=0.01, help="growth that is no growth, as a share")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = watch(args.recipe, Path(folder) / "run", args.steps, args.every, args.settings)
    for step, peak in peaks.items():
        print(f"up to step {step:>4}: peak {peak:8.1f} MiB")
    halves = [
        max(peak for step, peak in peaks.items() if (step > args.steps / 2) == second)
        for second in (False, True)
    ]
    growth = halves[1] / halves[0] - 1
    print(f"{args.recipe}: {halves[0]:.1f} MiB, then {halves[1]:.1f} MiB: {growth:+.2%}")
    return 1 if growth > args.tolerance else 0


if __name__ == "__main__":
    sys.exit(main())
