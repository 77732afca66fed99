"""What the documents hold that can be run: blocks of Python, blocks that are files, commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldcompass import cli

ROOT = Path(__file__).parent.parent.parent
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVERS = ("play", "serve-reward")  # commands that do not end
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")


def python_blocks(page: Path) -> list[str]:
    return PYTHON.findall(page.read_text())


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command line in the shell blocks of a page."""
    for block in SHELL.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def follow(page: Path, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Do what a page says, from top to bottom, in the current folder; returns the names its Python made.

    A block that begins with ``# name.py`` is saved in that file, one that says ``continued`` is appended. Commands
    of the package run in this process and must succeed. Servers do not run, nor what begins with one of ``skip``.
    """
    space: dict[str, Any] = {"__name__": "docs"}
    for language, block in ANY.findall(page.read_text()):
        if language == "sh":
            for words in commands(f"```sh\n{block}```"):
                if words[0] == "worldcompass" and not " ".join(words[1:]).startswith(SERVERS + skip):
                    code = cli.main(words[1:])
                    assert code == 0 or words[1] in ("audit", "doctor"), (
                        f"{page.name}: {' '.join(words)}: {code}"
                    )
        elif named := FILE.match(block):
            with Path(named[1]).open("a" if named[2] else "w") as file:
                file.write(block)
        else:
            exec(compile(block, str(page), "exec"), space)
    return space
