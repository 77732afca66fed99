"""The package's source, each module parsed once for all tests that look through it."""

import ast
from functools import cache
from pathlib import Path

import worldcompass

ROOT = Path(worldcompass.__file__).parent


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which nobody may change."""
    return ast.parse(path.read_text())
