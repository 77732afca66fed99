"""Serve a critic over HTTP to trainers on other machines or with other packages (``worldcompass serve-reward``)."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from worldcompass import __version__
from worldcompass.rewards import Critic
from worldcompass.rewards.wire import MAX_BYTES, VERSION, WireError, pack_scores, unpack_group


def routes(critic: Critic) -> APIRouter:
    """``GET /health`` and ``POST /score``; one group at a time, since critics share what they run on."""
    router, turn = APIRouter(), threading.Lock()

    def score(body: bytes) -> dict[str, Any]:
        group = unpack_group(body)
        with turn:
            return pack_scores(critic.name, critic(group))

    @router.get("/health", summary="Which critic answers here")
    async def health() -> dict[str, Any]:
        return {"critic": critic.name, "wire": VERSION, "version": __version__}

    @router.post("/score", summary="Scores of a group, sent as safetensors")
    async def post_score(request: Request) -> dict[str, Any]:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                raise HTTPException(
                    413, f"the group has more than {MAX_BYTES >> 20} MiB: send fewer candidates"
                )
        try:
            return await run_in_threadpool(score, bytes(body))
        except WireError as error:
            raise HTTPException(422, str(error)) from error
        except ValueError as error:  # the critic's own words about a group it cannot score
            raise HTTPException(422, f"{critic.name}: {error}") from error

    return router


def application(critic: Critic) -> FastAPI:
    """The whole server."""
    app = FastAPI(title=f"WorldCompass critic {critic.name}", version=__version__)
    app.include_router(routes(critic))
    return app
