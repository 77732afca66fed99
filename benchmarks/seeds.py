"""Several runs of one recipe as one result: intervals over scenarios and seeds.

``python benchmarks/seeds.py runs/seed0 runs/seed1 runs/seed2`` prints, for held-out starts on training maps and for
maps never trained on, what the held-out judge says of engine, base, trained weights and their paired difference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS, MEASURES, Measured, pool
from worldcompass.statistics import in_percent
from worldcompass.worlds.doom.evaluation import blocks_of


def read(run: Path, name: str) -> Measured:
    path = run / f"evaluation_{name}.json"
    if not path.is_file():
        raise UserError(f"{run} is no finished run: {path.name} is missing")
    measured = Measured.from_json(json.loads(path.read_text()))
    if missing := set(MEASURES) - set(measured.values_VD):
        raise UserError(
            f"{run} was evaluated by an older version, without {', '.join(missing)}: run it again"
        )
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    runs = parser.parse_args().runs
    try:
        engine = read(runs[0], "engine")
        base, trained = (pool([read(run, name) for run in runs]) for name in ("base", "trained"))
    except UserError as why:
        raise SystemExit(f"error: {why}") from None
    results = blocks_of(engine, base, trained)
    for title, blocks in (("held-out starts", results), ("maps never trained on", results["unseen_maps"])):
        for kind in KINDS:
            print(f"{title}, {kind} actions: gap closed {in_percent(blocks['gap_closed'][kind])}")
            for name in MEASURES:
                columns = [blocks[block][kind][name] for block in ("engine", "base", "trained", "difference")]
                means = " ".join(f"{c['mean']:8.3f}" for c in columns)
                low, high = columns[-1]["ci95"]
                print(f"  {name:16}{means} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
