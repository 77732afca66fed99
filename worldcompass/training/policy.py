"""The weights: those trained, the behaviour that imagines, the checkpoint average, the reference; LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.parallel.team import Team, like, whole
from worldcompass.runs.checkpoint import write_tensors

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Decay:
    """Decay of the behaviour average at training step k (from 1): ``min(highest, lowest + per_step * k)``."""

    lowest: float = 0.2
    highest: float = 0.9
    per_step: float = 0.01

    def at(self, step: int) -> float:
        """The decay of this training step; 0 follows the trained weights at once, 1 never."""
        return min(self.highest, self.lowest + self.per_step * step)


class Policy:
    """The trainable weights of a network and the averages that follow them.

    ``behaviour`` imagines the data, ``checkpoint`` is evaluated and shipped, ``reference`` the frozen start.
    All are float copies of the trainable parameters alone (for LoRA: of the adapters, so the reference is the
    adapter switched off), swapped in place by context managers, one at a time.
    """

    def __init__(
        self, net: nn.Module, behaviour_decay: Decay | None = None, checkpoint_decay: float = 0.9
    ) -> None:
        """Take every parameter of ``net`` that requires a gradient.

        Raises:
            ValueError: when there is none.
        """
        self.net = net
        self.live = {name: p for name, p in net.named_parameters() if p.requires_grad}
        if not self.live:
            raise ValueError("the network has no parameter that requires a gradient: nothing can be trained")
        self.behaviour_decay = behaviour_decay or Decay()
        self.checkpoint_decay = checkpoint_decay
        self.behaviour_weights = self._copy()
        self.checkpoint_weights = self._copy()
        self.reference_weights = self._copy()
        self._swapped = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters in a stable order."""
        return list(self.live.values())

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move both averages towards the trained weights; once per training step, counted from 1."""
        assert not self._swapped, "averages cannot follow while other weights are swapped in"
        for weights, decay in (
            (self.behaviour_weights, self.behaviour_decay.at(step)),
            (self.checkpoint_weights, self.checkpoint_decay),
        ):
            for name, parameter in self.live.items():
                weights[name].mul_(decay).add_(parameter, alpha=1 - decay)

    @contextmanager
    def behaviour(self) -> Iterator[None]:
        """Inside, the network holds the behaviour weights."""
        with self._swap(self.behaviour_weights):
            yield

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Inside, the network holds the checkpoint average."""
        with self._swap(self.checkpoint_weights):
            yield

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the network holds the weights it started with."""
        with self._swap(self.reference_weights):
            yield

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly, as one flat dictionary of copies."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What ``state`` copies, the live tensors themselves."""
        sets = self._sets()
        return {f"{part}/{name}": t.detach() for part in sets for name, t in sets[part].items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned.

        Raises:
            ValueError: when it belongs to other weights.
        """
        own = self.tensors()
        wrong = own.keys() ^ state.keys() or {n for n in own if own[n].shape != state[n].shape}
        if wrong:
            raise ValueError(f"the weights are those of another network: they disagree at {sorted(wrong)[0]}")
        for name, tensor in own.items():
            tensor.copy_(like(state[name], tensor))

    @torch.no_grad()
    def start_over(self) -> None:
        """Set the trained weights and both averages back to the start."""
        for weights in (self.live, self.behaviour_weights, self.checkpoint_weights):
            for name, tensor in weights.items():
                tensor.copy_(self.reference_weights[name])

    def _sets(self) -> dict[str, Mapping[str, Tensor]]:
        return {
            "live": self.live,
            "behaviour": self.behaviour_weights,
            "checkpoint": self.checkpoint_weights,
            "reference": self.reference_weights,
        }

    def _copy(self) -> Weights:
        return {name: p.detach().clone() for name, p in self.live.items()}

    @contextmanager
    def _swap(self, weights: Weights) -> Iterator[None]:
        if self._swapped:
            raise RuntimeError("weights are already swapped: leave the other block first")
        trained, self._swapped = self._copy(), True
        try:
            self._write(weights)
            yield
        finally:
            self._write(trained)
            self._swapped = False

    @torch.no_grad()
    def _write(self, weights: Weights) -> None:
        for name, parameter in self.live.items():
            parameter.copy_(weights[name])


@dataclass(frozen=True)
class Lora:
    """Which linear layers get a low-rank adapter (arXiv 2106.09685), and of which size."""

    rank: int = 16
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    targets: str = ".*"
    """Regular expression that a layer's whole name must match."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus ``alpha / rank * B A``; B starts at zero, so it starts as the layer.

    A and B are float32 at least, also beside a bfloat16 layer: usual steps are below the resolution of bfloat16.
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
        """The merged matrix, for code that reads a layer's weight itself."""
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
    """Freeze ``net`` and give its matching linear layers an adapter, in place.

    Returns:
        The names of the layers.

    Raises:
        ValueError: when no linear layer matches, or there are adapters already.
    """
    if any(isinstance(module, LoraLinear) for module in net.modules()):
        raise ValueError("the network already has adapters: merge them first")
    names = [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(lora.targets, n)]
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
    """Fold every adapter into its layer, in place; the network is plain again."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, LoraLinear):
            layer.base.weight.copy_(layer.weight)
            net.set_submodule(name, layer.base)


def export_lora(net: nn.Module, lora: Lora, folder: Path) -> None:
    """Write the adapters as peft reads them: adapter_model.safetensors and adapter_config.json.

    Where they are sharded all ranks must call it; the main one writes.
    """
    layers = {name: m for name, m in net.named_modules() if isinstance(m, LoraLinear)}
    tensors = {}
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
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
