"""The HTTP interface: imagine a clip along a path, score a clip (``serving.scoring``), health."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from pathlib import Path

import torch
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.video import write_mp4
from worldcompass.player.messages import LARGEST_SEED
from worldcompass.player.panes import Pane, WorldPane
from worldcompass.player.session import Shared, in_worker, read_path
from worldcompass.player.starts import MAX_UPLOAD_BYTES, Start
from worldcompass.serving.scoring import (
    MAX_PATH_CHARACTERS,
    MAX_SCORED_LATENTS,
    Scorer,
    Turn,
    identity,
    score_route,
)
from worldcompass.world import WorldSpec

MAX_GROUP_BYTES = 64 * 2**20  # ten times a group of this world's candidates
MAX_WAITING = 4  # requests in the queue; more are refused


class ImagineRequest(BaseModel):
    """A walk to imagine from ``start`` or ``image``; without both, from the first start of the gallery."""

    model_config = ConfigDict(extra="forbid")
    path: str = Field(max_length=MAX_PATH_CHARACTERS, examples=["w-3, right-1, w+left-4"])
    start: str | None = Field(None, max_length=200, description="id of a start, as listed by /starts")
    image: str | None = Field(
        None, max_length=MAX_UPLOAD_BYTES * 4 // 3 + 4, description="PNG or JPEG, base64"
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    pane: str | None = Field(None, max_length=40, description="Before or After; the last world by default")


async def imagine(pane: Pane, start: Start, composites_M: tuple[int, ...], seed: int) -> Tensor:
    """The frames of a walk, uint8 (F, 3, h, w); every step queues with those of the players."""
    place = await in_worker(pane, pane.begin, start, seed)
    frames = [place.frames_F3hw]
    while len(place.composites_M) < len(composites_M):
        place = await in_worker(pane, place.step, composites_M[len(place.composites_M)])
        frames.append(place.frames_F3hw)
    return torch.cat(frames)


class Health(BaseModel):
    """The state of the server."""

    status: str = Field(examples=["ok"])
    panes: list[str] = Field(description="names of the panes, left to right")
    version: str = Field(description="of worldcompass")
    critic: str | None = Field(description="that scores a trainer's groups; null without one")
    wire: int = Field(description="version of the messages between trainer and critic")


def routes(shared: Shared, worlds: tuple[WorldPane, ...]) -> APIRouter:
    """``/imagine``, ``/score`` and ``/health``."""
    router, turn = APIRouter(), Turn(MAX_WAITING)
    spec = worlds[-1].world.spec

    @router.get("/health", summary="State of the server, its panes and critics")
    async def health() -> Health:
        panes = [pane.name for pane in shared.panes]
        return Health(status="ok", panes=panes, **identity(shared.fittings.critics))

    @router.post(
        "/imagine",
        summary="A clip along a path, as MP4",
        response_class=Response,
        responses={200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def post_imagine(request: ImagineRequest) -> Response:
        wanted = read_path(shared.space, request.path, MAX_SCORED_LATENTS)
        pane = _pane_of(worlds, request.pane)
        start = await asyncio.to_thread(_start_of, shared, request)
        async with turn:
            frames = await imagine(pane, start, wanted, request.seed)
            mp4 = await asyncio.to_thread(_mp4_bytes, frames[: spec.num_frames(0, len(wanted))], spec.fps)
        return Response(mp4, media_type="video/mp4")

    router.include_router(score_route(_scorer(shared, spec), turn))
    return router


def _scorer(shared: Shared, spec: WorldSpec) -> Scorer:
    fittings = shared.fittings
    return Scorer(fittings.critics, spec, fittings.reader, max_group_bytes=MAX_GROUP_BYTES)


def _pane_of(worlds: tuple[WorldPane, ...], name: str | None) -> WorldPane:
    for pane in reversed(worlds):
        if name is None or pane.name.lower() == name.lower():
            return pane
    raise UserError(f"there is no world {name!r}: expected {' or '.join(pane.name for pane in worlds)}")


def _start_of(shared: Shared, request: ImagineRequest) -> Start:
    if request.image is not None:
        return shared.start_from(_bytes_of(request.image))
    if request.start is not None:
        return shared.starts.find(request.start)
    return shared.starts.first()


def _bytes_of(base64_text: str) -> bytes:
    try:
        return base64.b64decode(base64_text, validate=True)
    except ValueError as why:  # covers binascii.Error; characters outside ASCII raise ValueError itself
        raise UserError("the image is not base64: encode the bytes of a PNG or JPEG file") from why


def _mp4_bytes(frames_F3hw: Tensor, fps: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="worldcompass-imagine-") as folder:
        return write_mp4(Path(folder) / "clip.mp4", frames_F3hw, fps).read_bytes()
