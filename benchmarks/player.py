"""The player's speed as a browser meets it: a WebSocket client on a server of its own.

``python benchmarks/player.py --after runs/demo`` holds and changes keys for a while and prints the frames per
second of every pane, the time from a key to the first picture that obeys it (pacing included, median and 90th
percentile), how evenly pictures follow each other, and the server's CPU. ``--free`` lifts the pace, to see what the
machine could do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from worldcompass.player.messages import unpack_pictures

KEYS = ("w", "a", "s", "d", "left", "right")
HOLD_SECONDS = (0.35, 1.2)  # how long a key is held before the next


class Walker:
    """A client that notes when every moment of pictures came and which keys it obeyed."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = 0
        self.pressed: dict[int, float] = {}
        self.latencies: list[float] = []
        self.arrived: list[float] = []
        self.sizes: list[list[int]] = []

    async def read(self) -> None:
        async for message in self.socket:
            if isinstance(message, str):
                continue
            header, _ = unpack_pictures(message)
            now = time.perf_counter()
            self.arrived.append(now)
            self.sizes.append(header["sizes"])
            for number in [n for n in self.pressed if n <= header["number"]]:
                self.latencies.append(now - self.pressed.pop(number))

    async def hold(self, keys: list[str]) -> None:
        self.number += 1
        if keys:
            self.pressed = {self.number: time.perf_counter()}
        await self.socket.send(json.dumps({"type": "keys", "held": keys, "number": self.number}))


async def measure(port: int, seconds: float, warm_up: float) -> Walker:
    rng = random.Random(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/starts") as reply:
        start = json.load(reply)[0]["id"]
    async with connect(f"ws://127.0.0.1:{port}/walk", max_size=None) as socket:
        await socket.send(json.dumps({"type": "hello", "token": ""}))
        await socket.send(json.dumps({"type": "start", "start": start, "seed": 0, "path": ""}))
        walker = Walker(socket)
        reading = asyncio.create_task(walker.read())
        begun = time.perf_counter()
        counting = False
        while (now := time.perf_counter()) - begun < warm_up + seconds:
            if not counting and now - begun >= warm_up:
                walker.latencies, walker.arrived, walker.sizes, counting = [], [], [], True
            await walker.hold([rng.choice(KEYS)])
            await asyncio.sleep(rng.uniform(*HOLD_SECONDS))
        reading.cancel()
        return walker


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worldcompass", "play", "--no-browser", "--port", str(args.port)]
    command += ["--fps", "120"] if args.free else ["--fps", str(args.fps)]
    command += ["--steps", str(args.steps), *(["--engine"] if args.engine else [])]
    command += ["--after", str(args.after)] if args.after else ["--single"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if "playing at" in line:
            return server
    raise SystemExit("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--after", type=Path, help="a run for the second pane; one pane without")
    parser.add_argument("--engine", action="store_true", help="add a pane with the real engine")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("--free", action="store_true", help="without pace")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--port", type=int, default=8799)
    args = parser.parse_args()
    server = serve(args)
    try:
        before, begun = cpu_seconds(server.pid), time.perf_counter()
        walker = asyncio.run(measure(args.port, args.seconds, args.warm_up))
        cpu = (cpu_seconds(server.pid) - before) / (time.perf_counter() - begun)
    finally:
        server.terminate()
        server.wait(10)
    if not walker.latencies:
        raise SystemExit("no key was obeyed: the machine is too busy for a measurement")
    span = walker.arrived[-1] - walker.arrived[0]
    fps = [sum(map(bool, column[1:])) / span for column in zip(*walker.sizes, strict=True)]
    gaps = sorted(1000 * (after - before) for before, after in pairwise(walker.arrived))
    late = sorted(1000 * t for t in walker.latencies)
    ninety = late[min(len(late) - 1, int(0.9 * len(late)))]
    print(
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {args.steps} denoising steps"
    )
    print(f"frames per second of each pane: {', '.join(f'{value:.1f}' for value in fps)}")
    middle = statistics.median(late)
    print(f"key to picture: median {middle:.0f} ms, 90th percentile {ninety:.0f} ms, {len(late)} keys")
    print(
        f"from picture to picture: median {statistics.median(gaps):.0f} ms, 99th percentile "
        f"{gaps[int(0.99 * len(gaps))]:.0f} ms, longest {gaps[-1]:.0f} ms, {len(gaps)} gaps"
    )
    print(f"server CPU: {100 * cpu:.0f}% of a core")


if __name__ == "__main__":
    main()
