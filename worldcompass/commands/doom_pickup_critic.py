"""Train the detector of pick-ups on engine scenes, and test it on unseen scenes and maps.

Existing scenes and weights are reused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_out, add_seed

EXAMPLES = """\
  worldcompass doom pickup-critic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom pickup-critic``."""
    text = "where the scenes go (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/pickups"), metavar="FOLDER", help=text)
    add_out(parser, "runs/pickup_critic", "where weights and results go")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Collect scenes, train, test and print the scores."""
    from worldcompass.commands.doom_pickups import print_verdict
    from worldcompass.media.progress import progress
    from worldcompass.worlds.doom.critic_training.pickup_data import SPLITS
    from worldcompass.worlds.doom.critic_training.pickup_fit import (
        SCENES,
        collect_splits,
        train_pickup_critic,
    )

    total = sum(SCENES[name] * len(maps) for name, maps in SPLITS.items())
    with progress("playing scenes in the engine", total) as advance:
        splits = collect_splits(args.data, args.seed, advance)
    for name, verdict in train_pickup_critic(splits, args.out, args.seed).items():
        print_verdict(f"pickup, {name}", verdict)
    return 0
