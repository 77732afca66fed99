"""Several processes as one trainer: torchrun's process group, gathering, FSDP2; one process takes the same path.

Every rank imagines, scores and trains on its part of a step's scenarios. Noise derives from scenario and step,
scores are gathered before advantages are taken, and all ranks have equally many rows, so the mean of their
gradients is the gradient of all rows: a run does not depend on how many processes it has, up to the order of
additions.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldcompass.errors import LostCritic, LostRank, UserError
from worldcompass.parallel.sharding import is_sharded
from worldcompass.version import __version__

WAIT = timedelta(hours=2)  # for a rank that evaluates alone; a rank that died is noticed by the launcher
# In the errors of gloo, and of the store that the first rank keeps.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection was likely closed",
)
T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that train together; ``Team()`` is one process alone."""

    rank: int = 0
    size: int = 1
    per_group: int = 1
    """Neighbouring ranks that share the candidates of the same groups, and the past they begin from."""

    @staticmethod
    def current(per_group: int = 1) -> Team:
        """The processes that this one has joined; one alone has all candidates whatever ``per_group``."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return Team()
        return Team(dist.get_rank(), dist.get_world_size(), per_group)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of a step's groups, in their order; all parts have one length."""
        teams, team = self.size // self.per_group, self.rank // self.per_group
        return list(items[team * len(items) // teams : (team + 1) * len(items) // teams])

    def candidates(self, group_size: int) -> range:
        """Those of every group of this rank's that it imagines itself."""
        part, size = self.rank % self.per_group, group_size // self.per_group
        return range(part * size, (part + 1) * size)

    def rows_of_group(self) -> slice:
        """This rank's part of what is chosen from a group: every ``per_group``-th, as updates take them in turn."""
        return slice(self.rank % self.per_group, None, self.per_group)

    def check_divides(self, prompts_per_step: int) -> None:
        """Refuse sizes that cannot be shared out evenly.

        Raises:
            UserError: naming numbers of processes that would do.
        """
        if self.size % self.per_group:
            fits = [n for n in range(1, self.size + 1) if self.size % n == 0]
            raise UserError(
                f"ranks_per_group is {self.per_group}, which {self.size} processes are no multiple of: use "
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
        """All groups with all their candidates, (N, G, ...), on the CPU; a rank has its groups' own candidates."""
        part_NG = part_NG.cpu()
        if self.size == 1:
            return part_NG
        parts = torch.stack(self.gather_objects(part_NG)).unflatten(0, (-1, self.per_group))
        return parts.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def with_siblings(self, part_B: Tensor, num_groups: int) -> Tensor:
        """Rows of this rank's groups with the candidates that other ranks imagined, (num_groups * G, ...)."""
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

    def mean(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Means over ranks of the numbers in a nested mapping; words and lists are the main rank's.

        A number that some ranks lack (None) is the mean of the others'.
        """
        return dict(values) if self.size == 1 else _mean(self.gather_objects(dict(values)))

    def most(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        return max(self.gather_objects(number))

    def agree(self, value: T) -> T:
        """The main rank's value, everywhere."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the main rank, everywhere; what the user must mend ends all ranks alike.

        Raises:
            UserError, OSError: what ``work`` raised.
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
        """``act()``, which every rank calls alike; where one loses its critic, all end with its words.

        Raises:
            LostCritic: on every rank.
        """
        try:
            result, lost = act(), None
        except LostCritic as error:
            result, lost = None, str(error)
        for words in self.gather_objects(lost):
            if words is not None:
                raise LostCritic(words)
        return cast(T, result)

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
    """Join the processes that torchrun or ``launch`` started with this one; leave at the end.

    Who leaves by an exception leaves alone: others may wait for it in the middle of what they do together, so the
    group cannot be taken down in order, and its threads would abort an orderly end of the process. Say what there
    is to say, then ``end_at_once``, as the command does; an exception that nobody catches does so by itself.

    Raises:
        UserError: when ranks run different versions of the packages that results depend on.
        LostRank: when another rank is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Shards that rest in the CPU's memory, and objects, travel by gloo.
    _meet("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    before, sys.excepthook = sys.excepthook, _show_and_end
    try:
        team = Team.current()
        _same_everywhere(team)
        yield team
    except RuntimeError as error:
        if any(sign in str(error) for sign in LOST):
            raise LostRank(f"rank {os.environ['RANK']} lost the connection to another rank") from None
        raise
    sys.excepthook = before
    dist.destroy_process_group()


def end_at_once(code: int) -> NoReturn:
    """End this process, one of several, without waiting for anything that it shares with them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _show_and_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    traceback.print_exception(kind, error, trace)
    end_at_once(1)


def _meet(backend: str) -> None:
    try:
        dist.init_process_group(backend, timeout=WAIT)
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(port_taken(os.environ.get("MASTER_PORT", ""))) from None


def port_taken(port: str) -> str:
    """What to do about it, in words."""
    return f"port {port} is taken: set MASTER_PORT to a free one, or leave it unset"


def _same_everywhere(team: Team) -> None:
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


def _mean(rows: Sequence[Any]) -> Any:
    first = next((row for row in rows if row is not None), None)
    if isinstance(first, Mapping):
        return {key: _mean([row[key] for row in rows]) for key in first}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    present = [row for row in rows if row is not None]
    return sum(present) / len(present)
