"""Documents stay true: code runs, commands exist, links resolve, no path of somebody's machine."""

import re
import subprocess
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pages import ROOT, commands, follow, python_blocks

from worldcompass import cli

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("worldcompass/**/*.md")])
# Rooms that may change without notice, and so are on no page of the reference.
INTERNAL = {"audit", "cli", "commands", "media", "parallel", "player", "serving", "version"}
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


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of somebody who follows the pages: a clone, with a picture of their own in it."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "docs").symlink_to(DOCS)
    cv2.imwrite(str(folder / "my.png"), np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    return folder


def test_the_worked_adapters_run(reader, monkeypatch, one_thread):
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(str(reader))
    space = follow(DOCS / "your_own_world.md")
    assert space["frames"].shape == (12, 4, 3, 16, 16) and Path("lamp.mp4").exists()
    assert space["means"][-1] > 0.6 * space["means"][0]
    assert space["small"].spec.name == "dots"
    assert space["reward"] < 0 and space["info"]["controls"].tolist() == [0.5, 0, 0, -1]
    check_env(space["env"], skip_render_check=True)


def test_the_python_page_runs(reader, monkeypatch, one_thread):
    monkeypatch.chdir(reader)
    space = follow(DOCS / "python.md")
    assert len(python_blocks(DOCS / "python.md")) == 3
    assert set(space["wc"].score(space["frames"], "w-3, right-1, w+left-4")) == {"interaction", "quality"}
    assert not space["left"].frames_PF3hw.equal(space["right"].frames_PF3hw)
    assert 0 < space["reward"] <= 1


def test_the_tutorial_of_the_critic_runs(reader, monkeypatch, one_thread, capsys):
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(str(reader))
    follow(DOCS / "getting_started.md")
    scores, page = capsys.readouterr().out, (DOCS / "getting_started.md").read_text()
    for name in ("interaction", "quality"):
        said, shown = (
            float(re.search(rf"^{name} +(\S+)$", text, re.MULTILINE)[1]) for text in (scores, page)
        )
        assert said == pytest.approx(shown, abs=0.05), "other machines round otherwise"
    means = follow(DOCS / "your_own_critic.md")["means"]
    said = capsys.readouterr().out
    assert sum(means[-10:]) > sum(means[:10])
    assert "steady" in said and "Perhaps" in said and "NOT SOUND" in said


def test_every_public_room_is_in_the_reference():
    """A room is a module or a folder of the package's root; worlds are named one by one."""
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    rooms = {
        p.stem for p in (ROOT / "worldcompass").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    public = {room for room in rooms if not room.startswith("_")} - INTERNAL
    assert not [
        room for room in public if not re.search(rf"^ +worldcompass\.{room}\b", reference, re.MULTILINE)
    ]


def test_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    def exists(words: list[str]) -> bool:
        if words[0] == "make":
            return {w for w in words[1:] if "=" not in w} <= targets
        known = words[0] != "worldcompass" or words[1] in cli.COMMANDS
        return known or " ".join(words[1:3]) in cli.COMMANDS

    found = {str(page.relative_to(ROOT)): list(commands(page.read_text())) for page in PAGES}
    assert len(found) > 50 and any(found.values())
    assert not [(page, words) for page, said in found.items() for words in said if not exists(words)]


def test_tests_that_a_page_names_exist():
    names = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    source = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert names and not [name for name in names if f"def {name}(" not in source]


def test_relative_links_resolve():
    links = [(page, link) for page in PAGES for link in LINK.findall(page.read_text())]
    assert len(links) > 300
    assert not [
        f"{page.relative_to(ROOT)} links to {link}" for page, link in links if not resolves(page, link)
    ]


def resolves(page: Path, link: str) -> bool:
    """Whether what a page links to is there; addresses elsewhere count as there."""
    target, _, anchor = link.partition("#")
    if "://" in target or target.startswith("mailto:"):
        return True
    found = page.parent / target if target else page
    return found.exists() and (not anchor or anchor in anchors(found))


@cache
def anchors(page: Path) -> set[str]:
    """The names of its headings, as a repository and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_machine_paths():
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in text_files()
        for match in LOCAL_PATH.finditer(file.read_text(encoding="utf-8"))
    ]
    assert not found
