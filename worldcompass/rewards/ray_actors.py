"""Critics in Ray actors: their packages never meet the trainer's."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import queue
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.rewards.remote import LOOPBACK
from worldcompass.rewards.retry import FailedTry, Tries, insist
from worldcompass.rewards.wire import VERSION, pack_group, pack_scores, unpack_group, unpack_scores
from worldcompass.types import Group, Scores

RAY_STARTS = 6  # tries to start Ray, which gives up after 30 s of its own on a machine that is too busy


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How many actors score, with what, and how long one may take.

    Raises:
        UserError: when two settings do not fit together, or what they need is not installed.
    """

    actors: int = 1
    """How many, each scoring one group at a time."""
    python: str | Path | None = None
    """The interpreter of another environment, on the actor's node; it needs worldcompass and the trainer's versions
    of Python and Ray."""
    pip: Sequence[str] = ()
    """Packages that Ray installs for the actors, into a copy of the trainer's environment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the actors."""
    num_cpus: float = 1.0
    """Cores of an actor."""
    num_gpus: float = 0.0
    """GPUs of an actor; Ray shows it these alone."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Others that a node was started with, such as ``{"scorer": 1}``."""
    timeout: float = 120.0
    """Seconds for one group."""
    starting: float = 600.0
    """Seconds for an actor to start and make its critic."""
    tries: int = 4
    """How often a group is scored before the critic is given up."""
    name: str | None = None
    """Under which scores are logged; the critic's own when None."""

    def __post_init__(self) -> None:
        if self.python is not None and self.pip:
            raise UserError("python and pip both choose the environment of a critic on Ray: give one of them")
        if self.pip and importlib.util.find_spec("virtualenv") is None:
            raise UserError(
                "Ray installs a critic's packages with virtualenv, which is not here: pip install virtualenv, or "
                "give python, the interpreter of an environment that has them"
            )

    @property
    def needed(self) -> dict[str, float]:
        """What one actor takes of a node, by Ray's names."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}

    def of_actor(self) -> dict[str, Any]:
        """The options of an actor, as Ray takes them."""
        parts = {
            "py_executable": self.python and str(self.python),
            "pip": list(self.pip),
            "env_vars": dict(self.variables),
        }
        return {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "resources": dict(self.resources),
            "runtime_env": {name: part for name, part in parts.items() if part},
        }


class RayCritic:
    """Scores what a critic in Ray actors scores, number by number the same.

    Each actor is a process with a Python of its own, on whatever node of the cluster has what it needs. One that
    dies, hangs or raises is replaced by a new one and the group is scored again; when that has failed too often the
    run ends with one sentence, and what it learned is kept.

    Where Ray is not running yet, ``RAY_ADDRESS`` tells which cluster to join (``auto``: the one on this machine);
    without it one is started here for this program alone.
    """

    def __init__(
        self,
        make_critic: Callable[[], Critic],
        options: RayOptions | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start the actors and wait until each has made its critic.

        Args:
            make_critic: called in every actor; imports what only the critic has, inside of itself.
            options: how many actors, where and for how long; one on a core when None.
            sleep: between two tries.

        Raises:
            UserError: when Ray is not installed or not reached, no node has the resources, or the critic cannot
                be made.
        """
        self.options = options or RayOptions()
        self._tries, self.at_once = Tries(self.options.tries, sleep), self.options.actors
        self._ray, self._make = connected_ray(), make_critic
        _send_whole(self._ray, make_critic)
        _check_placeable(self._ray, self.options)
        self._free: queue.Queue[_Seat] = queue.Queue()
        seats = [self._start() for _ in range(self.options.actors)]
        try:
            told = [self._told(seat) for seat in seats]
        except self._ray.exceptions.RayError as error:
            why = self._reason(error, self.options.starting)
            raise UserError(f"the critic does not start in Ray: {why}") from None
        if told[0][1] != VERSION:
            raise UserError(
                f"the actors' worldcompass has wire version {told[0][1]}, the trainer's {VERSION}: install the "
                "same version"
            )
        self.name = self.options.name or told[0][0]
        for seat in seats:
            self._free.put(seat)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates in the next actor that is free.

        Raises:
            LostCritic: when every try has failed.
        """
        body, count = pack_group(group), len(group.frames_GF3hw)
        return insist(
            f"the critic {self.name} in Ray", lambda: unpack_scores(self._ask(body), count), self._tries
        )

    @property
    def tries(self) -> tuple[int, int]:
        """Tries made so far, and those of them that failed."""
        return self._tries.made, self._tries.failed

    def _ask(self, body: bytes) -> Any:
        seat, limit = self._free.get(), self.options.starting
        try:
            self._told(seat)
            limit = self.options.timeout
            return self._ray.get(seat.actor.score.remote(body), timeout=limit)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(seat.actor)
            seat = self._start()
            raise FailedTry(self._reason(error, limit)) from error
        finally:
            self._free.put(seat)

    def _start(self) -> _Seat:
        actor = self._ray.remote(_Actor).options(**self.options.of_actor()).remote()
        return _Seat(actor, actor.begin.remote(self._make))

    def _told(self, seat: _Seat) -> tuple[str, int]:
        return self._ray.get(seat.told, timeout=self.options.starting)

    def _reason(self, error: Exception, limit: float) -> str:
        errors = self._ray.exceptions
        if isinstance(error, errors.GetTimeoutError):
            return f"no answer within {limit:g} s"
        if isinstance(error, errors.RayTaskError):  # the critic's own error is the last line of a traceback
            return str(error).strip().splitlines()[-1]
        if isinstance(error, errors.RuntimeEnvSetupError):
            return f"its environment cannot be made: {_complaint(str(error))}"
        return "its process died" if isinstance(error, errors.ActorDiedError) else _first_line(error)


@dataclass(frozen=True)
class _Seat:
    """An actor, and what it tells once its critic is made."""

    actor: Any
    told: Any


class _Actor:
    """What runs in Ray's process."""

    def begin(self, make_critic: Callable[[], Critic]) -> tuple[str, int]:
        """Make the critic; its name, and the wire's version here."""
        self.critic = make_critic()
        return self.critic.name, VERSION

    def score(self, body: bytes) -> dict[str, Any]:
        """Scores of a packed group, packed."""
        return pack_scores(self.critic.name, self.critic(unpack_group(body)))


