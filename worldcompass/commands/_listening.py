"""Where a server of this package listens, and the address that it prints."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from worldcompass.errors import UserError

ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # every address of this machine
PORTS = {"http": 80, "https": 443}  # of a scheme's own, which browsers leave out


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
    except (OSError, UnicodeError) as why:  # the second for what can be no name of a host
        number = why.errno if isinstance(why, OSError) and not isinstance(why, socket.gaierror) else None
        wrong_host = number in (None, errno.EADDRNOTAVAIL)
        remedy = "name an address of this machine with --host" if wrong_host else "choose another with --port"
        said = getattr(why, "strerror", None) or why
        raise UserError(f"cannot listen on {host} port {port}: {said}; {remedy}") from why
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """The address to open, such as ``http://[::1]:8765``; of a server that listens everywhere, this machine's."""
    name = "localhost" if host in ANYWHERE or host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def origins_of(addresses: Sequence[str]) -> frozenset[str]:
    """Names and ports of the addresses of ``--origin``, as a browser sends them.

    Raises:
        UserError: for something that is no address of a page.
    """
    return frozenset(map(_sent, addresses))


def _sent(address: str) -> str:
    """Name and port of an address: the name in small letters, the port left out if it is the scheme's own."""
    wrong = UserError(f"--origin is {address}: expected an address such as https://play.example.org")
    try:
        place = urlsplit(address)
        name, port = place.hostname, place.port
    except ValueError:  # a bracket without its pair, or a port that is no number
        raise wrong from None
    if place.scheme not in PORTS or not name:
        raise wrong
    name = f"[{name}]" if ":" in name else name
    return name if port in (None, PORTS[place.scheme]) else f"{name}:{port}"
