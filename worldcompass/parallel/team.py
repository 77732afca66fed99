"""The processes of one training run: torchrun's process group and gathering; one process takes the same path.

Every rank imagines, scores and trains on its share of a step's scenarios. Noise derives from scenario and step,
and scores are gathered before advantages are computed. All ranks have the same number of rows, so the mean of their
gradients is the gradient of all rows. Therefore a run's result does not depend on the number of processes, up to
the order of additions.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from worldcompass.devices.cuda import device_of_rank
from worldcompass.errors import LostCritic, LostRank, UserError
from worldcompass.parallel.sharding import is_sharded
from worldcompass.parallel.watch import ended_while_waiting
from worldcompass.statistics import mean_of
from worldcompass.version import __version__

LAST_PORT = 65535
MEET = timedelta(minutes=10)  # for all ranks to start
WAIT = timedelta(hours=2)  # long enough for a rank that evaluates alone; the launcher detects dead ranks
# Parts of the error messages of gloo and of the first rank's store after a connection is lost.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection was likely closed",
)
T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that train together; ``Team()`` is a single process."""

    rank: int = 0
    size: int = 1
    per_group: int = 1
    """Number of neighbouring ranks that share the candidates, and the past, of the same groups."""

    @staticmethod
    def current(per_group: int = 1) -> Team:
        """The team that this process has joined; a single process has all candidates for any ``per_group``."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return Team()
        return Team(dist.get_rank(), dist.get_world_size(), per_group)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's share of a step's groups, in their order; all shares have the same length."""
        teams, team = self.size // self.per_group, self.rank // self.per_group
        return list(items[team * len(items) // teams : (team + 1) * len(items) // teams])

    def candidates(self, group_size: int) -> range:
        """Indices of the candidates that this rank imagines in each of its groups."""
        part, size = self.rank % self.per_group, group_size // self.per_group
        return range(part * size, (part + 1) * size)

    def rows_of_group(self) -> slice:
        """This rank's share of a group's chosen rows: every ``per_group``-th one, for balanced updates."""
        return slice(self.rank % self.per_group, None, self.per_group)

    def check_divides(self, prompts_per_step: int) -> None:
        """Refuse sizes that do not divide evenly among the ranks.

        Raises:
            UserError: naming numbers of processes that fit.
        """
        if self.size % self.per_group:
            fits = [n for n in range(1, self.size + 1) if self.size % n == 0]
            raise UserError(
                f"ranks_per_group is {self.per_group}, which does not divide {self.size} processes: use "
                f"ranks_per_group {', '.join(map(str, fits))} or a multiple of {self.per_group} processes"
            )
        teams = self.size // self.per_group
        if prompts_per_step % teams:
            fits = [n * self.per_group for n in range(1, prompts_per_step + 1) if prompts_per_step % n == 0]
            raise UserError(
                f"prompts_per_step is {prompts_per_step}, which {self.size} processes cannot share evenly: use "
                f"{', '.join(map(str, fits))} processes or a multiple of {teams} prompts"
            )

    def gather(self, part_NG: Tensor) -> Tensor:
        """All groups with all their candidates, (N, G, ...), on the CPU, from each rank's own candidates."""
        part_NG = part_NG.cpu()
        if self.size == 1:
            return part_NG
        parts = torch.stack(self.gather_objects(part_NG)).unflatten(0, (-1, self.per_group))
        return parts.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def with_siblings(self, part_B: Tensor, num_groups: int) -> Tensor:
        """Rows of this rank's groups, including candidates that other ranks imagined; (num_groups * G, ...)."""
        if self.per_group == 1:
            return part_B
        all_NG = self.gather(part_B.unflatten(0, (num_groups, -1)))
        return torch.stack(self.share(list(all_NG))).flatten(0, 1).to(part_B.device)

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value."""
        every: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(every, value)
        return every

    def mean(self, value: T) -> T:
        """The mean over ranks of a number, or of a mapping or frozen dataclass of numbers, see ``mean_of``."""
        return value if self.size == 1 else mean_of(self.gather_objects(value))

    def most(self, number: int) -> int:
        """The largest number of any rank."""
        return max(self.gather_objects(number))

    def agree(self, value: T) -> T:
        """The main rank's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the main rank; every rank gets its result, or its error if the user can fix it.

        Raises:
            UserError, OSError: the error of ``work``.
        """
        if self.size == 1:
            return work()
        result: T | None = None
        failure: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except (UserError, OSError) as error:
                failure = error
        result, failure = self.agree((result, failure))
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    def all_or_none(self, act: Callable[[], T]) -> T:
        """Call ``act`` on every rank; if one loses its critic, every rank raises its error.

        Raises:
            LostCritic: on every rank.
        """
        try:
            result, lost = act(), None
        except LostCritic as error:
            result, lost = None, str(error)
        for message in self.gather_objects(lost):
            if message is not None:
                raise LostCritic(message)
        return cast(T, result)

    def wait(self) -> None:
        """Wait until all ranks call this."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients over ranks in float32; FSDP2 has already averaged those of sharded parameters.

        Every rank must have gradients for the same parameters.
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
    """Join the processes that torchrun or ``launch`` started, and leave at the end.

    After an exception only this rank leaves. Others may be waiting for it in a collective, so the group cannot be
    destroyed in order, and its threads would abort a normal exit. Print the message, then call ``end_at_once``, as
    the commands do. An uncaught exception does the same.

    Raises:
        UserError: when the environment names no team, ranks do not meet, or they run different versions of the
            packages that results depend on.
        LostRank: when the connection to another rank is lost.
    """
    rank, size = rank_of_environment()
    if size == 1:
        yield Team()
        return
    with ended_while_waiting(), _met(rank, device) as team:
        yield team


@contextmanager
def _met(rank: int, device: str) -> Iterator[Team]:
    """``joined`` for several processes."""
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device_of_rank(device)))
    # Offloaded shards and Python objects use gloo.
    _init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    before, sys.excepthook = sys.excepthook, _print_and_exit
    try:
        team = Team.current()
        check_same_versions(team)
        yield team
    except RuntimeError as error:
        if any(text in str(error) for text in LOST):
            raise LostRank(f"rank {rank} lost the connection to another rank") from None
        raise
    sys.excepthook = before
    dist.destroy_process_group()


