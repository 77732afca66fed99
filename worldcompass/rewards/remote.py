"""A critic in another process, over plain HTTP: its packages never meet the trainer's.

``worldcompass serve-reward`` is the other end (``scoring.py``), and so are the player and any server that answers
the same two addresses: ``GET /health`` with ``{"critic": name, "wire": 1}``, and ``POST /score`` with what
``wire.pack_scores`` makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worldcompass.errors import UserError
from worldcompass.rewards.http_json import NotJson, ask_json, pauses, reason
from worldcompass.rewards.wire import VERSION, WireError, pack_group, unpack_scores
from worldcompass.types import Group, Scores

PATIENCE = 5.0  # seconds for a first answer


class RemoteCritic:
    """Scores what a critic elsewhere scores, number by number the same.

    A try that fails (no connection, too slow, an error, an answer that is none) is made again; when all have failed
    the run ends with one sentence, and what it saved is kept.
    """

    def __init__(
        self,
        address: str,
        timeout: float = 120.0,
        tries: int = 4,
        name: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask the server who it is.

        Args:
            address: such as ``http://127.0.0.1:8770``.
            timeout: seconds for one group.
            name: under which scores are logged; the critic's own when None.

        Raises:
            UserError: when nobody answers, or somebody else does.
        """
        self.address, self.timeout, self.tries, self.sleep = address.rstrip("/"), timeout, tries, sleep
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
        self.name = name or str(told["critic"])

    def __call__(self, group: Group) -> Scores:
        """Score the candidates there.

        Raises:
            UserError: when every try has failed.
        """
        body, why = pack_group(group), ""
        for pause in pauses(self.tries):
            if pause:
                self.sleep(pause)
            try:
                return unpack_scores(self._ask("/score", body, self.timeout), len(group.frames_GF3hw))
            except (OSError, NotJson, WireError) as error:
                why = reason(error)
        raise UserError(
            f"the critic {self.name} at {self.address} failed {self.tries} times, the last time: {why}. Mend it "
            "and go on with --resume: what was saved is kept"
        )

    def _ask(self, path: str, body: bytes | None, timeout: float) -> Any:
        headers = {"Content-Type": "application/octet-stream"}
        return ask_json(self.address + path, body, timeout, headers)
