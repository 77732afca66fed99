"""Documents stay true: code runs, commands exist, links resolve, no path of somebody's machine."""

import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from worldcompass import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("worldcompass/**/*.md")])
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
LOCAL_PATH = re.compile(r"(?<![\w./~-])/(?:work|root|home|Users|opt|mnt)/[\w.]")


def text_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".html", ""}
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.suffix in suffixes and file.is_file()]


def test_worked_adapter_runs():
    page = (ROOT / "docs" / "your_own_world.md").read_text()
    blocks = CODE.findall(page)
    assert blocks
    exec(compile("\n".join(blocks), "docs/your_own_world.md", "exec"), {"__name__": "docs"})


def test_the_python_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("my.png", np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    blocks = CODE.findall((ROOT / "docs" / "python.md").read_text())
    assert len(blocks) == 3
    space: dict = {"__name__": "docs"}
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), space)
    assert set(space["wc"].score(space["frames"], "w-3, right-1, w+left-4")) == {"interaction", "quality"}
    assert not space["left"].frames_PF3hw.equal(space["right"].frames_PF3hw)
    assert 0 < space["reward"] <= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in SHELL.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert {w for w in words[1:] if "=" not in w} <= targets, line
            if words[:1] == ["worldcompass"]:
                assert words[1] in cli.COMMANDS or " ".join(words[1:3]) in cli.COMMANDS, line


def test_tests_that_a_page_names_exist():
    names = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    source = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert names and not [name for name in names if f"def {name}(" not in source]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    for link in LINK.findall(page.read_text()):
        target = link.partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_no_machine_paths():
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in text_files()
        for match in LOCAL_PATH.finditer(file.read_text(encoding="utf-8"))
    ]
    assert not found
