"""Optimisers: Muon for matrices and Adam for the rest, AdamW, normalised gradients. Refuses non-finite updates."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldcompass.devices.cuda import on_cuda
from worldcompass.errors import StoppedRun
from worldcompass.parallel.sharding import all_finite, like, whole
from worldcompass.parallel.team import Team
from worldcompass.settings import Rule, enforce, named
from worldcompass.training.lora import Lora, inject_lora
from worldcompass.training.policy import Decay

# Quintic Newton-Schulz coefficients of Muon (Jordan et al. 2024), steep at zero.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
MAX_TOGETHER = 1 << 26  # numbers of matrices that are orthogonalised in one batch, 256 MiB in float32
NS_FLOOR = 1e-7  # added to the Frobenius norm
RMS_SCALE = 0.2  # makes a Muon update as large as a typical AdamW one (Moonlight, arXiv 2502.16982)

_norm: Callable[..., Tensor] = cast("Any", torch.linalg).vector_norm  # torch has no type for it

UNLIMITED = ("max_grad_norm",)  # settings that may be infinite

MakeOptimizer = Callable[[Sequence[nn.Parameter], float, float], torch.optim.Optimizer]
"""(parameters, lr, weight_decay) -> optimiser: ``muon``, ``adamw`` or ``normalised_sgd``."""


class NonFiniteUpdate(StoppedRun, RuntimeError):
    """A loss, a gradient or a weight is not finite; the update was not applied, or is not saved."""


def orthogonalise(matrices_BMN: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices by five Newton-Schulz steps; float32 (B, M, N).

    Args:
        precision: of the computation; by default bfloat16 on CUDA and float32 elsewhere.
    """
    a, b, c = NS_COEFFICIENTS
    x = matrices_BMN.to(precision or (torch.bfloat16 if on_cuda(matrices_BMN) else torch.float32))
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (_norm(x, dim=(-2, -1), keepdim=True) + NS_FLOOR)
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for parameters with two or more axes, Adam for the others; both with decoupled weight decay.

    Matrices: ``buf = m buf + g``, ``U = orthogonalise(g + m buf)``,
    ``p <- (1 - lr wd) p - lr 0.2 sqrt(max(rows, cols)) U``, with a kernel's later axes flattened into columns.
    Others: Adam with ``eps`` added to ``sqrt(v)`` before the bias correction. Equal to the official WorldCompass
    optimiser when ``precision`` (see ``orthogonalise``) is bfloat16. A parameter's state is created at its first
    gradient; ``load_state_dict`` restores all.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        precision: torch.dtype | None = None,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"need lr >= 0, weight_decay >= 0, 0 <= momentum < 1: {lr}, {weight_decay}, {momentum}"
            )
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(parameters, defaults)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = _asked(closure)
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            same_shape: dict[tuple[object, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in with_grad:
                if parameter.ndim >= 2:
                    same_shape[(parameter.shape, parameter.device)].append(parameter)
                else:
                    self._adam(parameter, group)
            for matrices in same_shape.values():
                for some in _at_once(matrices):
                    self._muon(some, group)
        return loss

    def _muon(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        nudges: list[Tensor] = []
        for parameter in matrices:
            grad = _grad(parameter)
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(group["momentum"]).add_(grad)
            nudges.append(whole(grad.add(state["momentum"], alpha=group["momentum"])).flatten(1))
        size = RMS_SCALE * max(matrices[0].shape[:2]) ** 0.5
        for parameter, update in zip(
            matrices, orthogonalise(torch.stack(nudges), self.precision), strict=True
        ):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            own = like(update.view(parameter.shape).to(parameter.dtype), parameter)
            parameter.add_(own, alpha=-group["lr"] * size)

    def _adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        grad, state, (beta_1, beta_2) = _grad(parameter), self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = int(state["step"])
        state["mean"].lerp_(grad, 1 - beta_1)
        state["square"].lerp_(grad.square(), 1 - beta_2)
        size = group["lr"] * (1 - beta_2**count) ** 0.5 / (1 - beta_1**count)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(state["mean"] / (group["eps"] + state["square"].sqrt()), alpha=-size)


def _asked(closure: Callable[[], float] | None) -> float | None:
    """The loss of a step, see ``torch.optim.Optimizer.step``."""
    with torch.enable_grad():
        return None if closure is None else closure()


def _at_once(matrices: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parts of a list of equal matrices, each of at most ``MAX_TOGETHER`` numbers: sharded ones are made whole."""
    size = max(1, MAX_TOGETHER // matrices[0].numel())
    yield from (matrices[i : i + size] for i in range(0, len(matrices), size))


def muon(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Muon for matrices, Adam for the rest."""
    return Muon(parameters, lr, weight_decay)


class NormalisedSGD(torch.optim.Optimizer):
    """Gradient descent whose gradients, of all parameters together, have length 1 before momentum averages them.

    ``buf = m buf + (1 - m) g / |g|``, ``p <- (1 - lr wd) p - lr buf``: no step is longer than ``lr``. A gradient of
    rewards is mostly noise, and its signal lies in few directions. Muon and Adam make steps along all directions
    alike, so noise drowns it; this one keeps their proportions.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.8,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"need lr >= 0, weight_decay >= 0, 0 <= momentum < 1: {lr}, {weight_decay}, {momentum}"
            )
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = _asked(closure)
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            size = nn.utils.get_total_norm([_grad(p) for p in with_grad])
            size = whole(size).clamp_min(NS_FLOOR)
            for parameter in with_grad:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(_grad(parameter) / size, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(state["momentum"], alpha=-group["lr"])
        return loss


def normalised_sgd(
    parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Gradients scaled to length 1, with momentum."""
    return NormalisedSGD(parameters, lr, weight_decay)


def adamw(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """PyTorch's AdamW for all parameters."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How the weights and their averages are updated."""

    make_optimizer: MakeOptimizer = field(default=muon, metadata=named(muon, adamw, normalised_sgd))
    """``muon``, ``adamw`` or ``normalised_sgd``."""
    lr: float = 1e-5
    lr_end: float = 1.0
    """Learning rate of the last step as a share of ``lr``, with linear decay."""
    weight_decay: float = 1e-4
    max_grad_norm: float = 2.0
    behaviour_decay: Decay = field(default_factory=Decay)
    """Decay of the behaviour weights, which imagine, applied once per training step."""
    checkpoint_decay: float = 0.9
    """Decay of the average that is evaluated and exported, applied once per training step."""
    lora: Lora | None = None
    """Train low-rank adapters instead of the whole network."""
    trained: str = ".*"
    """Regular expression that a parameter's whole name must match to be trained; the others stay as they are."""
    autocast_bf16: bool = False
    """Run the network in bfloat16; latents, losses and weights stay float32. Refused on CPUs without bfloat16."""

    def __post_init__(self) -> None:
        enforce(
            vars(self),
            [
                Rule(("trained",), is_pattern(self.trained), "trained must be a regular expression"),
                Rule(
                    ("lr", "max_grad_norm"),
                    self.lr > 0 and self.max_grad_norm > 0,
                    "lr and max_grad_norm must be positive",
                ),
                Rule(
                    ("lr_end", "weight_decay"),
                    min(self.lr_end, self.weight_decay) >= 0,
                    "lr_end and weight_decay must not be negative",
                ),
                Rule(
                    ("checkpoint_decay",),
                    0 <= self.checkpoint_decay <= 1,
                    "checkpoint_decay must be between 0 and 1",
                ),
            ],
            UNLIMITED,
        )


def is_pattern(text: str) -> bool:
    """Whether a text is a regular expression."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def choose_trained(net: nn.Module, optimiser: Optimiser, generator: torch.Generator) -> None:
    """Add adapters if there are to be some, and stop the gradients of all parameters that are not to be trained.

    Raises:
        ValueError: when the pattern matches no parameter.
    """
    if optimiser.lora is not None:
        inject_lora(net, optimiser.lora, generator)
    chosen = {name for name, _ in net.named_parameters() if re.fullmatch(optimiser.trained, name)}
    if not chosen:
        layers = sorted({name.rsplit(".", 1)[0] for name, _ in net.named_parameters()})
        shown = ", ".join(layers[:8]) + (" and more" if len(layers) > 8 else "")
        raise ValueError(
            f"trained={optimiser.trained!r} matches no parameter's whole name; layers are {shown}"
        )
    for name, parameter in net.named_parameters():
        if name not in chosen:
            parameter.requires_grad_(False)


def clip_gradients(parameters: Sequence[nn.Parameter], loss: float, max_norm: float) -> float:
    """Clip the gradients' total norm and return its unclipped value; call it right before the optimiser's step.

    Raises:
        NonFiniteUpdate: when the loss or the norm is not finite.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(torch.tensor(loss))):
        raise NonFiniteUpdate(
            f"loss {loss}, gradient norm {float(norm)}: the update was refused and the weights are unchanged."
            " Lower the learning rate, or check the world's predictions and the critics' scores"
        )
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def refuse_broken_weights(weights: Iterable[Tensor], team: Team) -> None:
    """Check all ranks' weights after an update, as finite gradients do not make them finite.

    Raises:
        NonFiniteUpdate: on all ranks, when a weight is NaN or infinite.
    """
    if team.most(not all_finite(weights)):
        raise NonFiniteUpdate(
            "an update made weights that are not finite, so nothing of its step is saved. Lower the learning rate, "
            "or check the optimiser: its own eps of 0 divides 0 by 0"
        )


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.to(parameter.dtype)


def set_learning_rate(optimizer: torch.optim.Optimizer, start: float, end: float, done: float) -> None:
    """Set the learning rate by linear interpolation from ``start`` to ``end * start`` at the share ``done``.

    A parameter group stores ``start`` as ``initial_lr`` at the first call; a rollback halves that value.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", start) * (1 + (end - 1) * done)
