"""A player's server for the tests of a module."""

import pytest


@pytest.fixture(scope="module")
def port():
    """The port of a server with two toy worlds."""
    pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")
    from player_server import running, toy_shared

    with running(toy_shared()) as port:
        yield port
