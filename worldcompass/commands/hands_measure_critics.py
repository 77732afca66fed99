"""Measure the Hands critics and judges against the engine's truth on held-out recordings, and on made-up faults."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import need_folder, positive

EXAMPLES = """\
  worldcompass hands measure-critics --data data/hands
  worldcompass hands measure-critics --data data/hands --weights runs/hands_critics
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands measure-critics``."""
    text = "data set made by `worldcompass hands collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/hands"), metavar="FOLDER", help=text)
    text = "folder of weights made by `worldcompass hands critics` (default: the shipped weights)"
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help=text)
    text = "held-out episodes (default: %(default)s)"
    parser.add_argument("--episodes", type=positive, default=60, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the tables of docs/hands.md."""
    data = need_folder(args.data, "a data set made by `worldcompass hands collect`")
    folder = args.weights and need_folder(args.weights, "weights made by `worldcompass hands critics`")
    from worldcompass.worlds.hands.critic_training.report import report

    print(report(data, folder, args.episodes))
    return 0
