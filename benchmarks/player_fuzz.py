"""Malformed messages and requests against a running player, then sessions opened and dropped.

``python benchmarks/player_fuzz.py`` starts a player, sends 10,000 malformed WebSocket messages, 2,000 malformed
HTTP requests and those that schemathesis makes from the server's own OpenAPI description, checks that it still
walks, and prints its memory before and after 200 sessions. Exit code 1: a request broke the server. Everything
derives from a seed, so a failure can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

VALID = (
    {"type": "start", "start": "heldout/my_way_home/combined/0", "seed": 1, "path": "w-1"},
    {"type": "keys", "held": ["w", "left"], "number": 3},
    {"type": "rewind", "latents": 2},
    {"type": "record", "on": True},
    {"type": "hello", "token": "abc"},
)
NASTY = (
    None, True, -1, 0, 1e308, -(2**63), 2**64, "", "\x00", "w" * 5000, "../../etc/passwd", "‮", "𝕎", "1e9",
    [], [[]], {}, {"a": {}}, ["w"] * 50, "w-99999999999999999999", "w--1", "w-²", "w+s+a+d-1", ",,,,", "<script>",
)  # fmt: skip
VERBS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW")
PATHS = (
    "/", "/docs", "/starts", "/pictures", "/imagine", "/score", "/health", "/openapi.json", "/clips/x", "/walk",
    "/clips/..%2f..%2fetc%2fpasswd", "/clips/%00", "/../../etc/passwd", "/vote", "/vote/next", "//", "/%ff%fe",
    "/score?path=w-1", "/score?path=" + "w" * 5001, "/score?path=%00", "/imagine?x=1",
)  # fmt: skip
LAST = " " * 40_000  # too long: answered by a sentence of its own
BATCH = 15  # messages of one connection; a server closes one that makes more mistakes than it bears


def malformed_message(rng: random.Random) -> str | bytes:
    """A message that is broken in one of many ways: bytes, cut JSON, wrong values, names and depths."""
    message = dict(rng.choice(VALID))
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        text = json.dumps(message)
        return text[: rng.randrange(len(text))]
    if kind == 2:
        text = list(json.dumps(message))
        text[rng.randrange(len(text))] = chr(rng.randrange(1, 0x2FF))
        return "".join(text)
    if kind == 3:
        return "[" * rng.randrange(1, 32_000)
    if kind == 4:
        return json.dumps(rng.choice(NASTY))
    name = rng.choice([*message, "extra"])
    message[name] = rng.choice(NASTY)
    if kind == 5:
        message.pop(rng.choice(list(message)))
    return json.dumps(message)


def send_messages(port: int, count: int, seed: int) -> Counter[str]:
    """Send so many over as many connections as it takes; how connections and answers went."""
    rng, seen = random.Random(seed), Counter()
    left = count
    while left > 0:
        batch = min(BATCH, left)
        left -= batch
        try:
            with connect(f"ws://127.0.0.1:{port}/walk", open_timeout=60, max_size=None) as socket:
                if rng.random() < 0.9:  # else the first message is malformed already
                    socket.send(json.dumps({"type": "hello", "token": ""}))
                for _ in range(batch):
                    message = malformed_message(rng)
                    socket.send(message)
                    seen["messages"] += 1
                socket.send(LAST)
                seen.update(_answers(socket))
        except (ConnectionClosed, OSError, WebSocketException) as why:
            seen[type(why).__name__] += 1
    return seen


def _answers(socket: ClientConnection) -> list[str]:
    """Kinds of answers until the one to ``LAST``, by which every message was looked at, or the end."""
    kinds = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            answer = socket.recv(120)
            kinds.append(json.loads(answer)["type"] if isinstance(answer, str) else "pictures")
            if isinstance(answer, str) and "more than 32768" in answer:
                break
    return kinds


def send_requests(port: int, count: int, seed: int) -> Counter[int]:
    """Send so many malformed requests; the statuses that came back (0: the connection was closed)."""
    rng, statuses = random.Random(seed), Counter()
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.putrequest(rng.choice(VERBS), rng.choice(PATHS), skip_host=rng.random() < 0.1)
            body = rng.choice((b"", rng.randbytes(300), json.dumps({"path": rng.choice(NASTY)}).encode()))
            kind = rng.choice(("application/json", "image/png", "text/plain", "\xff", "x" * 500))
            connection.putheader("Content-Type", kind)
            if rng.random() < 0.2:
                connection.putheader(
                    "Origin", rng.choice(("null", "https://evil.example", "http://[", "\xfe"))
                )
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            statuses[connection.getresponse().status] += 1
        except (http.client.HTTPException, OSError):
            statuses[0] += 1
        finally:
            connection.close()
    return statuses


def send_described_requests(port: int, count: int, seed: int) -> Counter[int]:
    """Statuses of up to so many requests per operation and mode, made by schemathesis from ``/openapi.json``.

    Its modes are values that fit the description, which are nonsense as paths and pictures, and values that don't.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, errors, given, settings
    from hypothesis import seed as seeded

    schemathesis.serializer("video/mp4", "image/png", "image/jpeg")(_as_bytes)
    statuses: Counter[int] = Counter()
    description = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    quick = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation, mode in itertools.product(description.get_all_operations(), schemathesis.GenerationMode):

        @seeded(seed)
        @quick
        @given(request=operation.ok().as_strategy(generation_mode=mode))
        def send(request: schemathesis.Case) -> None:
            statuses[request.call(timeout=120).status_code] += 1

        with contextlib.suppress(errors.Unsatisfiable):  # nothing about this operation can be malformed
            send()
    return statuses


