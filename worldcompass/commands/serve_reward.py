"""Serve a critic over HTTP to trainers with other packages or on other machines.

CRITIC is a name from `worldcompass audit --list`, or your own FILE.py:FUNCTION that returns a critic. A recipe uses
it as `RemoteCritic("http://127.0.0.1:8770")`; `POST /score?path=w-3` scores a video file.
"""

from __future__ import annotations

import argparse

from worldcompass.commands._listening import address_of, listen
from worldcompass.commands._options import check_port
from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass serve-reward quality
  worldcompass serve-reward my_critic.py:make --port 8771
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass serve-reward``."""
    parser.add_argument("critic", metavar="CRITIC", help="interaction, quality, ... or FILE.py:FUNCTION")
    text = (
        "address to listen on; other machines can reach all but the default, without a password (default: "
        "%(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    parser.add_argument("--port", type=int, default=8770, metavar="N", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    check_port(args.port)
    try:
        import uvicorn

        from worldcompass.rewards.http_json import LOOPBACK
        from worldcompass.serving.scoring import application
    except ImportError as error:
        raise UserError(f"serving needs the extra web ({error}): pip install 'worldcompass[web]'") from None
    from worldcompass.commands.audit import critic_of
    from worldcompass.worlds.doom.world import SPEC

    listener = listen(args.host, args.port)
    critic, _ = critic_of(args.critic)
    print(f"critic {critic.name} answers at {address_of(args.host, listener)} (stop with Ctrl-C)", flush=True)
    app = application(critic, SPEC, loopback_only=args.host in LOOPBACK)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    return 0
