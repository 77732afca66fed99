"""``worldcompass doom pretrain``: the autoencoder, then the world model, then weights as the package ships them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_tensors
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.pretraining.autoencoder import autoencoder_psnr, motions_read, train_autoencoder
from worldcompass.worlds.doom.pretraining.transformer import one_chunk_psnr, train_world
from worldcompass.worlds.doom.world import AUTOENCODER_FILE, WEIGHTS_VERSION, WORLD_FILE, load_doom_world


@dataclass(frozen=True)
class Measures:
    """What weights reach on held-out episodes; PSNR in dB."""

    autoencoder_psnr: float
    """Of whole videos, start image included."""
    motions_read: float
    """Share of latents whose composite action the decoder reads from pictures, 0 to 1."""
    one_chunk_psnr: float
    """Of one chunk from a true past under true actions, where something moves."""
    last_frame_psnr: float
    """Of repeating the last frame instead."""


def measure(data: Path, weights: Path | None = None) -> Measures:
    """The measures that training logs, for finished weights; the package's own when None.

    Raises:
        UserError: when ``data`` is no dataset or ``weights`` no weights of this version.
    """
    world = load_doom_world(weights)
    shards = collect.load(data, "heldout")
    chunk = one_chunk_psnr(world, data)
    return Measures(
        autoencoder_psnr(world.autoencoder, shards),
        motions_read(world.autoencoder, shards),
        chunk["psnr"],
        chunk["psnr_of_last_frame"],
    )


def pretrain(
    data: Path,
    out: Path,
    device: str = "cpu",
    minutes_autoencoder: float = 20,
    minutes_world: float = 120,
    seed: int = 0,
    resume: bool = False,
) -> Path:
    """Run or resume both stages; the finished weights are ``out/doom_*.safetensors``.

    Raises:
        UserError: when ``data`` is no dataset, ``device`` is not there, or ``out`` holds a run not to be resumed.
    """
    if not resume and any(out.glob("*.state.safetensors")):
        raise UserError(f"{out} holds a pretraining run: go on with --resume or choose another --out")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no CUDA device here: use --device cpu")
    if not (data / "dataset.json").is_file():
        raise UserError(f"{data} is not a dataset: make one with 'worldcompass doom collect --out {data}'")
    autoencoder = train_autoencoder(data, out, minutes_autoencoder, device, seed)
    _announce(out / AUTOENCODER_FILE, export(autoencoder, out / AUTOENCODER_FILE))
    net = train_world(data, out, autoencoder.requires_grad_(False), minutes_world, device, seed)
    _announce(out / WORLD_FILE, export(net, out / WORLD_FILE))
    return out


def _announce(path: Path, digest: str) -> None:
    facts = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}
    print(json.dumps(facts), flush=True)


def export(module: nn.Module, path: Path) -> str:
    """Write weights in float16 with the version that ``load_doom_world`` asks for; returns their SHA-256."""
    tensors = {name: _half(value) for name, value in module.state_dict().items()}
    write_tensors(path, tensors, {"version": WEIGHTS_VERSION})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _half(value: Tensor) -> Tensor:
    return value.half().contiguous().cpu() if value.is_floating_point() else value.contiguous().cpu()
