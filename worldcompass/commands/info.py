"""Print versions, devices and weights: paste the output into a bug report."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

EXAMPLES = """\
  worldcompass info
"""

PACKAGES = ("torch", "numpy", "vizdoom", "opencv-python-headless", "safetensors", "av", "rich", "mujoco")
WORLDS = Path(__file__).parent.parent / "worlds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``worldcompass info`` has no options."""


def run(args: argparse.Namespace) -> int:
    """Print one fact per line."""
    found = list(facts())
    width = max(len(name) for name, _ in found) + 2
    for name, value in found:
        print(f"{name:<{width}}{value}")
    return 0


def facts() -> Iterator[tuple[str, str]]:
    """Name and value of every fact that a bug report needs."""
    from worldcompass.parallel.cpus import usable_cpus
    from worldcompass.version import __version__

    yield "worldcompass", f"{__version__}{_checkout()}"
    yield "python", platform.python_version()
    yield "platform", platform.platform()
    yield "cpus", f"{os.cpu_count()}, of which this process may use {usable_cpus()}"
    for package in PACKAGES:
        yield package, _version(package)
    yield from _torch_facts()
    yield from _weight_facts()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _torch_facts() -> Iterator[tuple[str, str]]:
    import torch

    yield "torch threads", str(torch.get_num_threads())
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield "cuda", f"{torch.version.cuda}: {', '.join(names)}" if names else "none"


def _weight_facts() -> Iterator[tuple[str, str]]:
    files = sorted(WORLDS.glob("*/weights/*.safetensors"))
    if not files:
        yield "weights", "none in this installation"
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        yield f"weights/{file.name}", f"{file.stat().st_size / 2**20:.1f} MiB, sha256 {digest}"


def _checkout() -> str:
    """The commit of a source checkout in brackets; empty for an installed package."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return f" ({result.stdout.strip()})" if result.returncode == 0 else ""
