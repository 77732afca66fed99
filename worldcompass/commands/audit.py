"""Audit a critic against engine truth, before a run trusts it.

Clips come from maps that nothing was trained on. Their spoilt copies say what the critic overlooks, a short search
looks for rubbish that scores high. Exit code 0: sound; 1: not, and why; 2: a mistake of yours.

CRITIC is a name that `worldcompass rewards` lists with no needs, or FILE.py:FUNCTION of yours that returns one.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_out, add_seed
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.audit.run import Audit, Expects
    from worldcompass.rewards import Critic

EXAMPLES = """\
  worldcompass audit interaction
  worldcompass audit quality --size full --out runs/audit_quality
  worldcompass audit my_critic.py:make --expects pictures
"""
SIZES = {"small": (4, 4), "full": (24, 16)}  # scenarios per map, clips for which rubbish is searched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass audit``."""
    parser.add_argument("critic", metavar="CRITIC", help="interaction, quality, ... or FILE.py:FUNCTION")
    text = "what the critic must notice (default: by its kind, both for your own)"
    parser.add_argument("--expects", choices=("motion", "pictures", "both"), help=text)
    text = "small takes a minute or two, full has narrow intervals (default: %(default)s)"
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help=text)
    add_out(parser, "runs/audit", "where audit.json and audit.html go")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Audit, write, print."""
    critic, expects = critic_of(args.critic)
    from worldcompass.audit.clips import clips_of, engine_clips
    from worldcompass.audit.page import render
    from worldcompass.audit.run import run_audit
    from worldcompass.doom.maps import UNSEEN
    from worldcompass.evaluate import imagine_all
    from worldcompass.progress import progress
    from worldcompass.report.html import write_page
    from worldcompass.worlds.doom import load_doom_world

    per_map, searched = SIZES[args.size]
    with progress("playing clips in the engine", per_map * len(UNSEEN)) as advance:
        scenarios, clips = engine_clips(args.seed, per_map, advance)
    with progress("imagining the same clips", len(scenarios)) as advance:
        imagined = clips_of(
            scenarios, list(imagine_all(load_doom_world(), scenarios, args.seed, on_video=advance))
        )
    with progress("scoring", len(clips) + min(searched, len(clips))) as advance:
        try:
            audit = run_audit(critic, clips, args.expects or expects, args.seed, imagined, searched, advance)
        except ValueError as error:
            raise UserError(str(error)) from error
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "audit.json").write_text(json.dumps(audit.to_json(), indent=1) + "\n")
    command = "worldcompass " + shlex.join(sys.argv[1:])
    print_audit(audit)
    print(f"page: {write_page(args.out / 'audit.html', render(audit, command))}")
    return 1 if audit.faults else 0


def critic_of(name: str) -> tuple[Critic, Expects]:
    """A critic and what it must notice.

    Raises:
        UserError: when there is none of that name that runs without weights of its own.
    """
    own = _own_critics()
    if name in own:
        return own[name]
    source, _, function = name.partition(":")
    if not source.endswith(".py"):
        raise UserError(
            f"there is no critic {name!r} to audit: expected {', '.join(own)} or FILE.py:FUNCTION"
        )
    from worldcompass.commands.train import load_recipe
    from worldcompass.rewards import Critic

    make = load_recipe(f"{source}:{function or Path(source).stem}")
    try:
        critic = make()
    except Exception as error:  # whatever a user's own function may raise
        raise UserError(f"{name} failed to make a critic ({type(error).__name__}: {error})") from error
    if not isinstance(critic, Critic):
        raise UserError(
            f"{name} returned {type(critic).__name__}: expected a critic, which is callable and has a name"
        )
    return critic, "both"


def _own_critics() -> dict[str, tuple[Critic, Expects]]:
    from worldcompass.rewards.actions import ActionAccuracy
    from worldcompass.rewards.doom_cameras import DoomCameras
    from worldcompass.rewards.interaction import InteractionFollowing
    from worldcompass.rewards.quality import VisualQuality
    from worldcompass.rewards.stability import PictureStability
    from worldcompass.worlds.doom import SPEC

    return {
        "interaction": (InteractionFollowing(), "motion"),
        "actions": (ActionAccuracy(DoomCameras(), SPEC.thresholds), "motion"),
        "quality": (VisualQuality(), "pictures"),
        "stability": (PictureStability(), "pictures"),
    }


def print_audit(audit: Audit) -> None:
    """The table, and the verdict in words."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.audit.page import shown

    table = Table(title=f"{audit.critic}: how often a lie scores below the truth", box=SIMPLE)
    table.add_column("lie")
    table.add_column("share of clips [95%]", justify="right")
    for name, value in audit.punished.items():
        table.add_row(name.replace("@", ", strength "), shown(value))
    console = Console()
    console.print(table)
    for what, value in audit.correlation.items():
        print(f"rank correlation with {what}: {value:.2f}")
    if audit.calibration is not None:
        print(f"distance of score and share obeyed: {audit.calibration:.3f}")
    print(
        f"a full lie costs {audit.signal:.1f} times the spread under grain that nobody sees ({audit.tremor:.4f})"
    )
    print(f"rubbish that scores as high as the truth: {shown(audit.cheated)}")
    print("sound" if not audit.faults else "NOT SOUND: " + "; ".join(audit.faults))
