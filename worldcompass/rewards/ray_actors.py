"""Critics in Ray actors, whose packages stay separate from the trainer's."""

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

import torch

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.rewards.http_json import LOOPBACK_ADDRESS
from worldcompass.rewards.retry import FailedTry, Tries, score_with_retries
from worldcompass.rewards.wire import VERSION, pack_group, pack_scores, unpack_group, unpack_scores
from worldcompass.types import Group, Scores

RAY_STARTS = 6  # tries to start Ray, which stops trying after 30 s on a busy machine


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Number, environment, resources and time limits of the actors.

    Raises:
        UserError: when two settings conflict, or a package that they need is not installed.
    """

    actors: int = 1
    """Number of actors; each scores one group at a time."""
    python: str | Path | None = None
    """Interpreter of another environment, on the actor's node. It needs worldcompass and the trainer's versions of
    Python and Ray."""
    pip: Sequence[str] = ()
    """Packages that Ray installs for the actors, into a copy of the trainer's environment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the actors."""
    num_cpus: float = 1.0
    """Cores per actor."""
    num_gpus: float = 0.0
    """GPUs per actor; the actor sees only these."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Other resources that a node must offer, such as ``{"scorer": 1}``."""
    timeout: float = 120.0
    """Seconds for one group."""
    starting: float = 600.0
    """Seconds for an actor to start and make its critic."""
    tries: int = 4
    """Tries per group before the run stops."""
    name: str | None = None
    """Name of the scores in the log; the critic's name when None."""

    def __post_init__(self) -> None:
        if self.python is not None and self.pip:
            raise UserError("python and pip both choose the environment of a critic on Ray: give one of them")
        if self.pip and importlib.util.find_spec("virtualenv") is None:
            raise UserError(
                "Ray installs a critic's packages with virtualenv, which is missing: pip install virtualenv, or "
                "give python, the interpreter of an environment that has the packages"
            )

    @property
    def needed(self) -> dict[str, float]:
        """Resources of one actor by Ray's names."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}

    def of_actor(self) -> dict[str, Any]:
        """The options of an actor in Ray's form."""
        parts = {
            "py_executable": None if self.python is None else str(self.python),
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
    """A critic that runs in Ray actors and returns exactly their scores.

    Each actor is a separate Python process on any node of the cluster with the needed resources. When one dies,
    hangs or raises, a new one replaces it and scores the group again. After too many failures the run stops with a
    one-line error, and saved steps are kept.

    When Ray is not running yet, ``RAY_ADDRESS`` names the cluster to join (``auto``: the one on this machine).
    Without it a private Ray is started for this program.
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
            make_critic: called in every actor; it imports the critic's packages inside its body.
            options: of the actors; one actor on one core when None.
            sleep: waits between two tries.

        Raises:
            UserError: when Ray is not installed or not reachable, no node has the resources, or the critic cannot
                be made.
        """
        self.options = options or RayOptions()
        self._tries, self.at_once = Tries(self.options.tries, sleep), self.options.actors
        self._ray, self._make = connected_ray(), make_critic
        _send_whole(self._ray, make_critic)
        _check_placeable(self._ray, self.options)
        self._free: queue.Queue[_Started] = queue.Queue()
        actors = [self._start() for _ in range(self.options.actors)]
        try:
            ready = [self._wait_for(actor) for actor in actors]
        except self._ray.exceptions.RayError as error:
            why = self._reason(error, self.options.starting)
            raise UserError(f"the critic does not start in Ray: {why}") from None
        name, version = ready[0]
        if version != VERSION:
            raise UserError(
                f"the actors' worldcompass has wire version {version}, the trainer's {VERSION}: install the same "
                "version"
            )
        self.name = self.options.name or name
        for actor in actors:
            self._free.put(actor)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates in the next free actor.

        Raises:
            LostCritic: when every try fails.
        """
        body, count = pack_group(group), len(group.frames_GF3hw)
        return score_with_retries(
            f"the critic {self.name} in Ray", lambda: unpack_scores(self._ask(body), count), self._tries
        )

    @property
    def tries(self) -> tuple[int, int]:
        """Tries so far, and how many of them failed."""
        return self._tries.made, self._tries.failed

    def _ask(self, body: bytes) -> Any:
        actor, limit = self._free.get(), self.options.starting
        try:
            self._wait_for(actor)
            limit = self.options.timeout
            return self._ray.get(actor.handle.score.remote(body), timeout=limit)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor.handle)
            actor = self._start()
            raise FailedTry(self._reason(error, limit)) from error
        finally:
            self._free.put(actor)

    def _start(self) -> _Started:
        handle = self._ray.remote(_Actor).options(**self.options.of_actor()).remote()
        return _Started(handle, handle.begin.remote(self._make))

    def _wait_for(self, actor: _Started) -> tuple[str, int]:
        """The critic's name and the wire version of an actor, once its critic is made."""
        return self._ray.get(actor.ready, timeout=self.options.starting)

    def _reason(self, error: Exception, limit: float) -> str:
        errors = self._ray.exceptions
        if isinstance(error, errors.GetTimeoutError):
            return f"no answer within {limit:g} s"
        if isinstance(error, errors.RayTaskError):  # the critic's own error is the last line of a traceback
            return str(error).strip().splitlines()[-1]
        if isinstance(error, errors.RuntimeEnvSetupError):
            return f"its environment cannot be made: {_install_error(str(error))}"
        return "its process died" if isinstance(error, errors.ActorDiedError) else _first_line(error)


@dataclass(frozen=True)
class _Started:
    """A started actor."""

    handle: Any
    ready: Any
    """Ray's reference to the result of ``begin``."""


class _Actor:
    """The code that runs in Ray's process."""

    def begin(self, make_critic: Callable[[], Critic]) -> tuple[str, int]:
        """Make the critic; returns its name and this process's wire version."""
        self.critic = make_critic()
        return self.critic.name, VERSION

    def score(self, body: bytes) -> dict[str, Any]:
        """Packed scores of a packed group."""
        with torch.no_grad():
            return pack_scores(self.critic.name, self.critic(unpack_group(body)))


def _install_error(text: str) -> str:
    """Pip's error line from Ray's long report of a failed installation, or else the report's last line."""
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def connected_ray() -> Any:
    """The module ``ray``, connected to a cluster.

    Raises:
        UserError: when it is not installed, or the cluster is not reachable.
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
    except Exception as error:  # Ray also raises this base class
        raise UserError(f"cannot reach Ray at {address or 'this machine'}: {_first_line(error)}") from error
    return ray


def imported_ray() -> Any:
    """The module ``ray``, restricted to this machine unless ``RAY_ADDRESS`` names a cluster.

    Ray's servers execute commands from any client and listen on all addresses, even when ``ray.init`` gets a
    loopback one. ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` restricts them on Linux too, despite its name. Ray reads
    it on import.

    Raises:
        UserError: when it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # runs send no usage data
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise UserError("a critic on Ray needs the extra ray: pip install 'worldcompass[ray]'") from None
    return ray


def start_ray(ray: Any, **options: Any) -> None:
    """Start a private Ray for this program that listens only on loopback.

    Args:
        ray: the module, from ``imported_ray``.
        options: of ``ray.init``.

    Raises:
        UserError: when other machines could reach it.
    """
    for left in reversed(range(RAY_STARTS)):
        try:
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=LOOPBACK_ADDRESS,
                **options,
            )
            break
        except Exception:  # Ray raises this base class when its start takes too long
            ray.shutdown()
            if not left:
                raise
    if ray.util.get_node_ip_address() != LOOPBACK_ADDRESS:
        ray.shutdown()
        raise UserError(
            "Ray would listen to other machines, as it was imported before the setting that prevents it: import it "
            "after the critic is made, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
        )


def _check_placeable(ray: Any, options: RayOptions) -> None:
    needed, python = options.needed, options.python
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(what, 0) >= number for what, number in needed.items()) for node in nodes):
        wanted = ", ".join(f"{what} {number:g}" for what, number in needed.items() if number)
        raise UserError(
            f"no node of Ray has the resources of an actor of the critic ({wanted}): start one that has them"
        )
    # Interpreters on other nodes cannot be checked from here.
    if python is not None and len(nodes) == 1 and shutil.which(python) is None:
        raise UserError(
            f"there is no interpreter {python} on this machine, which is Ray's only node: correct its path"
        )


def _send_whole(ray: Any, make_critic: Callable[[], Critic]) -> None:
    """Send a function of a recipe's file together with the file's classes, as actors cannot import the file."""
    module = sys.modules.get(getattr(make_critic, "__module__", ""))
    if (
        module is not None
        and importlib.machinery.PathFinder.find_spec(module.__name__.partition(".")[0]) is None
    ):
        ray.cloudpickle.register_pickle_by_value(module)