def end_rank(code: int) -> NoReturn:
    """End the process of a rank; after success, what libraries registered for the exit still runs.

    The interpreter is never torn down: a thread that a communication library left behind would abort it, and a run
    that is finished and saved would count as failed.
    """
    if code == 0:
        atexit._run_exitfuncs()
    end_at_once(code)


def end_at_once(code: int) -> NoReturn:
    """Exit this process without waiting for other ranks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _print_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    traceback.print_exception(kind, error, trace)
    end_at_once(1)


def _init_process_group(backend: str) -> None:
    try:
        store, rank, size = next(rendezvous("env://", timeout=MEET))
        store.set_timeout(WAIT)
        store = PrefixStore("worldcompass", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(port_taken(os.environ.get("MASTER_PORT", ""))) from None
        if not isinstance(error, dist.DistStoreError | dist.DistNetworkError):
            raise
        if "timed out" not in str(error).lower():
            raise LostRank("the connection to another rank was lost while all met") from None
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the processes did not meet at {place} within {MEET.seconds // 60} minutes: start all of them, and"
            " give all the same MASTER_ADDR and MASTER_PORT, which others can reach"
        ) from None


def rank_of_environment() -> tuple[int, int]:
    """This process's rank and the number of ranks as a launcher sets them; (0, 1) without a launcher.

    Raises:
        UserError: when only a part is set, or they are no numbers that fit together.
    """
    found = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    if not any(found.values()):
        return 0, 1
    if missing := [name for name, value in found.items() if not value]:
        given = next(name for name in found if name not in missing)
        raise UserError(
            f"{given} is set and {missing[0]} is not: unset it, or start with --nproc or torchrun"
        )
    if not all(value.isdecimal() for value in found.values()) or int(found["RANK"]) >= int(
        found["WORLD_SIZE"]
    ):
        raise UserError(
            f"RANK is {found['RANK']} and WORLD_SIZE {found['WORLD_SIZE']}: expected whole numbers, the rank below"
            " the size; unset them, or start with --nproc or torchrun"
        )
    size = int(found["WORLD_SIZE"])
    if size > 1 and (lost := [n for n in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]):
        raise UserError(f"WORLD_SIZE is {size} and {lost[0]} is not set: start with --nproc or torchrun")
    port = os.environ.get("MASTER_PORT", "")
    if size > 1 and not (port.isdecimal() and 1 <= int(port) <= LAST_PORT):
        raise UserError(f"MASTER_PORT is {port}: expected a port's number, 1 to {LAST_PORT}")
    return int(found["RANK"]), size


def port_taken(port: str) -> str:
    """The message for a port that is already in use."""
    return f"port {port} is taken: set MASTER_PORT to a free one, or leave it unset"


def check_same_versions(team: Team) -> None:
    """Refuse ranks with different versions of the packages that results depend on.

    Raises:
        UserError: naming a rank that differs from the first one.
    """
    own = {
        "worldcompass": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    every = team.gather_objects(own)
    for rank, theirs in enumerate(every):
        if theirs != every[0]:
            raise UserError(
                f"rank {rank} runs {theirs}, rank 0 runs {every[0]}: install the same versions on all machines"
            )
