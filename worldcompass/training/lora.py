"""Low-rank adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldcompass.parallel.sharding import whole
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import write_json, write_tensors


@dataclass(frozen=True)
class Lora:
    """Which linear layers get a low-rank adapter (arXiv 2106.09685), and its size."""

    rank: int = 16
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    targets: str = ".*"
    """Regular expression that a layer's whole name must match."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus ``alpha / rank * B A``; B starts at zero, so the output starts unchanged.

    A and B are float32 or wider, even for a bfloat16 layer: typical updates are below the resolution of bfloat16.
    """

    def __init__(self, base: nn.Linear, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = lora.alpha / lora.rank
        down = torch.randn(lora.rank, base.in_features, generator=generator) / base.in_features**0.5
        device, dtype = base.weight.device, torch.promote_types(base.weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(down.to(device, dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, lora.rank, device=device, dtype=dtype))

    @property
    def weight(self) -> Tensor:
        """The merged matrix, for code that reads the weight of a layer directly."""
        return self.base.weight + (self.scale * self.lora_B @ self.lora_A).to(self.base.weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer with its adapter."""
        low = nn.functional.linear(x, self.lora_A.to(x.dtype))
        return self.base(x) + self.scale * nn.functional.linear(low, self.lora_B.to(x.dtype))


def inject_lora(net: nn.Module, lora: Lora, generator: torch.Generator) -> list[str]:
    """Freeze ``net`` and add an adapter to each matching linear layer, in place.

    Returns:
        The names of the layers.

    Raises:
        ValueError: when no linear layer matches, or there are adapters already.
    """
    if any(isinstance(module, LoraLinear) for module in net.modules()):
        raise ValueError("the network already has adapters: merge them first")
    names = [n for n, m in _modules(net) if isinstance(m, nn.Linear) and re.fullmatch(lora.targets, n)]
    if not names:
        raise ValueError(f"no linear layer of the network matches {lora.targets!r}")
    net.requires_grad_(False)
    for name in names:
        layer = net.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        net.set_submodule(name, LoraLinear(layer, lora, generator))
    return names


@torch.no_grad()
def merge_lora(net: nn.Module) -> None:
    """Merge every adapter into its layer, in place, and remove it."""
    for name, layer in _modules(net):
        if isinstance(layer, LoraLinear):
            layer.base.weight.copy_(layer.weight)
            net.set_submodule(name, layer.base)


def export_lora(net: nn.Module, lora: Lora, folder: Path) -> None:
    """Write the adapters in the format of peft: adapter_model.safetensors and adapter_config.json.

    All ranks must call it if the adapters are sharded; the main one writes.
    """
    layers = {name: m for name, m in _modules(net) if isinstance(m, LoraLinear)}
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for part, parameter in (("A", layer.lora_A), ("B", layer.lora_B)):
            full = whole(parameter.detach())
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = full.cpu().contiguous()
    if not Team.current().is_main:
        return
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(layers),
    }
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "adapter_config.json", config, indent=2)


def _modules(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("Any", net).named_modules())  # its result has no type
