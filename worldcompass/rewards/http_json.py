"""JSON over plain HTTP, from the standard library; shared by all critics that are reached over a network."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from worldcompass.errors import UserError
from worldcompass.runs.reading import parse_json

LOOPBACK_ADDRESS = "127.0.0.1"
LOOPBACK = frozenset({"localhost", LOOPBACK_ADDRESS, "::1"})  # names of this machine itself
PAUSE = 0.5  # seconds before the second try, doubled before each further one
LONGEST_PAUSE = 30.0  # seconds
MAX_ANSWER = 16 * 2**20  # bytes
_PART = 2**16  # bytes per read
# Client errors that may pass with time. All server errors (500 and above) may.
_TRANSIENT = (408, 429)


class NotJson(ValueError):
    """The answer is not JSON, or is too long."""


def split_address(address: str, example: str) -> SplitResult:
    """The parts of a server's address.

    Raises:
        UserError: for something else, such as an address without ``http://``; names the example.
    """
    wrong = UserError(f"{address!r} is no address of a server: expected one such as {example}")
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bracket without its pair, or a port that is no number
        raise wrong from None
    if not known:
        raise wrong
    return parts


def ask_json(
    address: str,
    body: bytes | None,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    key: str = "",
    proxies: bool = False,
) -> Any:
    """Send a GET, or a POST when there is a body, and parse the JSON answer.

    Args:
        address: of the resource.
        body: of the POST.
        timeout: seconds for the whole exchange, also when the answer arrives slowly.
        headers: of the request.
        key: bearer token; not sent to the target of a redirect.
        proxies: use the proxies of the environment. Leave it off between processes of one run: proxies cannot
            reach their loopback addresses.

    Raises:
        OSError: when there is no connection, a timeout, or an HTTP error.
        NotJson: when the answer is not JSON.
    """
    request = urllib.request.Request(address, data=body, headers=dict(headers or {}))
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    handlers = [] if proxies else [urllib.request.ProxyHandler({})]
    end, content = time.monotonic() + timeout, bytearray()
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            while part := answer.read1(_PART):
                content += part
                if time.monotonic() > end:
                    raise TimeoutError
                if len(content) > MAX_ANSWER:
                    raise NotJson(f"the answer has more than {MAX_ANSWER >> 20} MiB")
    except http.client.HTTPException as error:  # the other end does not speak HTTP, or stops early
        raise OSError(f"the answer is not complete HTTP ({type(error).__name__})") from error
    try:
        return parse_json(content)
    except ValueError as error:
        raise NotJson("the answer is not JSON") from error


def reason(error: Exception) -> str:
    """A short description of an error of ``ask_json``."""
    if isinstance(error, urllib.error.HTTPError):
        detail = error.read(500).decode(errors="replace")
        return f"HTTP {error.code} {detail}".strip()
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return "it took too long" if isinstance(error, TimeoutError) else str(error)


def is_transient(error: Exception) -> bool:
    """Whether a retry can help; it cannot when the server rejects the request."""
    if not isinstance(error, urllib.error.HTTPError):
        return True
    return error.code >= 500 or error.code in _TRANSIENT


def pauses(tries: int) -> Iterator[float]:
    """Seconds to wait before each try: 0 before the first, then doubling up to a limit."""
    yield 0.0
    for attempt in range(tries - 1):
        yield min(LONGEST_PAUSE, PAUSE * 2**attempt)


def retry_after(error: Exception) -> float:
    """Seconds that a busy server requests before the next try (``Retry-After``), up to a limit; else 0."""
    seconds = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return min(LONGEST_PAUSE, float(seconds)) if str(seconds).isdigit() else 0.0
