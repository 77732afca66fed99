"""Text is UTF-8 in files whatever the locale says, and printable whatever the terminal can show."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import worldcompass

ROOT = Path(worldcompass.__file__).parent
TEXT_MODES = {"r", "w", "a", "x", "r+", "w+", "a+"}


def without_encoding(source: str) -> list[str]:
    """Every call that reads or writes text in the encoding of the locale."""
    found: list[str] = []
    if not any(word in source for word in ("_text(", "open(", "TemporaryFile(")):
        return found
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
        if method and ast.unparse(node.func) == "av.open":  # a video
            continue
        text = (name in ("open", "TemporaryFile", "NamedTemporaryFile")) and bool(modes & TEXT_MODES)
        text |= name == "open" and not method and len(node.args) == 1
        if text or (method and name in ("read_text", "write_text")):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "planted",
    ["open(p)", "open(p, 'w')", "p.open('a')", "p.read_text()", "p.write_text(t)", "TemporaryFile('w+')"],
)
def test_a_planted_read_in_the_locales_encoding_is_found(planted):
    assert without_encoding(f"x = {planted}") == [ast.unparse(ast.parse(planted))]
    assert not without_encoding("open(p, 'rb'); os.open(p, 0); p.open('a', encoding='utf-8'); p.read_bytes()")


def test_text_files_are_utf_8_whatever_the_locale():
    found = {
        path.name: calls
        for path in ROOT.rglob("*.py")
        if (calls := without_encoding(path.read_text("utf-8")))
    }
    assert not found


SCRIPT = """
import sys
from pathlib import Path
from worldcompass import cli

class Module:
    "Print signs that not every terminal has."
    EXAMPLES = ""
    add_arguments = staticmethod(lambda parser: None)
    run = staticmethod(lambda args: print("\\u2212 \\u2192 \\u00b7 l\\u00e4ufe " + "\\udcff"))

sys.modules["worldcompass.commands.info"] = Module
sys.exit(cli.main(["info"]))
"""


def test_signs_that_the_terminal_lacks_end_no_command():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment, check=False)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout == b"\\u2212 \\u2192 \\xb7 l\\xe4ufe \\udcff\n"
