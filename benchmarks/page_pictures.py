"""The pictures of docs/images: player, voting page, report and comparison, each on a desktop and on a phone.

Starts the player on a finished run, walks in it with a headless Chromium, and takes every page as a user sees it.
It works on copies of the runs.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

from worldcompass.report import write_comparison, write_report

PATIENCE = 300_000  # milliseconds; a busy machine is slow, not wrong
QUALITY = 82  # of WebP, 0 to 100
WALK = "w-4, w+right-2"
SECONDS = 2.0  # into the voter's clips


@dataclass(frozen=True)
class Screen:
    """A browser's window; pictures are ``sharpness`` times as large."""

    width: int
    height: int
    sharpness: float = 1.0
    touch: bool = False


DESKTOP, PHONE = Screen(1280, 860), Screen(390, 844, 2.0, touch=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of the demo; all are compared")
    parser.add_argument(
        "--names", nargs="+", default=(), help="what the pages call them (default: their folders)"
    )
    parser.add_argument(
        "--start", default="my way home 2", help="title of the start that the player walks from"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="+", choices=tuple(PICTURES), default=tuple(PICTURES))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    if args.chromium is None:
        parser.error("there is no Chromium: name its program with --chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        at = Studio(browser, Path(scratch), args.out.absolute(), args.start)
        names = [*args.names, *(run.name for run in args.runs[len(args.names) :])]
        for name, run in zip(names, args.runs, strict=True):
            shutil.copytree(run, at.scratch / "runs" / name, ignore=shutil.ignore_patterns("checkpoints"))
        for name in args.only:
            PICTURES[name](at, [Path("runs", name) for name in names])
        browser.close()


@dataclass(frozen=True)
class Studio:
    """Where pictures are taken and put."""

    browser: Browser
    scratch: Path
    """Holds copies of the runs, by their names."""
    out: Path
    start: str
    """Title of the start that the player walks from."""

    def take(
        self,
        name: str,
        screen: Screen,
        address: str,
        act: Callable[[Page], None] = lambda page: None,
        whole: bool = False,
    ) -> None:
        """Visit an address, do something there, and save what is seen; ``whole`` scrolls to the end."""
        context = self.browser.new_context(
            viewport={"width": screen.width, "height": screen.height}, device_scale_factor=screen.sharpness,
            has_touch=screen.touch, color_scheme="light",
        )  # fmt: skip
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        act(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > screen.width:
            raise SystemExit(f"{address} is {wide} pixels wide on a screen of {screen.width}")
        picture = cv2.imdecode(np.frombuffer(page.screenshot(full_page=whole), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        context.close()
        file = self.out / f"{name}_{'phone' if screen.touch else 'desktop'}.webp"
        cv2.imwrite(str(file), picture, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
        print(f"wrote {file}, {file.stat().st_size // 1000} kB", flush=True)

    @contextlib.contextmanager
    def playing(self, run: Path, *options: str) -> Iterator[str]:
        """The address of a player on ``run``, which ends with the block."""
        words = ["play", "--after", str(run), "--no-browser", "--port", "0", *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "worldcompass", *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.scratch,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("playing at "):
                    yield line.split()[2]
                    return
            raise SystemExit("the player did not start, see above")
        finally:
            process.terminate()
            process.wait()


def report(at: Studio, runs: list[Path]) -> None:
    page = write_report(at.scratch / runs[0], at.scratch / "report.html")
    for screen in (DESKTOP, PHONE):
        at.take("report", screen, page.as_uri())


def comparison(at: Studio, runs: list[Path]) -> None:
    page = write_comparison([at.scratch / run for run in runs], at.scratch / "comparison.html")
    for screen in (DESKTOP, PHONE):
        at.take("comparison", screen, page.as_uri())


def player(at: Studio, runs: list[Path]) -> None:
    def walk(page: Page) -> None:
        latents = sum(int(part.rpartition("-")[2]) for part in WALK.split(", "))
        expect(page.locator("#walked")).to_have_text("0 latents")
        start = page.evaluate(f"starts.find(start => start.title === {at.start!r}).id")
        page.evaluate(f"location.hash = {urlencode({'start': start, 'seed': 0, 'path': WALK})!r}")
        expect(page.locator("#walked")).to_have_text(f"{latents} latents")
        page.wait_for_timeout(1500)  # until the last gauges have come and no picture follows

    with at.playing(runs[0], "--engine") as address:
        at.take("player", DESKTOP, address, walk)
    with at.playing(runs[0]) as address:
        at.take("player", PHONE, address, walk)


def vote(at: Studio, runs: list[Path]) -> None:
    def watch(page: Page) -> None:
        expect(page.locator("#count")).to_have_text("0 voted so far")
        for side in ("left", "right"):
            page.evaluate(f"{side}.pause(), {side}.currentTime = {SECONDS}")
        page.wait_for_timeout(2000)  # until both frames are found and drawn

    with at.playing(runs[0], "--vote") as address:
        for screen in (DESKTOP, PHONE):
            at.take("vote", screen, address, watch, whole=True)


PICTURES = {"player": player, "vote": vote, "report": report, "comparison": comparison}


if __name__ == "__main__":
    main()
