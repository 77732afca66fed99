"""The handler of ``POST /score`` for the player and for ``worldcompass serve-reward``.

With ``?path=`` the body is a video that should follow the path. Without it, the body is a group from a trainer's
``RemoteCritic``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, Field
from torch import Tensor

from worldcompass.critic import Critic, FailedCritic, ask
from worldcompass.errors import UserError
from worldcompass.rewards.quality import relative_sharpness
from worldcompass.rewards.video_score import read_for, score_video
from worldcompass.rewards.wire import MAX_BYTES, VERSION, WireError, pack_scores, unpack_group
from worldcompass.serving.guard import Guard
from worldcompass.version import __version__
from worldcompass.world import WorldSpec

MAX_SCORED_LATENTS = 256  # of one video
MAX_PATH_CHARACTERS = 18 * MAX_SCORED_LATENTS  # one entry per latent, such as "w+d+right+down-1, "
MAX_VIDEO_BYTES = 64 * 2**20
MAX_VIDEO_PIXELS = 1920 * 1088  # of one frame
BODY_SECONDS = 60.0  # for a request's body to arrive

Reader = Callable[[Tensor], Tensor]
"""Reads the composite actions (P, M) of P videos from their frames, such as ``LabelReader.labels``."""


@dataclass(frozen=True)
class Scorer:
    """The critics of this server."""

    critics: tuple[Critic, ...]
    """All score videos; the first also scores a trainer's groups."""
    spec: WorldSpec
    """Of the world that the critics know."""
    reader: Reader | None = None
    """Reads the action of every latent of a video."""
    max_group_bytes: int = MAX_BYTES


class LatentScore(BaseModel):
    """The commanded action of one latent, and the action that its frames show."""

    commanded: str
    seen: str
    obeyed: bool


class VideoScores(BaseModel):
    """How well a video follows a path."""

    scores: dict[str, float | None] = Field(
        description="by critic, as printed by worldcompass score; null when a critic abstains"
    )
    sharpness: float = Field(description="of the last frame, relative to the first")
    accuracy: float | None = Field(
        description="share of latents that show the whole commanded action; null without a reader"
    )
    latents: list[LatentScore]


class GroupScores(BaseModel):
    """One critic's scores of a group's candidates; ``valid`` is false where it abstains."""

    critic: str
    values: list[float]
    valid: list[bool]


class Turn:
    """A lock for requests that compute, one at a time, with a limited queue.

    Args:
        max_waiting: length of the queue; further requests get a 503. Unlimited when None.
    """

    def __init__(self, max_waiting: int | None = None) -> None:
        self._lock, self._waiting, self._max_waiting = asyncio.Lock(), 0, max_waiting

    async def __aenter__(self) -> None:
        if self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise HTTPException(503, "too many requests are waiting: try again in a minute")
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def score_route(scorer: Scorer, turn: Turn) -> APIRouter:
    """A router with the handler of ``POST /score``."""
    router = APIRouter()
    binary = {"schema": {"type": "string", "format": "binary"}}

    @router.post(
        "/score",
        summary="Score how well a video follows a path (the body is the MP4 file), or, without a path, a group (the"
        " body is safetensors)",
        response_model=VideoScores | GroupScores,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"video/mp4": binary, "application/octet-stream": binary},
            }
        },
    )
    async def post_score(
        request: Request,
        path: str | None = Query(None, max_length=MAX_PATH_CHARACTERS, examples=["w-3, right-1"]),
    ) -> Any:
        limit, what = (scorer.max_group_bytes, "group") if path is None else (MAX_VIDEO_BYTES, "video")
        data = await body_of(request, limit, what)
        async with turn:
            if path is None:
                return await asyncio.to_thread(score_group, data, scorer)
            return await asyncio.to_thread(score_file, data, path, scorer)

    return router


def score_file(data: bytes, path: str, scorer: Scorer) -> VideoScores:
    """``worldcompass.score`` of a video file, and the action that every latent shows.

    Raises:
        HTTPException: 400 when the body is not a video, or path and video differ in length.
    """
    space = scorer.spec.actions
    try:
        wanted_M = space.parse(path, MAX_SCORED_LATENTS)
        frames = read_for(data, wanted_M, scorer.spec, MAX_VIDEO_PIXELS)
        scores = score_video(frames, scorer.spec.actions.commanded(wanted_M), scorer.critics, scorer.spec)
    except (UserError, ValueError) as why:
        raise HTTPException(400, str(why)) from why
    sharpness = relative_sharpness(frames[-1], frames[0])
    if scorer.reader is None:
        return VideoScores(scores=scores, sharpness=sharpness, accuracy=None, latents=[])
    seen_M = scorer.reader(frames[None])[0].tolist()
    pairs = list(zip(wanted_M.tolist(), seen_M, strict=True))[1:]  # the start image has no command
    latents = [LatentScore(commanded=space.name(a), seen=space.name(b), obeyed=a == b) for a, b in pairs]
    accuracy = sum(latent.obeyed for latent in latents) / max(1, len(latents))
    return VideoScores(scores=scores, sharpness=sharpness, accuracy=accuracy, latents=latents)


def score_group(body: bytes, scorer: Scorer) -> GroupScores:
    """The first critic's scores of a group.

    Raises:
        HTTPException: 422 when the body is not a group, or the critic cannot score this group; 500 when it fails.
    """
    if not scorer.critics:
        raise HTTPException(422, "this server has no critic: start it with one")
    critic = scorer.critics[0]
    try:
        return GroupScores(**pack_scores(critic.name, ask(critic, unpack_group(body))))
    except WireError as why:
        raise HTTPException(422, f"{why}; to score a video, give its path with ?path=") from why
    except FailedCritic as why:
        refused = isinstance(why.__cause__, ValueError | None)  # other errors may pass, such as a full device
        raise HTTPException(422 if refused else 500, f"the critic {critic.name} {why}") from why
    except UserError as why:
        raise HTTPException(500, str(why)) from why


async def body_of(request: Request, limit: int, what: str = "body") -> bytes:
    """A request's body; at most ``limit`` bytes of it are held in memory.

    Args:
        request: whose body is read.
        limit: in bytes.
        what: its name in error messages.

    Raises:
        HTTPException: 413 when the body is larger, 408 when it takes too long.
    """

    async def chunks() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise HTTPException(413, f"the {what} has more than {limit >> 20} MiB: send a smaller one")
            yield chunk

    try:
        async with asyncio.timeout(BODY_SECONDS):
            return b"".join([chunk async for chunk in chunks()])
    except TimeoutError as why:
        raise HTTPException(408, f"the {what} took too long to arrive: send it again") from why


def identity(critics: Sequence[Critic]) -> dict[str, Any]:
    """The answer of ``/health``, by which a ``RemoteCritic`` identifies its server."""
    return {"version": __version__, "critic": critics[0].name if critics else None, "wire": VERSION}


def application(critic: Critic, spec: WorldSpec, loopback_only: bool = True) -> FastAPI:
    """The server of ``worldcompass serve-reward``: ``GET /health`` and ``POST /score``.

    It refuses pages of other sites, and with ``loopback_only`` also requests to a foreign host name.
    """
    title = f"WorldCompass critic {critic.name}"
    app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, loopback_only=loopback_only)

    @app.get("/health", summary="The critic of this server")
    async def health() -> dict[str, Any]:
        return identity((critic,))

    app.include_router(score_route(Scorer((critic,), spec), Turn()))
    return app
