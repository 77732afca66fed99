"""The player's web server: pages, starts, recordings, and the WebSocket of a walk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.websockets import WebSocketDisconnect, WebSocketState

from worldcompass.errors import UserError
from worldcompass.player import api, ballot
from worldcompass.player.ballot import Ballot
from worldcompass.player.messages import MAX_MESSAGE_BYTES, Hello, key_cards, mouse_words, read_message
from worldcompass.player.panes import WorldPane
from worldcompass.player.session import MAX_WALK_LATENTS, Send, Session, Shared
from worldcompass.player.sessions import Sessions
from worldcompass.player.starts import (
    MAX_PICTURES,
    MAX_UPLOAD_BYTES,
    OWN,
    Start,
    data_url,
)
from worldcompass.serving.guard import Guard, Rate
from worldcompass.serving.scoring import body_of
from worldcompass.version import __version__

MESSAGES_PER_SECOND, MESSAGE_BURST = 60.0, 120.0
MAX_MISTAKES = 20  # unreadable messages after which a connection is closed
HELLO_SECONDS = 10.0
MAX_CONNECTIONS = 200
CLOSE_BUSY, CLOSE_POLICY = 1013, 1008
END_SECONDS = 1.0  # grace for running requests when the server stops; clips are not finished

log = logging.getLogger("worldcompass.player")


class StartCard(BaseModel):
    """A start as the gallery shows it."""

    id: str = Field(description="for `start` of /imagine")
    title: str
    group: str = Field(description="of the gallery")
    image: str = Field(description="data URL with a PNG")


@dataclass(frozen=True)
class Settings:
    """Settings of the server."""

    about: str = ""
    """One line that names the weights on display."""
    max_sessions: int = 4
    loopback_only: bool = True
    origins: frozenset[str] = frozenset()
    """Names and ports of other addresses, such as of a proxy, whose pages are admitted too."""


def create_app(shared: Shared, settings: Settings, votes: Ballot | None = None) -> FastAPI:
    """The web application. With ``votes`` the front page is the voting page."""
    worlds = tuple(pane for pane in shared.panes if isinstance(pane, WorldPane))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with votes.running() if votes else contextlib.nullcontext():
            yield
        for pane in shared.panes:
            await asyncio.to_thread(pane.close)
        shared.shelf.close()

    app = FastAPI(
        title="WorldCompass player", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(Guard, loopback_only=settings.loopback_only, origins=settings.origins)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(404, _nothing_here)
    app.include_router(api.routes(shared, worlds))
    if votes is not None:
        app.include_router(ballot.routes(votes))
    _add_pages(app, "vote.html" if votes else "page.html")
    _add_starts(app, shared)
    _add_walk(app, shared, settings)
    return app


class _Server(uvicorn.Server):
    """Cancels running requests soon after Ctrl-C; ``Guard`` answers them."""

    async def shutdown(self, sockets: Any = None) -> None:
        asyncio.get_running_loop().call_later(END_SECONDS, self._cancel)
        await super().shutdown(sockets)

    def _cancel(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()


def web_server(app: FastAPI) -> uvicorn.Server:
    """A server for the application with limits on connections and sizes; run it with a bound socket."""
    return _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            ws_max_size=4 * MAX_MESSAGE_BYTES,  # a character may take 4 bytes
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,  # for browsers that stay connected
        )
    )


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400)


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    how = "; /docs describes the expected application/json" if first["loc"][0] == "body" else ""
    return JSONResponse({"detail": f"cannot read {place}: {first['msg']}{how}"}, 422)


NOTHING_HERE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>WorldCompass</title>
<body style="font: 1rem system-ui; margin: 3rem auto; max-width: 34rem; padding: 0 1rem">
<h1>Not found</h1><p>{why}</p><p><a href="/">Open the player</a></p></body></html>"""


async def _nothing_here(request: Request, error: Exception) -> HTMLResponse | JSONResponse:
    """A page for people, JSON for programs."""
    told = isinstance(error, HTTPException)  # by one of our own routes, else by the router
    why = error.detail if told else f"there is nothing at {request.url.path}: the pages are / and /docs"
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(NOTHING_HERE.format(why=escape(why)), 404)
    return JSONResponse({"detail": why}, 404)


