"""The sets of weights: trained, behaviour, checkpoint average and reference."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldcompass.parallel.sharding import like

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Decay:
    """Decay of the behaviour average at training step k (from 1): ``min(highest, lowest + per_step * k)``."""

    lowest: float = 0.2
    highest: float = 0.9
    per_step: float = 0.01

    def at(self, step: int) -> float:
        """The decay of a training step; 0 copies the trained weights, 1 ignores them."""
        return min(self.highest, self.lowest + self.per_step * step)


class Policy:
    """The trainable weights of a network and the averages that follow them.

    ``behaviour`` imagines the data, ``checkpoint`` is evaluated and exported, ``reference`` is the frozen start.
    All are copies of the trainable parameters only. With LoRA these are the adapters, and the reference is the
    network without them. Context managers swap them in place, one at a time.
    """

    def __init__(
        self, net: nn.Module, behaviour_decay: Decay | None = None, checkpoint_decay: float = 0.9
    ) -> None:
        """Use every parameter of ``net`` that requires a gradient.

        Raises:
            ValueError: when no parameter does.
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
        """Move both averages towards the trained weights; call it once per training step, counted from 1."""
        assert not self._swapped, "averages cannot follow while other weights are swapped in"
        for weights, decay in (
            (self.behaviour_weights, self.behaviour_decay.at(step)),
            (self.checkpoint_weights, self.checkpoint_decay),
        ):
            for name, parameter in self.live.items():
                weights[name].mul_(decay).add_(parameter, alpha=1 - decay)

    @contextmanager
    def behaviour(self) -> Generator[None]:
        """Swap in the behaviour weights inside the block."""
        with self._swap(self.behaviour_weights):
            yield

    @contextmanager
    def checkpoint(self) -> Generator[None]:
        """Swap in the checkpoint average inside the block."""
        with self._swap(self.checkpoint_weights):
            yield

    @contextmanager
    def reference(self) -> Generator[None]:
        """Swap in the start weights inside the block."""
        with self._swap(self.reference_weights):
            yield

    def state(self) -> dict[str, Tensor]:
        """All weights needed to resume exactly, as one flat dictionary of copies."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that ``state`` copies, without the copy."""
        sets = self._sets()
        return {f"{part}/{name}": t.detach() for part in sets for name, t in sets[part].items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned.

        Raises:
            ValueError: when names or shapes differ.
        """
        own = self.tensors()
        wrong = own.keys() ^ state.keys() or {n for n in own if own[n].shape != state[n].shape}
        if wrong:
            raise ValueError(f"the weights belong to another network: they differ at {sorted(wrong)[0]}")
        for name, tensor in own.items():
            tensor.copy_(like(state[name], tensor))

    @torch.no_grad()
    def start_over(self) -> None:
        """Reset the trained weights and both averages to the start."""
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
    def _swap(self, weights: Weights) -> Generator[None]:
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
