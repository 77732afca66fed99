"""A real server on a free port, with toy worlds unless said otherwise, and small clients for it."""

import contextlib
import json
import logging
import socket
import threading
import urllib.error
import urllib.request

import cv2
import numpy as np
import torch
from websockets.sync.client import connect

from worldcompass.player.messages import unpack_pictures
from worldcompass.player.panes import WorldPane
from worldcompass.player.recording import Shelf
from worldcompass.player.server import Settings, create_app, web_server
from worldcompass.player.session import Shared
from worldcompass.player.starts import Start, Starts
from worldcompass.seeding import generator_for
from worldcompass.toy import ToyWorld
from worldcompass.worlds.doom.player import SEEN

FPS = 200.0  # quick tests; pacing has a test of its own


def toy_starts(count=2, size=(4, 4)):
    images = torch.randint(0, 255, (count, 3, *size), generator=generator_for("starts")).byte()
    return Starts(tuple(Start(f"toy/{i}", f"toy {i}", SEEN, image) for i, image in enumerate(images)))


def toy_shared(fps=FPS, seeds=(0, 1), starts=None):
    panes = tuple(
        WorldPane(name, ToyWorld(seed), 2) for name, seed in zip(("Before", "After"), seeds, strict=True)
    )
    return Shared(panes, starts or toy_starts(), Shelf(), fps)


@contextlib.contextmanager
def running(shared, settings=None, votes=None):
    """The port of a server that runs in a thread until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = web_server(create_app(shared, settings or Settings(), votes))
    logging.getLogger("uvicorn").propagate = True  # so that a test's caplog hears of every traceback
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


class Browser:
    """What the page does, without a picture."""

    def __init__(self, port, token="", **options):
        self.socket = connect(f"ws://127.0.0.1:{port}/walk", max_size=None, open_timeout=60, **options)
        self.number, self.pictures, self.state = 0, [], None
        self.say(type="hello", token=token)
        self.welcome = self.hear()

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def hear(self, timeout=60):
        message = self.socket.recv(timeout)
        return json.loads(message) if isinstance(message, str) else unpack_pictures(message)

    def until(self, kind, timeout=60, **facts):
        """The next text of this type with these facts; pictures on the way are kept."""
        while True:
            message = self.hear(timeout)
            self._take_in(message)
            if (
                not isinstance(message, tuple)
                and message["type"] == kind
                and all(message.get(name) == value for name, value in facts.items())
            ):
                return message

    def begin(self, start="toy/0", seed=0, path=""):
        """Stand at a start; with a path, walk it to its end."""
        self.say(type="start", start=start, seed=seed, path=path)
        self.until("state", latents=0)
        return self.until("state", replaying=False) if path else None

    def hold(self, *keys):
        self.number += 1
        self.say(type="keys", held=keys, number=self.number)

    def see(self, latent, count=2):
        """Take in what comes until a latent has so many pictures; a toy's latent has 2, its start 1."""
        while sum(header["latent"] == latent for header, _ in self.pictures) < count:
            self._take_in(self.hear())

    def settle(self, timeout=1.0):
        """Take in what still comes."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._take_in(self.hear(timeout))

    def _take_in(self, message):
        if isinstance(message, tuple):
            self.pictures.append(message)
        elif message["type"] == "state":
            self.state = message

    def last_of(self, latent):
        """The last pictures of a latent."""
        return [jpegs for header, jpegs in self.pictures if header["latent"] == latent][-1]

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(port, path, body=None, **headers):
    """Status and body of a request; a body makes it a POST."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def detail(reply):
    return reply[0], json.loads(reply[1])["detail"]


def png(width, height):
    return cv2.imencode(".png", np.full((height, width, 3), 90, np.uint8))[1].tobytes()
