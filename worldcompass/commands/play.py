"""Walk through an embedded world live in the browser, before and after post-training, in two panes.

Hold W A S D and the arrow keys; in the Hands world they drive a gripper, and the page says when an instruction is
done. Both panes get the same keys and the same noise; --engine adds the real engine. WorldPlay starts from prepared
images, at whatever rate the GPU gives.
"""

from __future__ import annotations

import argparse
import contextlib
import webbrowser
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._listening import address_of, listen, origins_of
from worldcompass.commands._options import add_device, add_settings, check_device, check_port, positive
from worldcompass.commands._worlds import add_world, is_open, world_maker, world_of
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS

if TYPE_CHECKING:
    from torch import Tensor

    from worldcompass.player.fittings import Fittings
    from worldcompass.player.starts import Start
    from worldcompass.runs.folder import RunFolder

EXAMPLES = """\
  worldcompass play                          # compares with the newest finished run, if any
  worldcompass play --after runs/demo --engine
  worldcompass play --single                 # the shipped weights alone
  worldcompass play --after runs/doom_demo --vote # a blind study; worldcompass votes counts it
  worldcompass play --world hands --engine   # drive a gripper over a table
  worldcompass play --world worldplay_8b:lora --after runs/lora8 --steps 4
  worldcompass play --world my_world.py:make --start my.png --after my_weights
"""

RUNS = Path("runs")
FPS = 24.0

