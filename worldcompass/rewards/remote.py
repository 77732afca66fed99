"""Critics in other processes, over plain HTTP or in Ray actors: their packages never meet the trainer's.

Over HTTP ``worldcompass serve-reward`` is the other end (``scoring.py``), and so are the player and any server that
answers the same two addresses: ``GET /health`` with ``{"critic": name, "wire": 1}``, and ``POST /score`` with what
``wire.pack_scores`` makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worldcompass.errors import LostCritic, UserError
from worldcompass.rewards.http_json import NotJson, ask_json, may_pass, reason
from worldcompass.rewards.retry import PATIENCE, FailedTry, Tries, insist
from worldcompass.rewards.wire import VERSION, pack_group, unpack_scores
from worldcompass.types import Group, Scores

LOOPBACK = "127.0.0.1"


class RemoteCritic:
    """Scores what a critic behind HTTP scores, number by number the same.

    A try that fails (no connection, too slow, an error, an answer that is none) is made again; when all have
    failed, or the server refuses the group, the run ends with one sentence, and what it learned is kept.
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
        """Ask the server who it is.

        Args:
            address: such as ``http://127.0.0.1:8770``.
            timeout: seconds for one group, waiting for others of ``at_once`` included.
            name: under which scores are logged; the critic's own when None.
            at_once: groups that are sent without waiting for the one before.

        Raises:
            UserError: when nobody answers, or somebody else does.
        """
        self.address, self.timeout, self._tries = address.rstrip("/"), timeout, Tries(tries, sleep)
        try:
            told = self._ask("/health", None, PATIENCE)
        except (OSError, NotJson) as error:
            raise UserError(
                f"no critic answers at {self.address} ({reason(error)}): start one with "
                "`worldcompass serve-reward`"
            ) from None
        if not isinstance(told, dict) or told.get("wire") != VERSION or not told.get("critic"):
            raise UserError(
                f"{self.address} is no critic of wire version {VERSION}: it said {str(told)[:200]}"
            )
        self.name, self.at_once = name or str(told["critic"]), at_once

    def __call__(self, group: Group) -> Scores:
        """Score the candidates there.

        Raises:
            LostCritic: when every try has failed, or the server refuses the group.
        """
        body, count = pack_group(group), len(group.frames_GF3hw)

        def ask() -> Scores:
            try:
                return unpack_scores(self._ask("/score", body, self.timeout), count)
            except (OSError, NotJson) as error:
                why = reason(error)
                if may_pass(error):
                    raise FailedTry(why) from error
                raise LostCritic(
                    f"the critic {self.name} at {self.address} refuses a group: {why}"
                ) from error

        return insist(f"the critic {self.name} at {self.address}", ask, self._tries)

    @property
    def tries(self) -> tuple[int, int]:
        """Tries made so far, and those of them that failed."""
        return self._tries.made, self._tries.failed

    def _ask(self, path: str, body: bytes | None, timeout: float) -> Any:
        return ask_json(self.address + path, body, timeout, {"Content-Type": "application/octet-stream"})
