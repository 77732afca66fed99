"""The built wheel, installed outside the repository: it imports, and it carries its weights."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROBE = """
import json, sys
from importlib import resources
import worldcompass, worldcompass.world, worldcompass.report
from worldcompass.cli import main
folder = resources.files("worldcompass.worlds.doom") / "weights"
names = sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []
print(json.dumps([worldcompass.__file__, names, main(["--version"])]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return next(out.glob("worldcompass-*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "worldcompass/py.typed" in names and "worldcompass/cli.py" in names
    assert "worldcompass/player/page.html" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"worldcompass"}
    metadata = next(n for n in names if n.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    for extra in ("web", "rewards", "ray", "track", "hf", "dev"):
        assert f"Provides-Extra: {extra}\n" in text


def test_installed_wheel_works_elsewhere(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True, text=True, check=True, cwd=elsewhere, env=environment,
    )  # fmt: skip
    file, names, code = json.loads(result.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(target)
    assert code == 0
    shipped = sorted(
        f.name for f in (ROOT / "worldcompass" / "worlds" / "doom" / "weights").glob("*") if f.is_file()
    )
    if not any(name.endswith(".safetensors") for name in shipped):
        pytest.skip("this checkout has no weights yet")
    assert names == shipped
