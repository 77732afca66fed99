"""Configurations in YAML, read as plain data: tags, which could run code, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.reading import reason


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The table of a YAML file.

    Args:
        path: the file.
        what: its content, for messages, such as ``configuration of Waypoint``.

    Raises:
        UserError: when PyYAML is missing, or the file holds no table.
    """
    try:
        import yaml
    except ImportError as why:
        raise UserError(f"reading {path} needs the package yaml: pip install 'worldcompass[yaml]'") from why
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as why:
        first_line = reason(why).partition("\n")[0]
        raise UserError(f"{path} is no readable {what} ({first_line}): fetch it again") from why
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no table: expected a {what}")
    return raw
