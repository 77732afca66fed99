"""Export the final weights of a run: safetensors and a model card, to keep, to load, or to push to a hub.

The card names recipe, seeds, steps, results and licenses as the run's folder holds them. Nothing needs an account
but --push, which uploads to the Hugging Face hub as whoever is logged in there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
  worldcompass export runs/demo --out exported/demo
  worldcompass export runs/8b --out exported/8b --license other --base tencent/HY-WorldPlay
  worldcompass export runs/demo --out exported/demo --push me/demo     # private unless --public
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass export``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has saved a checkpoint")
    text = "new folder for weights and card"
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=text)
    text = "license of the weights, as the hub spells it (default: known for the embedded world, else other)"
    parser.add_argument("--license", default=None, metavar="NAME", help=text)
    text = "what was post-trained, such as a repository of the hub"
    parser.add_argument("--base", default=None, metavar="NAME", help=text)
    text = "upload to this repository of the Hugging Face hub (needs the extra hub)"
    parser.add_argument("--push", default=None, metavar="OWNER/NAME", help=text)
    parser.add_argument("--public", action="store_true", help="make the repository public when it is made")


def run(args: argparse.Namespace) -> int:
    """Export, and push where asked to."""
    from worldcompass.report.export import export_run, push

    step = export_run(args.run, args.out, args.license, args.base)
    print(f"wrote {args.out}: weights after step {step} and {args.out / 'README.md'}")
    if args.push:
        print(f"pushed to {push(args.out, args.push, args.public)}")
    return 0
