"""Export the final weights of a run as safetensors with a model card.

The card takes recipe, seeds, steps, results and licenses from the run's folder. Only --push needs an account: it
uploads to the Hugging Face hub with your login there.
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
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with a saved checkpoint")
    text = "new folder for the weights and the card"
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=text)
    text = "license of the weights, as the hub spells it (default: an embedded world's own, else other)"
    parser.add_argument("--license", default=None, metavar="NAME", help=text)
    text = "base model, such as a repository of the hub"
    parser.add_argument("--base", default=None, metavar="NAME", help=text)
    text = "upload to this repository of the Hugging Face hub (needs the extra hub)"
    parser.add_argument("--push", default=None, metavar="OWNER/NAME", help=text)
    parser.add_argument("--public", action="store_true", help="create the repository as public")


def run(args: argparse.Namespace) -> int:
    """Export, and push with --push."""
    from worldcompass.recipes.catalogue import EMBEDDED
    from worldcompass.report.export import export_run, push

    step = export_run(args.run, args.out, args.license, args.base, EMBEDDED)
    print(f"wrote {args.out}: weights after step {step} and {args.out / 'README.md'}")
    if args.push:
        print(f"pushed to {push(args.out, args.push, args.public)}")
    return 0
