"""Where a server of this package listens, and the address that it prints."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from worldcompass.errors import UserError

ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # every address of this machine


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, IPv4 or IPv6, opened first so that a busy port is reported before anything is loaded.

    Raises:
        UserError: when there is no such address here, or the port is taken.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as why:
        wrong_host = isinstance(why, socket.gaierror) or why.errno == errno.EADDRNOTAVAIL
        remedy = "name an address of this machine with --host" if wrong_host else "choose another with --port"
        raise UserError(f"cannot listen on {host} port {port}: {why.strerror or why}; {remedy}") from why
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """The address to open, such as ``http://[::1]:8765``; of a server that listens everywhere, this machine's."""
    name = "localhost" if host in ANYWHERE or host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def origins_of(addresses: Sequence[str]) -> frozenset[str]:
    """Names and ports of the addresses of ``--origin``.

    Raises:
        UserError: for something that is no address of a page.
    """
    places = {address: urlsplit(address) for address in addresses}
    for address, place in places.items():
        if place.scheme not in ("http", "https") or not place.netloc:
            raise UserError(f"--origin is {address}: expected an address such as https://play.example.org")
    return frozenset(place.netloc for place in places.values())
