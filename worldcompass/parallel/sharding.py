"""Parameters sharded over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.settings import Rule, enforce


@runtime_checkable
class InUnits(Protocol):
    """A network that lists its units of sharding, whose modules are gathered together."""

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Groups of modules, inner ones first; all other modules are gathered with the whole network."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How the processes of a run share a step."""

    ranks_per_group: int = 1
    """Processes that share the candidates of a group, each on the same past; alone it changes nothing."""
    shard: bool = False
    """Split parameters, averages and optimiser over the processes of the run (FSDP2); alone it changes nothing."""
    shard_within: int = 0
    """Split over so many processes only, those of one node, and copy over the nodes; 0 splits over all."""
    offload: bool = False
    """Keep what is sharded in the CPU's memory between uses."""
    gather_bf16: bool = False
    """Gather what is sharded in bfloat16, half the traffic; master weights and reductions stay float32. Rounds what
    autocast alone does not, such as the scales of norms."""

    def __post_init__(self) -> None:
        needs_shards = self.shard_within or self.offload or self.gather_bf16
        enforce(
            vars(self),
            [
                Rule(
                    ("shard", "shard_within", "offload", "gather_bf16"),
                    self.shard_within >= 0 and (self.shard or not needs_shards),
                    "shard_within must not be negative; it, offload and gather_bf16 need shard=true",
                ),
                Rule(("ranks_per_group",), self.ranks_per_group >= 1, "ranks_per_group must be at least 1"),
            ],
        )


def shard(
    net: nn.Module,
    device: str = "cpu",
    per_node: int = 0,
    offload: bool = False,
    bf16: bool = False,
) -> nn.Module:
    """Shard a network's parameters over all ranks with FSDP2, in place.

    Each of its units (see ``InUnits``) is gathered separately for its call and released afterwards. Every use of a
    parameter must go through such a call, as FSDP2's hooks run only there. Master weights, the reduction of
    gradients and the optimiser's state keep the parameters' type (float32).

    Args:
        net: the network.
        device: of its computation.
        per_node: processes of one node for hybrid sharding (shards within a node, copies across nodes); 0 shards
            over all.
        offload: keep shards in the CPU's memory between uses.
        bf16: gather and compute in bfloat16, reduce in float32. Calls must run under autocast, which keeps noise
            levels and times in float32.

    Raises:
        UserError: when the processes do not fill whole nodes.
    """
    # Imported here, as runs of one process do not need it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    size = dist.get_world_size()
    if per_node and size % per_node:
        raise UserError(f"{size} processes do not fill nodes of {per_node}: start a multiple of {per_node}")
    kind = "cuda" if device.startswith("cuda") else "cpu"
    if per_node and per_node < size:
        mesh = init_device_mesh(kind, (size // per_node, per_node), mesh_dim_names=("copies", "shards"))
    else:
        mesh = init_device_mesh(kind, (size,))
    in_bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    precision = in_bf16 if bf16 else MixedPrecisionPolicy()
    placed = CPUOffloadPolicy(pin_memory=kind == "cuda") if offload else OffloadPolicy()
    units = [list(unit) for unit in net.units()] if isinstance(net, InUnits) else []
    for unit in [*units, [net]]:
        # Also release the whole network's own parameters, or a swap of weights would not reach the gathered copies.
        fully_shard(unit, mesh=mesh, mp_policy=precision, offload_policy=placed, reshard_after_forward=True)
    return net


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a shard of the tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Full values of a sharded tensor; other tensors are returned unchanged. All ranks must call it together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite; of sharded tensors this rank's part counts."""
    own = (tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors)  # type: ignore[attr-defined]
    return all(bool(part.isfinite().all()) for part in own if part.is_floating_point())


def like(full: Tensor, pattern: Tensor) -> Tensor:
    """Values in the form of ``pattern``: this rank's shard if that is sharded, without communication."""
    if not is_sharded(pattern) or is_sharded(full):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = pattern.device_mesh, pattern.placements  # type: ignore[attr-defined]
    own = distribute_tensor(full.detach().to(pattern.device), mesh, placements, src_data_rank=None)
    return own.to(pattern.device)  # distribute_tensor moves offloaded shards to the GPU


def home_of(parameter: Tensor) -> torch.device:
    """The device that computes with a parameter; an offloaded one is stored on the CPU between uses."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None or mesh.device_type == parameter.device.type:
        return parameter.device
    return torch.device(mesh.device_type, torch.cuda.current_device())