SHIPPED = "the shipped weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass play``."""
    text = "run folder or folder of weights on the right (default: the newest finished run in runs/)"
    parser.add_argument("--after", type=Path, default=None, metavar="RUN", help=text)
    text = "run folder or folder of weights on the left (default: the shipped weights)"
    parser.add_argument("--before", type=Path, default=None, metavar="RUN", help=text)
    add_world(parser)
    text = "picture for the gallery of starts; may be repeated (a world of your own needs one)"
    parser.add_argument("--start", type=Path, action="append", default=[], metavar="FILE", help=text)
    text = "change a setting of a WorldPlay recipe, such as source.data; may be repeated"
    add_settings(parser, text)
    parser.add_argument("--single", action="store_true", help="one pane: the weights of --before alone")
    parser.add_argument("--engine", action="store_true", help="add a pane with the real engine")
    parser.add_argument(
        "--vote", action="store_true", help="show a blind preference study instead of the player"
    )
    text = "file that stores the votes (default: %(default)s)"
    parser.add_argument("--votes", type=Path, default=RUNS / "votes.jsonl", metavar="FILE", help=text)
    text = (
        "frames per second of every pane; Doom's own speed is 17.5, that of Hands 20 (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=FPS, metavar="N", help=text)
    text = (
        "denoising steps of a latent; others than the world's own are not measured (default: the world's own)"
    )
    parser.add_argument("--steps", type=positive, default=None, metavar="N", help=text)
    text = "most browsers at the same time (default: %(default)s)"
    parser.add_argument("--sessions", type=positive, default=4, metavar="N", help=text)
    text = "address to listen on; other machines can reach all but the default (default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    text = "also admit pages from this address, such as of a proxy in front; may be repeated"
    parser.add_argument("--origin", action="append", default=[], metavar="URL", help=text)
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address without opening a browser"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    named = [args.after, args.before]
    if not (args.single or any(named)):
        named = [_newest_of(EMBEDDED)]
    args.world = world_of(args.world, named)
    _check(args)
    device = check_device(args.device)
    embedded = args.world in EMBEDDED
    weights = partial(_weights, args.world) if embedded else _any_weights
    before = None if args.before is None else weights(args.before)
    after = None if args.after is None else weights(args.after)
    if embedded and not (args.single or args.after):
        after = _newest(args.world)
    if args.vote and after is None:
        raise UserError("--vote compares two sets of weights: name the trained ones with --after RUN")
    origins = origins_of(args.origin)
    listener = listen(args.host, args.port)
    import torch

    torch.set_num_threads(1)  # every pane has its own thread
    from worldcompass.player.ballot import Ballot
    from worldcompass.player.fittings import Fittings
    from worldcompass.player.panes import Pane, WorldPane
    from worldcompass.player.recording import Shelf
    from worldcompass.player.server import Settings, create_app, web_server
    from worldcompass.player.session import Shared
    from worldcompass.player.starts import Starts
    from worldcompass.rewards.http_json import LOOPBACK
    from worldcompass.worlds.open.player import PreparedWorld, prepared_starts

    names = ["World"] if after is None else ["Before", "After"]
    folders = [before] if after is None else [before, after]
    make, fittings = world_maker(args.world, args.assignments), _fittings(args.world)
    engine = fittings.engine() if fittings.engine and (args.engine or args.vote) else None
    worlds = [
        WorldPane(name, world, args.steps)
        for name, world in ((n, make(folder, device)) for n, folder in zip(names, folders, strict=True))
    ]
    if isinstance(prepared := worlds[0].world, PreparedWorld):
        fittings = Fittings(partial(prepared_starts, prepared))
    panes: list[Pane] = [*worlds, *([engine] if engine is not None else [])]
    given = [_given(file, worlds[0].world.spec.frame_size, fittings.check) for file in args.start]
    shared = Shared(tuple(panes), Starts((*fittings.starts(), *given)), Shelf(), args.fps, fittings)
    shipped = SHIPPED if embedded else args.world
    about = " · ".join(f"{name}: {_title(f, shipped)}" for name, f in zip(names, folders, strict=True))
    local = args.host in LOOPBACK
    study = None
    if args.vote:
        titles = (_fingerprint(before), _fingerprint(after))
        study = Ballot(shared, (worlds[0], worlds[1]), titles, args.votes, engine=engine)
    app = create_app(shared, Settings(about, args.sessions, local, origins), study)
    print(about)
    if not local:
        print(f"warning: {args.host} admits other machines without a password. Stop with Ctrl-C.")
    address = address_of(args.host, listener)
    print(f"playing at {address} (stop with Ctrl-C)", flush=True)
    if not args.no_browser:
        _open_browser(address)
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop
        web_server(app).run(sockets=[listener])
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.fps <= 120:
        raise UserError(f"--fps {args.fps:g} is out of range: expected 1 to 120")
    check_port(args.port, 0)
    if args.single and args.after is not None:
        raise UserError("--single shows one pane and --after a second one: leave out one of the two")
    if args.world != DOOM and args.vote:
        sheet = ": make a sheet with worldcompass vote-sheet" if args.world in EMBEDDED else ""
        raise UserError(f"--vote works with the Doom world alone, not with {args.world}{sheet}")
    if args.world not in EMBEDDED and args.engine:
        raise UserError(f"--engine works with {' and '.join(EMBEDDED)} alone: {args.world} brings none")
    if args.world not in EMBEDDED and not is_open(args.world) and not args.start:
        raise UserError(f"{args.world} has no gallery: name a picture to start from with --start FILE")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as why:
        raise UserError(
            f"the player needs {why.name}: install it with pip install 'worldcompass[web]'"
        ) from why


def _fittings(world: str) -> Fittings:
    """What an embedded world brings to the player; nothing for another one."""
    from worldcompass.player.fittings import Fittings

    if world == DOOM:
        from worldcompass.worlds.doom.player import doom_fittings

        return doom_fittings()
    if world == HANDS:
        from worldcompass.worlds.hands.player import hands_fittings

        return hands_fittings()
    return Fittings()


def _given(file: Path, frame_size: tuple[int, int], check: Callable[[Tensor], None]) -> Start:
    """A start of ``--start``."""
    from worldcompass.player.starts import start_from_file

    start = start_from_file(file, frame_size)
    try:
        check(start.image_3hw)
    except UserError as why:
        raise UserError(f"{file}: {why}") from why
    return start


def _weights(world: str, path: Path) -> Path:
    """The folder of weights inside a run of an embedded world, or ``path`` itself."""
    from worldcompass.api import weights_file
    from worldcompass.runs.folder import weights_folder

    return weights_folder(path, weights_file(world))


def _any_weights(path: Path) -> Path:
    """The path for the user's own function."""
    if not path.exists():
        raise UserError(f"there are no weights at {path}: name the folder or file that your world reads")
    return path


def _newest(world: str) -> Path | None:
    """The weights of the newest finished run of an embedded world; None without a run."""
    newest = _newest_of([world])
    if newest is None:
        trains = f"worldcompass demo --world {world} trains one"
        print(f"no finished run in runs/ to compare with: showing one world ({trains})")
        return None
    print(f"comparing with the newest finished run, {newest} (--after RUN picks another, --single none)")
    return _weights(world, newest)


def _newest_of(worlds: Sequence[str]) -> Path | None:
    """The newest finished run of any of some embedded worlds."""
    from worldcompass.api import weights_file
    from worldcompass.runs.folder import RunFolder

    runs = map(RunFolder, RUNS.glob("*"))
    files = [weights_file(world) for world in worlds]
    finished = [run for run in runs if run.finished and any((run.weights / file).is_file() for file in files)]
    return max(finished, key=_started).path if finished else None


def _started(run: RunFolder) -> str:
    """When a run was started, as an ISO date of UTC; of runs of earlier versions when its results were written.

    Times of files change with copies; records do not.
    """
    from worldcompass.runs.record import read_run_record

    written = datetime.fromtimestamp(run.results.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return read_run_record(run.record).started or written


def _title(folder: Path | None, shipped: str = SHIPPED) -> str:
    from worldcompass.runs.folder import owner_of

    return shipped if folder is None else str(owner_of(folder))


def _fingerprint(folder: Path | None) -> str:
    """Name and digest of weights, so that votes on different weights are never added up."""
    from worldcompass.worlds.doom.world import WEIGHTS

    return f"{_title(folder)} ({WEIGHTS.fingerprint(folder)})"


def _open_browser(address: str) -> None:
    if not webbrowser.open(address):
        print("no browser found: open the address in a browser")
