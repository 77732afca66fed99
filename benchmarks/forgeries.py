"""Try the judge: forgeries of real and imagined videos, and post-trained weights, in one table.

    python benchmarks/forgeries.py runs/judge                     # full strength, all scenarios of that judge
    python benchmarks/forgeries.py runs/judge --thirds --out forgeries.json

``runs/judge`` is the folder of ``worldcompass judge RUN``. For every gate the table shows the share of resamples in
which the forgery ranks below its original; at full strength a gate must do so in 90%. The judge rejects what any
gate rejects.
"""

import argparse
from pathlib import Path

from worldcompass.judging.court import stored_sources
from worldcompass.judging.forgeries import FULL, THIRDS
from worldcompass.judging.trial import DEMANDED, GATES, ORIGINALS, Caught, changes_of, try_forgeries
from worldcompass.runs.atomic import finite, write_json
from worldcompass.worlds.doom.world import SPEC

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("judge", type=Path, help="the folder of a judge")
parser.add_argument("--thirds", action="store_true", help="also a third and two thirds of the full strength")
parser.add_argument("--names", nargs="+", choices=tuple(FULL), default=tuple(FULL))
parser.add_argument("--originals", nargs="+", choices=ORIGINALS, default=ORIGINALS)
parser.add_argument("--every", type=int, default=1, help="take each N-th scenario")
parser.add_argument("--frames", type=int, help="take the first frames of every video")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path)


def line(caught: Caught) -> str:
    """A row of the table."""
    cells = [f"{caught.share(gate):.0%}" for gate in caught.changes]
    rejected = "yes" if caught.rejected_by else "**no**"
    words = [caught.original, caught.forgery, f"{caught.strength:.2f}", *cells, rejected]
    return f"| {' | '.join(words)} |"


def show(caught: Caught) -> None:
    """Print a row as soon as it is known."""
    print(line(caught), flush=True)


def main() -> None:
    """Run the trial."""
    args = parser.parse_args()
    sources = stored_sources(args.judge, SPEC)
    sources = sources.select(range(0, len(sources.scenarios), args.every)).first(
        args.frames or sources.frames
    )
    print(f"| {' | '.join(['original', 'forgery', 'strength', *GATES, 'rejected'])} |")
    print("|" + "---|" * (4 + len(GATES)))
    trained = Caught("base", "trained", 1.0, changes_of(sources, args.seed))
    show(trained)
    shares = THIRDS if args.thirds else THIRDS[-1:]
    found = try_forgeries(sources, args.seed, args.names, shares, args.originals, on_forgery=show)
    full = [c for c in found if c.strength == 1.0 and c.original != "base"]
    for gate in GATES:
        missed = [f"{c.forgery} of {c.original}" for c in full if c.share(gate) < DEMANDED]
        seen = f"{len(full) - len(missed)} of {len(full)} full forgeries"
        print(f"{gate}: {seen}; misses {', '.join(missed) or 'none'}")
    print(f"the judge: {sum(bool(c.rejected_by) for c in full)} of {len(full)} full forgeries")
    if args.out:
        write_json(args.out, finite([trained, *found]), indent=1)


if __name__ == "__main__":
    main()