def _as_bytes(_: object, body: object) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode("utf-8", "surrogatepass")


def walk_once(port: int) -> None:
    """A session that walks two latents; fails when the server does not walk."""
    with connect(f"ws://127.0.0.1:{port}/walk", open_timeout=120, max_size=None) as socket:
        socket.send(json.dumps({"type": "hello", "token": ""}))
        welcome = json.loads(socket.recv(120))
        assert welcome["type"] == "welcome", welcome
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("GET", "/starts")
        start = json.load(connection.getresponse())[0]["id"]
        connection.close()
        socket.send(json.dumps({"type": "start", "start": start, "seed": 0, "path": "w-2"}))
        while True:
            answer = socket.recv(120)
            if isinstance(answer, str) and json.loads(answer).get("latents") == 2:
                return


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use now."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=2_000)
    text = "requests per operation and mode that schemathesis makes; 0 does without it (default: %(default)s)"
    parser.add_argument("--described", type=int, default=200, metavar="N", help=text)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8798)
    args = parser.parse_args()
    command = [sys.executable, "-m", "worldcompass", "play", "--single", "--no-browser", "--steps", "1"]
    server = subprocess.Popen([*command, "--port", str(args.port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if "playing at" in line)
        begun = time.perf_counter()
        print(f"messages: {dict(send_messages(args.port, args.messages, args.seed))}", flush=True)
        statuses = send_requests(args.port, args.requests, args.seed)
        print(f"requests by status: {dict(statuses)}", flush=True)
        if args.described:
            described = send_described_requests(args.port, args.described, args.seed)
            print(f"requests of schemathesis by status: {dict(described)}", flush=True)
            statuses += described
        walk_once(args.port)
        print(f"still walks after {time.perf_counter() - begun:.0f} s", flush=True)
        for _ in range(10):  # caches fill and the parked walks take their memory
            walk_once(args.port)
        print(f"memory: {resident_mib(server.pid):.0f} MiB", flush=True)
        for opened in range(1, args.sessions + 1):
            walk_once(args.port)
            if opened % 50 == 0 or opened == args.sessions:
                print(f"  after {opened} more sessions {resident_mib(server.pid):.0f} MiB", flush=True)
    finally:
        server.terminate()
        server.wait(20)
    if broken := sum(count for status, count in statuses.items() if status >= 500):
        raise SystemExit(
            f"{broken} requests broke the server (status 500 and more): see its tracebacks above"
        )


if __name__ == "__main__":
    main()
