"""What the package imports is what it declares, at versions that work."""

import re
import runpy
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from lowest import ROOT, bounds

from worldcompass.errors import UserError
from worldcompass.media import video
from worldcompass.runs.requirements import need_version

# Name of a module -> name of the package that brings it, where they differ.
PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "mujoco": "mujoco",
    "yaml": "pyyaml",
    "starlette": "fastapi",
    "pydantic": "fastapi",
}
IMPORT = re.compile(r"^ *(?:from (\w+)[\w.]* import|import (\w+))", re.MULTILINE)
# Never declared: named in an error where they are imported.
OPTIONAL = {"pygame"}


def imported(path: Path) -> set[str]:
    """Top-level names of the modules of others that a file imports."""
    found = IMPORT.findall(path.read_text(encoding="utf-8"))
    return {a or b for a, b in found} - set(sys.stdlib_module_names) - {"worldcompass", "__future__"}


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def test_every_imported_package_is_declared():
    files = (ROOT / "worldcompass").rglob("*.py")
    needed = {PACKAGES.get(name, name) for path in files for name in imported(path)}
    assert needed - OPTIONAL <= set(bounds())


def test_versions_that_crash_or_compute_wrong_things_are_not_admitted():
    """PyAV before 18.1, safetensors before 0.6 and ViZDoom before 1.3.2 do; PyTorch 2.11 must stay admitted."""
    lowest = {name: version(text) for name, text in bounds().items()}
    assert lowest["av"] >= (18, 1) and lowest["safetensors"] >= (0, 6) and lowest["vizdoom"] >= (1, 3, 2)
    assert lowest["torch"] <= (2, 11)


def test_every_extra_that_users_install_is_tried_at_its_lowest_versions():
    """The others are for developers."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (tried,) = re.findall(r"^LOWEST := (.*)$", makefile, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {*tried.split(","), "rewards", "docs", "dev"} == set(extras["optional-dependencies"])
    assert "$(if $(TORCH),,,rewards)" in makefile


def test_the_tested_versions_are_admitted():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    tested = {name: pin for name, pin in pins.items() if name in bounds()}
    assert len(tested) > 10
    assert all(version(pin) >= version(bounds()[name]) for name, pin in tested.items())


def test_an_older_version_that_another_package_installed_is_a_sentence(monkeypatch):
    """Else a cut video ends the process without a word, or HD videos score with wrong colours."""
    need_version("av")
    need_version("vizdoom")
    monkeypatch.setattr(metadata, "version", lambda name: "16.0.1")
    with pytest.raises(UserError, match=r"av 16\.0\.1 is installed.*pip install 'av>=18\.1'"):
        runpy.run_path(video.__file__)
    monkeypatch.setattr(metadata, "version", lambda name: "18.1.0")
    need_version("av")
