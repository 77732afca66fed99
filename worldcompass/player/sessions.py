"""The sessions of a server: their limit, and the return to a walk after a lost connection."""

from __future__ import annotations

import asyncio
import secrets

from worldcompass.errors import UserError
from worldcompass.player.session import Session, Shared

PARKED_SECONDS = 60.0  # a walk waits for its browser to return


class Sessions:
    """Walks by token. A session is open while its browser is connected, then parked, then deleted."""

    def __init__(self, shared: Shared, most: int) -> None:
        self.shared, self.most = shared, most
        self.open: dict[str, Session] = {}
        self.parked: dict[str, Session] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def enter(self, token: str) -> tuple[str, Session]:
        """The parked session of this token, or a new session with a new token.

        Raises:
            UserError: when all sessions are in use.
        """
        if len(self.open) >= self.most:
            raise UserError(
                f"all {self.most} sessions of this player are in use: close another tab, then reload"
            )
        session = self._drop(token)
        if session is None:
            token, session = secrets.token_urlsafe(16), Session(self.shared)
        self.open[token] = session
        return token, session

    def leave(self, token: str) -> None:
        """Park the walk of a disconnected browser; the oldest of more than ``most`` is deleted."""
        self.parked[token] = self.open.pop(token)
        loop = asyncio.get_running_loop()
        self._timers[token] = loop.call_later(PARKED_SECONDS, self._drop, token)
        while len(self.parked) > self.most:
            self._drop(next(iter(self.parked)))

    def _drop(self, token: str) -> Session | None:
        timer = self._timers.pop(token, None)
        if timer is not None:
            timer.cancel()
        return self.parked.pop(token, None)
