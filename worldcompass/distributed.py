"""Several processes as one trainer: torchrun's process group, gathering, FSDP2; one process takes the same path.

Every rank imagines, scores and trains on its part of a step's scenarios. Noise derives from scenario and step,
scores are gathered before advantages are taken, and all ranks have equally many rows, so the mean of their
gradients is the gradient of all rows: a run does not depend on how many processes it has, up to the order of
additions.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

import worldcompass
from worldcompass.errors import LostRank, UserError

WAIT = timedelta(hours=2)  # for a rank that evaluates alone; a rank that died is noticed by the launcher
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in gloo's errors
T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that train together; ``Team()`` is one process alone."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Team:
        """The processes that this one has joined."""
        return Team(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Team()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of a step's items, in their order; all parts have one length."""
        per_rank = len(items) // self.size
        return list(items[self.rank * per_rank : (self.rank + 1) * per_rank])

    def check_divides(self, prompts_per_step: int) -> None:
        """Refuse sizes that cannot be shared out evenly.

        Raises:
            UserError: naming numbers of processes that would do.
        """
        if prompts_per_step % self.size:
            fits = [n for n in range(1, prompts_per_step + 1) if prompts_per_step % n == 0]
            raise UserError(
                f"prompts_per_step is {prompts_per_step}, which {self.size} processes cannot share evenly: use "
                f"{', '.join(map(str, fits))} processes or a multiple of {self.size} prompts"
            )

    def gather(self, part_N: Tensor) -> Tensor:
        """All ranks' parts one after the other, (size * N, ...), on the CPU."""
        part_N = part_N.cpu()
        if self.size == 1:
            return part_N
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part_N)
        return torch.cat(parts)

    def mean(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Means over ranks of the numbers in a nested mapping; words and lists are the main rank's.

        A number that some ranks lack (None) is the mean of the others'.
        """
        if self.size == 1:
            return dict(values)
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, dict(values))
        return _mean(every)

    def most(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if self.size == 1:
            return number
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, number)
        return max(every)

    def agree(self, value: T) -> T:
        """The main rank's value, everywhere."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Mean of the gradients over ranks, in float32; sharded parameters have it already.

        Every rank has a gradient for the same parameters.
        """
        grads = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
        if self.size == 1 or not grads:
            return
        flat = torch.cat([grad.detach().float().flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, mean in zip(grads, flat.div_(self.size).split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


@contextmanager
def joined(device: str = "cpu") -> Iterator[Team]:
    """Join the processes that torchrun, Slurm's launcher or ``launch`` started with this one; leave at the end.

    Raises:
        UserError: when ranks run different versions of the packages that results depend on.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _meet("nccl" if device.startswith("cuda") else "gloo")
    try:
        team = Team.current()
        _same_everywhere(team)
        yield team
    except RuntimeError as error:
        if any(sign in str(error) for sign in LOST):
            raise LostRank(f"rank {os.environ['RANK']} lost the connection to another rank") from None
        raise
    finally:
        dist.destroy_process_group()


def _meet(backend: str) -> None:
    try:
        dist.init_process_group(backend, timeout=WAIT)
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error):
            raise
        port = os.environ.get("MASTER_PORT")
        raise UserError(f"port {port} is taken: set MASTER_PORT to a free one, or leave it unset") from None


def _same_everywhere(team: Team) -> None:
    own = {
        "worldcompass": worldcompass.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    every: list[Any] = [None] * team.size
    dist.all_gather_object(every, own)
    for rank, theirs in enumerate(every):
        if theirs != every[0]:
            raise UserError(
                f"rank {rank} runs {theirs}, rank 0 runs {every[0]}: install the same versions on all machines"
            )


@runtime_checkable
class InUnits(Protocol):
    """A network that says which of its modules are gathered together."""

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Groups of modules, inner ones first; what is in none is gathered with the whole network."""
        ...


def shard(
    net: nn.Module,
    device: str = "cpu",
    per_node: int | None = None,
    offload: bool = False,
    bf16: bool = False,
) -> nn.Module:
    """Shard a network's parameters over all ranks with FSDP2, in place.

    Each of its units (see ``InUnits``) is gathered by itself when it is called, and let go after it. Every use of a
    parameter must go through such a call: FSDP2's hooks run only there. Master weights, the reduction of gradients
    and the optimiser's state stay in the parameters' own type (float32).

    Args:
        per_node: processes of one node for hybrid sharding (shards within a node, copies across nodes).
        offload: keep shards in the CPU's memory between uses.
        bf16: gather and compute in bfloat16, reduce in float32.

    Raises:
        UserError: when the processes do not fill whole nodes.
    """
    # Imported here: a run of one process does without.
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
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    placed = CPUOffloadPolicy() if offload else OffloadPolicy()
    units = [list(unit) for unit in net.units()] if isinstance(net, InUnits) else []
    for unit in [*units, [net]]:
        # The whole network lets go as well: else a swap of weights would not reach what stayed gathered.
        fully_shard(unit, mesh=mesh, mp_policy=precision, offload_policy=placed, reshard_after_forward=True)
    return net


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds a part only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor's full values, any other as it is; all ranks must call it alike."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def like(full: Tensor, pattern: Tensor) -> Tensor:
    """Full values in the form of ``pattern``: this rank's shard where that is sharded, without communication."""
    if not is_sharded(pattern):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = pattern.device_mesh, pattern.placements  # type: ignore[attr-defined]
    return distribute_tensor(full.detach().to(pattern.device), mesh, placements, src_data_rank=None)


def _mean(rows: Sequence[Any]) -> Any:
    first = next((row for row in rows if row is not None), None)
    if isinstance(first, Mapping):
        return {key: _mean([row[key] for row in rows]) for key in first}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    present = [row for row in rows if row is not None]
    return sum(present) / len(present)
