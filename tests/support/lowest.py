"""Print the lower bounds of pyproject.toml as pins, for `make test-lowest`; arguments replace single ones."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUND = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=(?P<version>[0-9][0-9.]*)")


def bounds() -> dict[str, str]:
    """Name of every package that the project or an extra of it needs -> lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(line for extra in extras for line in extra)]
    found = [match for line in needed if (match := BOUND.match(line))]
    return {match["name"]: match["version"] for match in found}


if __name__ == "__main__":
    replaced = dict(pin.split("==") for pin in sys.argv[1:])
    print("\n".join(f"{name}=={version}" for name, version in {**bounds(), **replaced}.items()))
