"""Finished runs whose weights are the shipped ones, slightly changed."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from worldcompass.worlds.small.weights import WeightFiles


def run_with_other_weights(folder: Path, scale: float, weights: WeightFiles) -> Path:
    """A finished run whose weights are the shipped ones with one tensor scaled."""
    path = folder / "weights" / weights.net
    path.parent.mkdir(parents=True)
    assert weights.shipped is not None
    shipped = weights.shipped / weights.net
    tensors = load_file(shipped)
    name = sorted(tensors)[0]
    with safe_open(shipped, "pt") as file:
        save_file({**tensors, name: tensors[name] * scale}, path, file.metadata())
    return folder
