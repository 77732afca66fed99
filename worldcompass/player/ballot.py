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
from worldcompass.judging.votes.controls import BASE, CONTROL_SHARE, CONTROLS, ENGINE, Control, Source
from worldcompass.media.video import enlarge, to_array, write_mp4
from worldcompass.player.api import imagine
from worldcompass.player.messages import key_cards
from worldcompass.player.panes import Pane, WorldPane
from worldcompass.player.session import Shared
from worldcompass.player.starts import Start
from worldcompass.player.votes import Preference, Side, Vote, append_vote
from worldcompass.seeding import generator_for

CLIP_LATENTS = 16  # of each clip: 4 chunks
PIXELS = 480  # approximate width of a clip
KEPT_PAIRS = 8  # shown pairs without an answer; the oldest is dropped
BEFORE, AFTER = Source("before"), Source("after")


@dataclass(frozen=True)
class Duel:
    """The two sides of a pair: worlds before and after training, or the two videos of a control."""

    sides: tuple[tuple[Side, Source], tuple[Side, Source]]
    control: str = ""


WORLDS = Duel((("before", BEFORE), ("after", AFTER)))


@dataclass(frozen=True)
class Pair:
    """Two clips with the same start, commands and noise."""

    token: str
    start: Start
    seed: int
    composites_M: tuple[int, ...]
    left: Side
    duel: Duel = WORLDS

    @property
    def right(self) -> Side:
        """What is on the right."""
        (one, _), (two, _) = self.duel.sides
        return two if self.left == one else one


class Answer(BaseModel):
    """A voter's answers about a pair."""

    model_config = ConfigDict(extra="forbid")
    pair: str
    follows: Literal["left", "right", "tie"]
    looks: Literal["left", "right", "tie"]
    place: Literal["left", "right", "tie"]


class Ballot:
    """Prepares the next pair while the voter watches one."""

    def __init__(
        self, shared: Shared, worlds: tuple[WorldPane, WorldPane], names: tuple[str, str], file: Path,
        latents: int = CLIP_LATENTS, engine: Pane | None = None, control_share: float = CONTROL_SHARE,
    ) -> None:  # fmt: skip
        self.shared, self.names, self.file, self.latents = shared, names, file, latents
        self.control_share = control_share
        self.panes: dict[str, Pane] = {"before": worlds[0], "after": worlds[1]}
        if engine is not None:
            self.panes[ENGINE] = engine
        self.spec = worlds[1].world.spec
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
        duel = self.duel_from(start)
        (one, _), (two, _) = duel.sides
        left = one if self._random.random() < 0.5 else two
        pair = Pair(secrets.token_urlsafe(12), start, self._random.randrange(2**31), labels, left, duel)
        names = list(dict.fromkeys(source.video for _, source in duel.sides))
        found = await asyncio.gather(*(imagine(self.panes[n], start, labels, pair.seed) for n in names))
        videos = dict(zip(names, found, strict=True))
        for side, source in duel.sides:
            shown = "left" if side == pair.left else "right"
            generator = generator_for("vote", pair.seed)
            frames = source.shown(videos[source.video].cpu(), self.spec.first_latent_frames, generator)
            large = enlarge(to_array(frames), max(1, PIXELS // frames.shape[-1]))
            await asyncio.to_thread(write_mp4, self._clip(pair.token, shown), large, self.spec.fps)
        return pair

    def duel_from(self, start: Start) -> Duel:
        """The worlds, or sometimes a control that can be shown from this start."""
        if self._random.random() >= self.control_share:
            return WORLDS
        engine = ENGINE in self.panes and start.plan is not None
        return duel_of(
            self._random.choice([c for c in CONTROLS.values() if engine or c.good.video != ENGINE])
        )

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
        sides: dict[str, Preference] = {"left": pair.left, "right": pair.right, "tie": "tie"}
        path = self.shared.space.path(pair.composites_M)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        vote = Vote(
            now, *self.names, pair.start.id, pair.seed, path, pair.left, sides[answer.follows], sides[answer.looks],
            sides[answer.place], pair.duel.control,
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
        spec = self.spec
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


def duel_of(control: Control) -> Duel:
    """A control as the two sides of a pair; its base is the world before training."""

    def source(of: Source) -> Source:
        return Source("before", of.forgeries) if of.video == BASE else of

    return Duel((("good", source(control.good)), ("bad", source(control.bad))), control.name)


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
