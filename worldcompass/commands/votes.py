"""Count the blind votes of ``worldcompass play --vote``: how often the trained weights win, with an interval.

The win rate leaves out ties. The interval is Wilson's, 95%; p is the exact two-sided sign test.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

EXAMPLES = """\
  worldcompass votes
  worldcompass votes runs/votes.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass votes``."""
    text = "file of votes (default: %(default)s)"
    parser.add_argument("file", type=Path, nargs="?", default=Path("runs/votes.jsonl"), help=text)


def run(args: argparse.Namespace) -> int:
    """Print one line for each question, grouped by pair of weights."""
    from worldcompass.player.votes import QUESTIONS, Vote, read_votes, tally
    from worldcompass.statistics import sign_test

    def weights(vote: Vote) -> tuple[str, str]:
        return vote.before, vote.after

    for (before, after), group in groupby(sorted(read_votes(args.file), key=weights), weights):
        votes = list(group)
        print(f"{after} against {before}: {len(votes)} vote{'s' * (len(votes) != 1)}")
        for question, words in QUESTIONS.items():
            count = tally(votes, question)
            rate = count.win_rate
            result = f"wins {100 * rate.mean:.1f}%" if rate.known else "no decided vote"
            print(
                f"  {words:<28}{result} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
                f"  {count.wins} won, {count.losses} lost, {count.ties} tied"
                f"  p = {sign_test(count.wins, count.losses):.3g}"
            )
    return 0
