"""List every world: size, actions, chunk, pictures, licence, parity with official code, and what is untried."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldcompass.recipes.catalogue import Listed

EXAMPLES = """\
  worldcompass worlds
  worldcompass worlds --markdown                       # the table of docs/worlds.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass worlds``."""
    parser.add_argument("--markdown", action="store_true", help="print one table in Markdown")


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from worldcompass.recipes.catalogue import WORLDS, table

    print(table() if args.markdown else "\n\n".join(map(_lines, WORLDS)))
    return 0


def _lines(world: Listed) -> str:
    from worldcompass.recipes.catalogue import facts_of

    facts = facts_of(world)
    rows = {
        "model": f"{world.what}, {facts.size} parameters",
        "actions": facts.spec.actions.describe(),
        "chunk": f"{facts.chunk}; {facts.picture}",
        "licence": world.licence,
        "parity": world.parity,
        "untried": world.untried,
    }
    return "\n".join([world.name, *(f"  {name:9}{text}" for name, text in rows.items() if text)])
