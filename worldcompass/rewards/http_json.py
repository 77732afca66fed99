"""JSON over plain HTTP with the standard library alone; what every critic that is asked over a network shares."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

PAUSE = 0.5  # seconds before the second try, doubled before each further one
LONGEST_PAUSE = 30.0  # seconds
MAX_ANSWER = 16 * 2**20  # bytes
_PART = 2**16  # bytes read at once
_AGAIN = (
    408,
    429,
)  # of the user's errors, those that pass with time; so may all of the server's (500 and above)


class NotJson(ValueError):
    """What came back is not JSON, or is longer than any answer should be."""


def ask_json(
    address: str,
    body: bytes | None,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    key: str = "",
    proxies: bool = False,
) -> Any:
    """GET, or POST where there is a body, and read the JSON that comes back.

    Args:
        timeout: seconds for all of it, however slowly it trickles in.
        key: bearer token; not sent on to where a server redirects to.
        proxies: go through the proxies of the environment. Not between processes of one run: loopback would be
            asked of them too.

    Raises:
        OSError: no connection, too slow, or an HTTP error.
        NotJson: when the answer is no JSON.
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
    except http.client.HTTPException as error:  # what answers does not speak HTTP, or breaks off
        raise OSError(f"the answer is no whole HTTP ({type(error).__name__})") from error
    try:
        return json.loads(content)
    except ValueError as error:
        raise NotJson("the answer is not JSON") from error


def reason(error: Exception) -> str:
    """A failure of ``ask_json`` in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        detail = error.read(500).decode(errors="replace")
        return f"HTTP {error.code} {detail}".strip()
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return "it took too long" if isinstance(error, TimeoutError) else str(error)


def may_pass(error: Exception) -> bool:
    """Whether asking again can help: not where the server refuses what it is asked."""
    refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in _AGAIN
    return not refused


def pauses(tries: int) -> Iterator[float]:
    """Seconds to wait before each try: none before the first, then doubling."""
    yield 0.0
    for attempt in range(tries - 1):
        yield min(LONGEST_PAUSE, PAUSE * 2**attempt)


def asked_pause(error: Exception) -> float:
    """Seconds that a busy server asks to be left alone (``Retry-After``), within reason; 0 when silent."""
    told = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return min(LONGEST_PAUSE, float(told)) if str(told).isdigit() else 0.0
