"""The server's part of the blind study: prepares pairs of clips, shows them without names, stores the votes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from worldcompass.errors import UserError
from worldcompass.media.video import enlarge, to_array, write_mp4
from worldcompass.player.api import imagine
from worldcompass.player.messages import key_cards
from worldcompass.player.panes import WorldPane
from worldcompass.player.session import Shared
from worldcompass.player.starts import Start
from worldcompass.player.votes import Verdict, Vote, append_vote

CLIP_LATENTS = 16  # of each clip: 4 chunks
PIXELS = 480  # approximate width of a clip
KEPT_PAIRS = 8  # shown pairs without an answer; the oldest is dropped

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Pair:
    """Two clips with the same start, commands and noise."""

    token: str
    start: Start
    seed: int
    composites_M: tuple[int, ...]
    left: Side


class Answer(BaseModel):
    """A voter's answers about a pair."""

    model_config = ConfigDict(extra="forbid")
    pair: str
    follows: Literal["left", "right", "tie"]
    looks: Literal["left", "right", "tie"]


class Ballot:
    """Prepares the next pair while the voter watches one."""

    def __init__(
        self, shared: Shared, worlds: tuple[WorldPane, WorldPane], names: tuple[str, str], file: Path,
        latents: int = CLIP_LATENTS,
    ) -> None:  # fmt: skip
        self.shared, self.names, self.file, self.latents = shared, names, file, latents
        self.worlds: dict[Side, WorldPane] = {"before": worlds[0], "after": worlds[1]}
        self.pairs: dict[str, Pair] = {}
        self.answered = 0
        self._random = random.SystemRandom()
        self._folder = tempfile.TemporaryDirectory(prefix="worldcompass-votes-")
        self._next: asyncio.Task[Pair] | None = None
        self._lock = asyncio.Lock()

    async def next_pair(self) -> Pair:
        """The prepared pair; starts to prepare another one."""
        async with self._lock:
            task, self._next = self._next or asyncio.create_task(self._prepare()), None
            pair = await task
            self._next = asyncio.create_task(self._prepare())
        self.pairs[pair.token] = pair
        for token in list(self.pairs)[:-KEPT_PAIRS]:
            self._forget(token)
        return pair

    async def _prepare(self) -> Pair:
        start = self._random.choice([s for s in self.shared.starts.all() if s.composites_M])
        labels = start.composites_M[: self.latents + 1]
        side: Side = self._random.choice(("before", "after"))
        pair = Pair(secrets.token_urlsafe(12), start, self._random.randrange(2**31), labels, side)
        clips = await asyncio.gather(
            *(imagine(pane, start, labels, pair.seed) for pane in self.worlds.values())
        )
        for name, frames in zip(self.worlds, clips, strict=True):
            shown = "left" if name == pair.left else "right"
            large = enlarge(to_array(frames), max(1, PIXELS // frames.shape[-1]))
            await asyncio.to_thread(write_mp4, self._clip(pair.token, shown), large, self._fps)
        return pair

    @property
    def _fps(self) -> float:
        return self.worlds["after"].world.spec.fps

    def _clip(self, token: str, shown: str) -> Path:
        return Path(self._folder.name) / f"{token}.{shown}.mp4"

    def clip(self, token: str, shown: Literal["left", "right"]) -> Path | None:
        """The file of a clip on display; None for other pairs."""
        return self._clip(token, shown) if token in self.pairs else None

    def answer(self, answer: Answer) -> None:
        """Store a vote.

        Raises:
            UserError: when the pair is not on display, or was answered.
        """
        pair = self.pairs.get(answer.pair)
        if pair is None:
            raise UserError("this pair was answered or has expired: watch the next one")
        right: Side = "after" if pair.left == "before" else "before"
        sides: dict[str, Verdict] = {"left": pair.left, "right": right, "tie": "tie"}
        path = self.shared.space.path(pair.composites_M)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        vote = Vote(
            now, *self.names, pair.start.id, pair.seed, path, pair.left, sides[answer.follows], sides[answer.looks]
        )  # fmt: skip
        append_vote(self.file, vote)
        self.answered += 1
        self._forget(answer.pair)

    def _forget(self, token: str) -> None:
        del self.pairs[token]
        for shown in ("left", "right"):
            self._clip(token, shown).unlink(missing_ok=True)

    def describe(self, pair: Pair) -> dict[str, Any]:
        """The facts about a pair for the voter, which do not reveal the sides."""
        spec = self.worlds["after"].world.spec
        return {
            "pair": pair.token,
            "left": f"/vote/{pair.token}/left.mp4",
            "right": f"/vote/{pair.token}/right.mp4",
            "words": key_cards(self.shared.space),
            "keys": [list(self.shared.space.words(c)) for c in pair.composites_M],
            "frames_per_latent": spec.frames_per_latent,
            "first_latent_frames": spec.first_latent_frames,
            "fps": spec.fps,
            "answered": self.answered,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Stop the preparation and delete the clips on exit."""
        yield
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        self._folder.cleanup()


def routes(ballot: Ballot) -> APIRouter:
    """The routes of the voting page."""
    router = APIRouter(include_in_schema=False)

    @router.post("/vote/next")
    async def next_pair() -> dict[str, Any]:
        return ballot.describe(await ballot.next_pair())

    @router.get("/vote/{token}/{side}.mp4")
    async def clip(token: str, side: Literal["left", "right"]) -> FileResponse:
        path = ballot.clip(token, side)
        if path is None:
            raise HTTPException(404, "this pair was answered or has expired: watch the next one")
        return FileResponse(path, media_type="video/mp4")

    @router.post("/vote")
    async def answer(given: Answer) -> dict[str, int]:
        await asyncio.to_thread(ballot.answer, given)
        return {"answered": ballot.answered}

    return router
