"""Try the judge: forgeries of real and imagined videos, and post-trained weights, in one table.

    python benchmarks/forgeries.py runs/judge                     # full strength, all scenarios of that judge
    python benchmarks/forgeries.py runs/judge --thirds --out forgeries.json

``runs/judge`` is the folder of ``worldcompass judge RUN``. For every gate the table shows the share of resamples in
which the forgery ranks below its original; 90% or more is demanded at full strength.
"""

import argparse
from pathlib import Path

from worldcompass.judging.forgeries import FULL, THIRDS
from worldcompass.judging.trial import DEMANDED, ORIGINALS, Caught, changes_of, try_forgeries
from worldcompass.runs.atomic import finite, write_json
from worldcompass.worlds.doom.judging import stored_sources

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("judge", type=Path, help="the folder of a judge")
parser.add_argument("--thirds", action="store_true", help="also a third and two thirds of the full strength")
parser.add_argument("--names", nargs="+", choices=tuple(FULL), default=tuple(FULL))
parser.add_argument("--originals", nargs="+", choices=ORIGINALS, default=ORIGINALS)
parser.add_argument("--every", type=int, default=1, help="take each N-th scenario")
parser.add_argument("--frames", type=int, help="take the first frames of every video")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path)


def show(caught: Caught) -> None:
    """Print one line as soon as it is known."""
    cells = "  ".join(
        f"{gate} {caught.share(gate):4.0%} ({change})" for gate, change in caught.changes.items()
    )
    print(f"{caught.original:10} {caught.forgery:11} {caught.strength:4.2f}  {cells}", flush=True)


def main() -> None:
    """Run the trial."""
    args = parser.parse_args()
    sources = stored_sources(args.judge)
    sources = sources.select(range(0, len(sources.scenarios), args.every)).first(
        args.frames or sources.frames
    )
    trained = Caught("base", "trained", 1.0, changes_of(sources, args.seed))
    show(trained)
    shares = THIRDS if args.thirds else THIRDS[-1:]
    found = try_forgeries(sources, args.seed, args.names, shares, args.originals, on_forgery=show)
    full = [c for c in found if c.strength == 1.0 and c.original != "base"]
    for gate in trained.changes:
        missed = [f"{c.forgery} of {c.original}" for c in full if c.share(gate) < DEMANDED]
        print(
            f"{gate}: {len(full) - len(missed)} of {len(full)} full forgeries; misses {', '.join(missed) or 'none'}"
        )
    if args.out:
        write_json(args.out, finite([trained, *found]), indent=1)


if __name__ == "__main__":
    main()
