"""Critics in other processes over plain HTTP, whose packages stay separate from the trainer's.

The server is ``worldcompass serve-reward`` (``serving/scoring.py``), the player, or any server with the same two
addresses: ``GET /health`` returns ``{"critic": name, "wire": 1}``, and ``POST /score`` returns the result of
``wire.pack_scores``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worldcompass.errors import LostCritic, UserError
from worldcompass.rewards.http_json import NotJson, ask_json, is_transient, reason, split_address
from worldcompass.rewards.retry import PATIENCE, FailedTry, Tries, score_with_retries
from worldcompass.rewards.wire import VERSION, pack_group, unpack_scores
from worldcompass.types import Group, Scores


class RemoteCritic:
    """A critic that runs behind HTTP and returns exactly the server's scores.

    A failed try (no connection, timeout, an error, an invalid answer) is repeated. When all tries fail, or the
    server rejects the group, the run stops with a one-line error, and saved steps are kept.
    """

    def __init__(
        self,
        address: str,
        timeout: float = 120.0,
        tries: int = 4,
        name: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        at_once: int = 1,
    ) -> None:
        """Check that the server is a critic.

        Args:
            address: such as ``http://127.0.0.1:8770``.
            timeout: seconds for one group, including the wait for others in flight.
            tries: per group.
            name: of the scores in the log; the critic's name when None.
            sleep: waits between two tries.
            at_once: groups that may be in flight at the same time.

        Raises:
            UserError: when no server answers, or the server is not a critic of this wire version.
        """
        split_address(address, "http://127.0.0.1:8770")
        self.address, self.timeout, self._tries = address.rstrip("/"), timeout, Tries(tries, sleep)
        try:
            health = self._ask("/health", None, PATIENCE)
        except (OSError, NotJson) as error:
            raise UserError(
                f"no critic answers at {self.address} ({reason(error)}): start one with "
                "`worldcompass serve-reward`"
            ) from None
        if not isinstance(health, dict) or health.get("wire") != VERSION or not health.get("critic"):
            raise UserError(
                f"{self.address} is no critic of wire version {VERSION}, its answer is {str(health)[:200]}: "
                "correct the address, or start a server of this version"
            )
        self.name, self.at_once = name or str(health["critic"]), at_once

    def __call__(self, group: Group) -> Scores:
        """Score the candidates on the server.

        Raises:
            LostCritic: when every try fails, or the server rejects the group.
        """
        body, count = pack_group(group), len(group.frames_GF3hw)

        def ask() -> Scores:
            try:
                return unpack_scores(self._ask("/score", body, self.timeout), count)
            except (OSError, NotJson) as error:
                why = reason(error)
                if is_transient(error):
                    raise FailedTry(why) from error
                raise LostCritic(
                    f"the critic {self.name} at {self.address} refuses a group: {why}"
                ) from error

        return score_with_retries(f"the critic {self.name} at {self.address}", ask, self._tries)

    @property
    def tries(self) -> tuple[int, int]:
        """Tries so far, and how many of them failed."""
        return self._tries.made, self._tries.failed

    def _ask(self, path: str, body: bytes | None, timeout: float) -> Any:
        return ask_json(self.address + path, body, timeout, {"Content-Type": "application/octet-stream"})
