"""Weights that are the shipped ones with a change: finished runs of them, and a base with fewer blocks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

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


def shallow(folder: Path, weights: WeightFiles, net: nn.Module) -> WeightFiles:
    """A base for quick runs: the tensors of the shipped network that ``net``, of fewer blocks, has too."""
    assert weights.shipped is not None
    shipped = load_file(weights.shipped / weights.net)
    net.load_state_dict({name: shipped[name] for name in net.state_dict()})
    weights.export(net, folder / weights.net)
    shutil.copy(weights.shipped / weights.autoencoder, folder)
    return replace(weights, shipped=folder)