def _add_pages(app: FastAPI, front: str) -> None:
    files = resources.files("worldcompass.player")
    pages = {"/": front, "/docs": "docs.html"}
    for address, name in pages.items():
        html = (files / name).read_text(encoding="utf-8")
        app.add_api_route(
            address,
            lambda html=html: HTMLResponse(html),
            include_in_schema=False,
            response_class=HTMLResponse,
        )


def _add_starts(app: FastAPI, shared: Shared) -> None:
    @app.get("/starts", summary="The starts of walks")
    async def starts(
        own: Annotated[
            list[str] | None,
            Query(max_length=MAX_PICTURES, description="ids of uploaded pictures to include"),
        ] = None,
    ) -> list[StartCard]:
        listed = set(own or ())
        return [_card(start) for start in shared.starts.all() if start.group != OWN or start.id in listed]

    picture = {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")
    }

    @app.post(
        "/pictures",
        summary="Add a picture as a start; the body is the PNG or JPEG file",
        openapi_extra={"requestBody": {"required": True, "content": picture}},
    )
    async def add_picture(request: Request) -> StartCard:
        data = await body_of(request, MAX_UPLOAD_BYTES, "picture")
        start = await asyncio.to_thread(shared.start_from, data)
        shared.starts.add(start)
        return _card(start)

    @app.get("/clips/{name}", include_in_schema=False)
    async def clip(name: str) -> FileResponse:
        path = shared.shelf.find(name)
        if path is None:
            raise HTTPException(404, "this recording was deleted: record again")
        return FileResponse(path, filename=f"worldcompass{path.suffix}")


def _card(start: Start) -> StartCard:
    return StartCard(id=start.id, title=start.title, group=start.group, image=data_url(start.image_3hw))


def _add_walk(app: FastAPI, shared: Shared, settings: Settings) -> None:
    sessions = Sessions(shared, settings.max_sessions)

    @app.websocket("/walk")
    async def walk(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await _welcome(socket, sessions, shared, settings)
        except (WebSocketDisconnect, TimeoutError):
            pass  # the browser left or stopped receiving; its walk stays parked
        finally:
            if socket.application_state is WebSocketState.CONNECTED:
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await socket.close()


async def _welcome(socket: WebSocket, sessions: Sessions, shared: Shared, settings: Settings) -> None:
    try:
        hello = read_message(await asyncio.wait_for(_text_of(socket), HELLO_SECONDS))
        if not isinstance(hello, Hello):
            raise UserError("the first message must be a hello: reload the page")
        token, session = sessions.enter(hello.token)
    except UserError as error:
        await socket.send_json({"type": "refused", "text": str(error)})
        await socket.close(CLOSE_BUSY)
        return
    try:
        panes = [pane.name for pane in shared.panes]
        spec, space = shared.world.spec, shared.space
        facts = {"panes": panes, "fps": shared.fps, "about": settings.about, "longest": MAX_WALK_LATENTS}
        facts |= {
            "keys": key_cards(space),
            "look": mouse_words(space),
            "example": ", ".join(space.examples),
            "size": list(spec.frame_size),
            "guide": shared.fittings.guide,
            "reads": shared.fittings.reader is not None,
        }
        known = session.start is not None
        await socket.send_json({"type": "welcome", "token": token, "known": known, **facts})
        await _converse(socket, session)
    finally:
        sessions.leave(token)


async def _converse(socket: WebSocket, session: Session) -> None:
    """Listen and walk concurrently until either ends; log errors other than a lost connection."""
    send = Send(socket.send_json, socket.send_bytes)
    for end in await session.run(send, _listen(socket, session, send)):
        if isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, TimeoutError)):
            log.error("a walk failed", exc_info=end)


async def _listen(socket: WebSocket, session: Session, send: Send) -> None:
    rate, mistakes = Rate(MESSAGES_PER_SECOND, MESSAGE_BURST), 0
    while mistakes < MAX_MISTAKES:
        text = await _text_of(socket)
        if not rate.take():
            await send.text({"type": "refused", "text": "too many messages: reload the page"})
            break
        try:
            message = read_message(text)
            if isinstance(message, Hello):
                raise UserError("unexpected second hello: reload the page")
            session.hear(message)
        except UserError as error:
            mistakes += 1
            await send.text({"type": "error", "text": str(error)})
    await socket.close(CLOSE_POLICY)


async def _text_of(socket: WebSocket) -> str:
    """The next text message; a binary one gives an empty text, which is refused as unreadable."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return message.get("text") or ""
