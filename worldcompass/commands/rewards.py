"""List critics and camera estimators, what each needs, and whether it is installed.

The guide rewards.md of the source repository explains what each measures, and how to use it in a recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.rewards.catalogue import Entry

EXAMPLES = """\
  worldcompass rewards
  worldcompass rewards cycle                  # all facts about one, with its import
  worldcompass rewards --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass rewards``."""
    text = "critic or estimator to describe in full (default: a short list of all)"
    parser.add_argument("names", nargs="*", metavar="NAME", help=text)
    parser.add_argument("--json", action="store_true", help="print everything as one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the list, or all facts about the named entries."""
    from worldcompass.commands._catalogue import ENTRIES

    entries = [entry for name in args.names for entry in _named(name)] or list(ENTRIES)
    if args.json:
        rows = [dataclasses.asdict(entry) | {"installed": entry.installed} for entry in entries]
        print(json.dumps(rows, indent=1))
    elif args.names:
        print("\n\n".join(_description(entry) for entry in entries))
    else:
        for kind in dict.fromkeys(entry.kind for entry in entries):
            print(f"{kind}:")
            for entry in (e for e in entries if e.kind == kind):
                print(f"  {entry.full_name:<22}{entry.summary}")
                facts = (entry.weights, _memory(entry), entry.license, _state(entry))
                print(f"  {'':<22}weights: {'; '.join(facts)}")
    return 0


def _named(name: str) -> list[Entry]:
    """The catalogue's entries of that name: one, or one of each world that has such a critic.

    Raises:
        UserError: for an unknown name; it lists the nearest ones.
    """
    from worldcompass.commands._catalogue import ENTRIES

    found = [entry for entry in ENTRIES if entry.name == name]
    if not found:
        near = difflib.get_close_matches(name, dict.fromkeys(entry.name for entry in ENTRIES))
        words = f"nearest {', '.join(near)}" if near else "worldcompass rewards lists all"
        raise UserError(f"there is no critic or estimator {name!r}: {words}")
    return found


def _description(entry: Entry) -> str:
    """All facts about an entry for a terminal, with its signature and docstring."""
    module, _, kind = entry.where.partition(":")
    factory = entry.load()
    rows = {
        "is": entry.kind,
        "world": entry.world or "any",
        "weights": entry.weights,
        "memory": _memory(entry),
        "licence": entry.license,
        "here": _state(entry),
        "import": f"from worldcompass.{module} import {kind}",
        "make": kind + _signature(factory),
    }
    facts = "\n".join(f"  {word:<9}{text}" for word, text in rows.items())
    return f"{entry.full_name}: {entry.summary}\n{facts}\n\n{textwrap.indent(inspect.getdoc(factory) or '', '  ')}"


def _signature(factory: Callable[..., object]) -> str:
    """The arguments as in source code: annotations without quotes, functions by their names."""
    words = str(inspect.signature(factory).replace(return_annotation=inspect.Signature.empty))
    return re.sub(r"<function (\w+) at \w+>", r"\1", re.sub(r": '([^']*)'", r": \1", words))


def _memory(entry: Entry) -> str:
    return f"{entry.gpu_gib:g} GiB GPU" if entry.gpu_gib else "CPU"


def _state(entry: Entry) -> str:
    return "installed" if entry.installed else f"not installed: {entry.install}"
