"""The HTTP interface: imagine a clip along a path, score any clip, health. Thin handlers over plain functions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from worldcompass import __version__
from worldcompass.errors import UserError
from worldcompass.geometry import action_name
from worldcompass.player.gauges import Reader, relative_sharpness
from worldcompass.player.messages import LARGEST_SEED, MAX_PATH_CHARACTERS
from worldcompass.player.panes import Pane, WorldPane
from worldcompass.player.session import Shared, in_worker, read_path
from worldcompass.player.starts import MAX_UPLOAD_BYTES, Start, start_from_picture
from worldcompass.video import write_mp4

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


def score(
    frames_F3hw: Tensor, labels_M: tuple[int, ...], frames_per_latent: int, reader: Reader
) -> ScoreResponse:
    """Score a video that begins with its start image; frames past the path's end are left out.

    Raises:
        UserError: when the video is shorter than the path.
    """
    needed = frames_per_latent * (len(labels_M) - 1) + 1
    if len(frames_F3hw) < needed:
        raise UserError(f"the video has {len(frames_F3hw)} frames, the path needs {needed}: shorten the path")
    frames = frames_F3hw[:needed]
    seen = reader(frames[None])[0].tolist()
    pairs = list(zip(labels_M[1:], seen[1:], strict=True))
    latents = [LatentScore(commanded=action_name(a), seen=action_name(b), obeyed=a == b) for a, b in pairs]
    accuracy = sum(latent.obeyed for latent in latents) / max(1, len(latents))
    return ScoreResponse(
        accuracy=accuracy, sharpness=relative_sharpness(frames[-1], frames[0]), latents=latents
    )


def read_video(data: bytes, max_frames: int) -> Tensor:
    """The first frames of a video file, uint8 (F, 3, h, w).

    Raises:
        UserError: when it is no video that can be read, or its pictures are too large.
    """
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_VIDEO_PIXELS:
                raise UserError(
                    f"the video is {stream.width} x {stream.height}: scale it to 1920 x 1080 or less"
                )
            frames = []
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == max_frames:
                    break
    except (FFmpegError, IndexError) as why:
        raise UserError("this file is not a video that can be read: send an MP4 file") from why
    if not frames:
        raise UserError("the video has no frames: send another")
    return torch.from_numpy(np.stack(frames)).movedim(-1, 1)


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
        if shared.reader is None:
            raise UserError("this player has no critic: start it with the embedded world")
        labels = read_path(path, MAX_LATENTS)
        data = await body_of(request, MAX_VIDEO_BYTES)
        async with turn:
            frames = await asyncio.to_thread(read_video, data, spec.num_frames(0, len(labels)))
            return await asyncio.to_thread(score, frames, labels, spec.frames_per_latent, shared.reader)

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
