"""The HTTP interface: imagine a clip along a path, score any clip, health. Thin handlers over plain functions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from worldcompass import __version__
from worldcompass import api as package
from worldcompass.errors import UserError
from worldcompass.geometry import action_name
from worldcompass.player.gauges import relative_sharpness
from worldcompass.player.messages import LARGEST_SEED, MAX_PATH_CHARACTERS
from worldcompass.player.panes import Pane, WorldPane
from worldcompass.player.session import Shared, in_worker, read_path
from worldcompass.player.starts import MAX_UPLOAD_BYTES, Start, start_from_picture
from worldcompass.video import read_video, write_mp4
from worldcompass.world import WorldSpec

MAX_LATENTS = 256  # of one request
MAX_VIDEO_BYTES = 64 * 2**20
MAX_VIDEO_PIXELS = 1920 * 1088  # of one frame
MAX_WAITING = 4  # requests that wait for their turn; more are told to come back
BODY_SECONDS = 60.0  # for a request's body to arrive


class ImagineRequest(BaseModel):
    """A walk to imagine. Give ``start`` or ``image``; with neither the first start of the gallery is taken."""

    model_config = ConfigDict(extra="forbid")
    path: str = Field(max_length=MAX_PATH_CHARACTERS, examples=["w-3, right-1, w+left-4"])
    start: str | None = Field(None, max_length=200, description="id of a start, as listed by /starts")
    image: str | None = Field(
        None, max_length=MAX_UPLOAD_BYTES * 4 // 3 + 4, description="PNG or JPEG, base64"
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    pane: str | None = Field(None, max_length=40, description="Before or After; the last world when left out")


class LatentScore(BaseModel):
    """One latent: what was commanded and what the pictures show."""

    commanded: str
    seen: str
    obeyed: bool


class ScoreResponse(BaseModel):
    """How well a video follows a path. Accuracy counts latents whose whole action is seen, from 0 to 1."""

    scores: dict[str, float | None] = Field(
        description="by critic, as worldcompass score prints them; null: abstains"
    )
    accuracy: float
    sharpness: float = Field(description="of the last frame, relative to the first")
    latents: list[LatentScore]


async def imagine(pane: Pane, start: Start, labels_M: tuple[int, ...], seed: int) -> Tensor:
    """The frames of a walk, uint8 (F, 3, h, w); every step waits its turn behind those of the players."""
    place = await in_worker(pane, pane.begin, start, seed)
    frames = [place.frames_F3hw]
    while len(place.labels_M) < len(labels_M):
        place = await in_worker(pane, place.step, labels_M[len(place.labels_M)])
        frames.append(place.frames_F3hw)
    return torch.cat(frames)


def score(frames_F3hw: Tensor, path: str, spec: WorldSpec, shared: Shared) -> ScoreResponse:
    """``worldcompass.score`` by the player's critics, and what its reader sees in every latent.

    Raises:
        UserError: when video and path do not have the same length, or the player has no critic.
    """
    if shared.reader is None:
        raise UserError("this player has no critic: start it with the embedded world")
    scores = package.score(frames_F3hw, path, shared.critics, spec)
    seen = shared.reader(frames_F3hw[None])[0].tolist()
    pairs = list(zip(package.parse(path).tolist()[1:], seen[1:], strict=True))
    latents = [LatentScore(commanded=action_name(a), seen=action_name(b), obeyed=a == b) for a, b in pairs]
    accuracy = sum(latent.obeyed for latent in latents) / max(1, len(latents))
    sharpness = relative_sharpness(frames_F3hw[-1], frames_F3hw[0])
    return ScoreResponse(scores=scores, accuracy=accuracy, sharpness=sharpness, latents=latents)


async def body_of(request: Request, most: int) -> bytes:
    """A request's body, never more than ``most`` bytes of it in memory.

    Raises:
        HTTPException: 413 when it is larger, 408 when it takes too long.
    """

    async def chunks() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise HTTPException(413, f"the file has more than {most >> 20} MiB: send a smaller one")
            yield chunk

    try:
        async with asyncio.timeout(BODY_SECONDS):
            return b"".join([chunk async for chunk in chunks()])
    except TimeoutError as why:
        raise HTTPException(408, "the file took too long to arrive: send it again") from why


class _Turn:
    """Requests that compute go one after another."""

    def __init__(self) -> None:
        self._lock, self._waiting = asyncio.Lock(), 0

    async def __aenter__(self) -> None:
        if self._waiting >= MAX_WAITING:
            raise HTTPException(503, "too many requests are waiting: come back in a minute")
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def routes(shared: Shared, worlds: tuple[WorldPane, ...]) -> APIRouter:
    """``/imagine``, ``/score`` and ``/health``."""
    router, turn = APIRouter(), _Turn()
    spec = worlds[-1].world.spec

    @router.get("/health", summary="Whether the server runs, and what it shows")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "panes": [pane.name for pane in shared.panes]}

    @router.post(
        "/imagine",
        summary="A clip along a path, as MP4",
        response_class=Response,
        responses={200: {"content": {"video/mp4": {}}}},
    )
    async def post_imagine(asked: ImagineRequest) -> Response:
        labels = read_path(asked.path, MAX_LATENTS)
        pane = _pane_of(worlds, asked.pane)
        start = await asyncio.to_thread(_start_of, shared, asked, spec.frame_size)
        async with turn:
            frames = await imagine(pane, start, labels, asked.seed)
            mp4 = await asyncio.to_thread(_mp4_bytes, frames[: spec.num_frames(0, len(labels))], spec.fps)
        return Response(mp4, media_type="video/mp4")

    video = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}

    @router.post(
        "/score",
        summary="How well a clip follows a path; the body is the MP4 file",
        openapi_extra={"requestBody": {"required": True, "content": video}},
    )
    async def post_score(
        request: Request, path: str = Query(max_length=MAX_PATH_CHARACTERS, examples=["w-3, right-1"])
    ) -> ScoreResponse:
        needed = spec.num_frames(0, len(read_path(path, MAX_LATENTS)))
        data = await body_of(request, MAX_VIDEO_BYTES)
        async with turn:
            frames = await asyncio.to_thread(read_video, data, needed, MAX_VIDEO_PIXELS)
            return await asyncio.to_thread(score, frames, path, spec, shared)

    return router


def _pane_of(worlds: tuple[WorldPane, ...], name: str | None) -> WorldPane:
    for pane in reversed(worlds):
        if name is None or pane.name.lower() == name.lower():
            return pane
    raise UserError(f"there is no world {name!r}: expected {' or '.join(pane.name for pane in worlds)}")


def _start_of(shared: Shared, asked: ImagineRequest, frame_size: tuple[int, int]) -> Start:
    if asked.image is not None:
        try:
            return start_from_picture(base64.b64decode(asked.image, validate=True), frame_size)
        except binascii.Error as why:
            raise UserError("the image is not base64: encode the bytes of a PNG or JPEG file") from why
    if asked.start is not None:
        return shared.starts.find(asked.start)
    return shared.starts.first()


def _mp4_bytes(frames_F3hw: Tensor, fps: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="worldcompass-imagine-") as folder:
        return write_mp4(Path(folder) / "clip.mp4", frames_F3hw, fps).read_bytes()