def _complaint(text: str) -> str:
    """What pip calls an error in Ray's long report of an installation that failed, else the report's last line."""
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def connected_ray() -> Any:
    """The module ``ray``, connected to a cluster.

    Raises:
        UserError: when it is not installed, or the cluster is not there.
    """
    ray, address = imported_ray(), os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        return ray
    if address is None and Team.current().size > 1:
        raise UserError(
            "the processes of one run must share one Ray: start it with `ray start --head` and set "
            "RAY_ADDRESS=auto"
        )
    try:
        if address is None:
            start_ray(ray)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except UserError:
        raise
    except Exception as error:  # Ray raises this very class, too
        raise UserError(f"cannot reach Ray at {address or 'this machine'}: {_first_line(error)}") from error
    return ray


def imported_ray() -> Any:
    """The module ``ray``, told that it serves this machine alone unless ``RAY_ADDRESS`` names a cluster.

    Ray's servers take commands from whoever reaches them and listen on all addresses, also where ``ray.init`` is
    given a loopback one. What this variable, read when Ray is imported, says of Windows holds on Linux as well.

    Raises:
        UserError: when it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run tells nobody of itself
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise UserError("a critic on Ray needs the extra ray: pip install 'worldcompass[ray]'") from None
    return ray


def start_ray(ray: Any, **options: Any) -> None:
    """Start a Ray for this program alone, which listens on loopback.

    Args:
        ray: by ``imported_ray``.
        options: of ``ray.init``.

    Raises:
        UserError: when it would be open to other machines.
    """
    for left in reversed(range(RAY_STARTS)):
        try:
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=LOOPBACK,
                **options,
            )
            break
        except Exception:  # Ray raises this very class when it takes too long to start
            ray.shutdown()
            if not left:
                raise
    if ray.util.get_node_ip_address() != LOOPBACK:
        ray.shutdown()
        raise UserError(
            "Ray would listen to other machines, since it was imported before it was told not to: import it after "
            "the critic is made, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
        )


def _check_placeable(ray: Any, options: RayOptions) -> None:
    needed, python = options.needed, options.python
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(what, 0) >= number for what, number in needed.items()) for node in nodes):
        wanted = ", ".join(f"{what} {number:g}" for what, number in needed.items() if number)
        raise UserError(
            f"no node of Ray has what an actor of the critic needs ({wanted}): start one that has it"
        )
    if (
        python is not None and len(nodes) == 1 and shutil.which(python) is None
    ):  # of other nodes one cannot know
        raise UserError(f"there is no interpreter {python} on this machine, which is Ray's only node")


def _send_whole(ray: Any, make_critic: Callable[[], Critic]) -> None:
    """Have a function of a recipe's file sent with the file's own classes, as no actor can import that."""
    module = sys.modules.get(getattr(make_critic, "__module__", ""))
    if (
        module is not None
        and importlib.machinery.PathFinder.find_spec(module.__name__.partition(".")[0]) is None
    ):
        ray.cloudpickle.register_pickle_by_value(module)
