"""Audit a critic against engine truth, before a run trusts it.

The clips come from maps or scenes that no network was trained on, or from recordings. Degraded copies of them show
what the critic overlooks. A short search looks for worthless clips that score high. Exit code 0: sound; 1: not
sound, with reasons; 2: a usage error.

CRITIC is a critic that runs with the package's own weights (`worldcompass audit --list`), inverse_dynamics=FILE
with a file of `worldcompass critics train`, or your own FILE.py:FUNCTION that returns one. A class counts as a
function that returns its instance.
"""

from __future__ import annotations

import argparse
import difflib
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from worldcompass.audit import ClipKind
from worldcompass.commands._options import add_out, add_seed
from worldcompass.commands._recorded import recorded_clips, spec_and_reader
from worldcompass.commands._worlds import check_world
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.audit.clips import Clip
    from worldcompass.audit.known import Known
    from worldcompass.audit.run import Audit
    from worldcompass.critic import Critic
    from worldcompass.world import WorldSpec

EXAMPLES = """\
  worldcompass audit --list
  worldcompass audit interaction
  worldcompass audit quality --size full --out runs/audit_quality
  worldcompass audit --world hands grasp instruction
  worldcompass audit quality stability realism
  worldcompass audit my_critic.py:make --expects pictures
  worldcompass audit my_critic.py:sharp --expects blurred,noisy
  worldcompass audit inverse_dynamics=critics/inverse_dynamics.safetensors --world my_world.py:make \\
    --recordings recordings
  worldcompass audit my_judge.py:make --clips pickups --expects "frozen,other item,no item"
"""
OF_CONTROLS = "inverse_dynamics"  # critics of a file, named as inverse_dynamics=FILE
# Videos of each map (in the Hands world a quarter of all), and clips for which the search makes rubbish.
SIZES = {"quick": (1, 1), "small": (4, 4), "full": (24, 16)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass audit``."""
    text = (
        "interaction, ..., inverse_dynamics=FILE or FILE.py:FUNCTION; several share the clips and get a folder each"
        " below --out"
    )
    parser.add_argument("critics", nargs="*", metavar="CRITIC", help=text)
    text = "whose critics and clips: doom, hands, or with --recordings any world (default: %(default)s)"
    parser.add_argument("--world", default=DOOM, metavar="WORLD", help=text)
    text = "folder of videos with JSON files of actions, for worlds without an engine"
    parser.add_argument("--recordings", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--list", action="store_true", help="list the critics that can be audited, and exit")
    text = (
        "motion, pictures, both, or lies such as blurred,frozen (default: the critic's own; both for yours)"
    )
    parser.add_argument("--expects", metavar="LIES", help=text)
    text = (
        "mixed: any motion; out and back: motion that returns, in Doom alone; pickups: an item or a thing is "
        "picked up, for critics of instructions (default: the critic's own; mixed for yours)"
    )
    parser.add_argument("--clips", choices=get_args(ClipKind), help=text)
    text = (
        "number of clips: quick takes less than a minute, small a minute or two, full gives narrow intervals "
        "(default: %(default)s)"
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help=text)
    add_out(parser, "runs/audit", "where audit.json and audit.html go")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Audit the critics, write the results and print them."""
    from worldcompass.actions import misfit
    from worldcompass.audit.expected import expected
    from worldcompass.audit.run import run_audit
    from worldcompass.critic import FAILURES, ask
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import writable
    from worldcompass.testing import check_critic, noise_group

    check_world(args.world)
    if args.world not in EMBEDDED and args.recordings is None:
        raise UserError(
            f"--world {args.world} has no engine: give recordings of the real thing with --recordings"
        )
    shipped = {} if args.recordings else _shipped(args.world)
    if args.list:
        print("\n".join(f"{name:<15} must notice {known.expects}" for name, known in shipped.items()))
        return 0
    if not args.critics:
        raise UserError(f"expected a critic to audit: {', '.join(shipped)} or FILE.py:FUNCTION")
    spec, read = spec_and_reader(args.world)
    known = {name: known_critic(name, args.world, spec) for name in args.critics}
    if args.clips:
        known = {name: replace(entry, clips=args.clips) for name, entry in known.items()}
    try:
        expects = {name: expected(args.expects or entry.expects) for name, entry in known.items()}
    except ValueError as error:
        raise UserError(str(error)) from None
    for name, entry in known.items():
        _check_clips(name, entry.clips, expects[name].lies, "" if args.recordings else args.world)
    writable(args.out)
    made = {name: entry.make() for name, entry in known.items()}
    for name, critic in made.items():
        if why := misfit(critic, spec.actions):
            raise UserError(f"{name} {why}")
    for name in made.keys() - shipped.keys():
        try:
            noise = noise_group(spec=spec)
            ask(made[name], noise)
            check_critic(made[name], noise)
        except FAILURES as error:
            raise UserError(f"{name} breaks the contract of critics: {_description(error)}") from error
    per_map, searched = SIZES[args.size]
    unsound = False
    kinds: list[ClipKind] = list(dict.fromkeys(entry.clips for entry in known.values()))
    for kind in kinds:
        if args.recordings is not None:
            clips, imagined = recorded_clips(args.recordings, spec, read, list(made.values())), []
        else:
            make_clips = _hands_clips if args.world == HANDS else _clips
            clips, imagined = make_clips(per_map, args.seed, kind)
        for name in (n for n, entry in known.items() if entry.clips == kind):
            with progress(f"scoring by {name}", len(clips) + min(searched, len(clips))) as advance:
                try:
                    audit = run_audit(
                        made[name], clips, expects[name], args.seed, imagined, searched, advance
                    )
                except FAILURES as error:
                    raise UserError(f"{name} cannot be audited: {_description(error)}") from error
            _write(audit, args.out if len(known) == 1 else args.out / audit.critic)
            unsound |= bool(audit.faults)
    return int(unsound)


def _description(error: Exception) -> str:
    """A critic's failure in words: the contract's own message, or type and text of another error."""
    from worldcompass.critic import error_line
    from worldcompass.testing import ContractError

    return str(error) if isinstance(error, ContractError | ValueError) else error_line(error)


def _check_clips(name: str, kind: ClipKind, lies: Sequence[str], world: str) -> None:
    """Refuse clips that a world does not have, and lies that the clips cannot tell.

    Raises:
        UserError: says what to choose.
    """
    from worldcompass.audit.clips import NO_ITEM
    from worldcompass.audit.expected import ITEM_LIES, THING_LIES

    if kind != "mixed" and not world:
        raise UserError(f"recordings have no clips of the kind {kind!r}: leave out --clips")
    if kind == "out and back" and world == HANDS:
        raise UserError("the Hands world has no clips that go out and back: choose --clips mixed or pickups")
    if kind != "pickups" and (item_lies := set(ITEM_LIES) & set(lies)):
        raise UserError(
            f"{name} scores clips without pick-ups and cannot notice {sorted(item_lies)[0]!r}: choose --clips"
            " pickups for a critic of instructions"
        )
    lacking = {HANDS: (NO_ITEM,)}.get(world, THING_LIES)
    if unknown := [lie for lie in lies if lie in lacking]:
        raise UserError(
            f"clips of the world {world} cannot tell the lie {unknown[0]!r}: leave it out of --expects"
        )


def _shipped(world: str) -> Mapping[str, Known]:
    """The critics of a world that can be audited by name."""
    if world == HANDS:
        from worldcompass.worlds.hands.audits import KNOWN as HANDS_CRITICS

        return HANDS_CRITICS
    if world != DOOM:
        return {}
    from worldcompass.worlds.doom.audits import KNOWN

    return KNOWN


def _hands_clips(per_map: int, seed: int, kind: ClipKind) -> tuple[list[Clip], list[Clip]]:
    """As ``_clips``, from the footage of the package."""
    from worldcompass.worlds.hands.audits import audited_clips

    return audited_clips(kind, 4 * per_map, seed)


def _clips(per_map: int, seed: int, kind: ClipKind) -> tuple[list[Clip], list[Clip]]:
    """Clips of the engine, and the same clips by the embedded base model (none for pick-ups)."""
    from worldcompass.audit.clips import clips_of
    from worldcompass.evaluate import imagine_all
    from worldcompass.media.progress import progress
    from worldcompass.worlds.doom.audits import engine_clips, pickup_clips
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.world import load_doom_world

    with progress("playing clips in the engine", per_map * len(UNSEEN)) as advance:
        if kind == "pickups":
            return pickup_clips(seed, per_map, advance), []
        scenarios, clips = engine_clips(seed, per_map, advance, out_and_back=kind == "out and back")
    with progress("imagining the same clips", len(scenarios)) as advance:
        videos = imagine_all(load_doom_world(), scenarios, seed, on_video=advance)
    return clips, clips_of(scenarios, list(videos))


def _write(audit: Audit, out: Path) -> None:
    """Write audit.json and audit.html, and print the audit."""
    from worldcompass.audit.page import render
    from worldcompass.runs.atomic import write_json, write_text

    write_json(out / "audit.json", audit.to_json(), indent=1)
    print_audit(audit)
    page = write_text(out / "audit.html", render(audit, "worldcompass " + shlex.join(sys.argv[1:])))
    print(f"page: {page}")


def critic_of(name: str) -> tuple[Critic, str]:
    """A critic and the lies that it must notice.

    Raises:
        UserError: for an unknown name, and for a critic that needs weights of its own.
    """
    known = known_critic(name)
    return known.make(), known.expects


def known_critic(name: str, world: str = DOOM, spec: WorldSpec | None = None) -> Known:
    """A critic by its name, from its file or from the user's own function, with the facts that an audit needs.

    Args:
        name: as the command line takes it.
        world: whose critics have names.
        spec: of the world that a critic from a file must fit; that of ``world`` when None.

    Raises:
        UserError: for an unknown name, for a critic that needs weights of its own or does not fit the world, and
            for a function that fails.
    """
    from worldcompass.audit.known import Known

    shipped = _shipped(world)
    if name in shipped:
        return shipped[name]
    if name.startswith(f"{OF_CONTROLS}="):
        from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics

        file = Path(name.partition("=")[2]).expanduser()
        learned = InverseDynamics.load(file, spec or spec_and_reader(world)[0])
        return Known(lambda: learned, "motion,blurred,shuffled,other video")
    from worldcompass.recipes.load import load_recipe, parts_of

    source, function = parts_of(name)
    if not source.endswith(".py"):
        raise UserError(_why_unknown(name, world))
    from worldcompass.critic import FAILURES, Critic, error_line

    make = load_recipe(f"{source}:{function or Path(source).stem}")
    try:
        critic = make()
    except FAILURES as error:
        raise UserError(f"{name} failed to make a critic ({error_line(error)})") from error
    if not isinstance(critic, Critic):
        raise UserError(f"{name} returned {type(critic).__name__}: expected a critic, a callable with a name")
    return Known(lambda: critic, "both")


def _why_unknown(name: str, world: str) -> str:
    """Why a name is none of a world's critics, and what to choose."""
    from worldcompass.actions import misfit
    from worldcompass.commands._catalogue import ENTRIES

    shipped = _shipped(world)
    for other in (other for other in EMBEDDED if name in _shipped(other)):
        kinds = (entry.load() for entry in ENTRIES if entry.name == name and entry.world in ("", other))
        if why := next(filter(None, (misfit(kind, spec_and_reader(world)[0].actions) for kind in kinds)), ""):
            return f"{name} {why}: expected {', '.join(shipped)}, or FILE.py:FUNCTION"
        return (
            f"{name} is audited in the world {other}, not in {world}: choose --world {other}, one of"
            f" {', '.join(shipped)}, or FILE.py:FUNCTION"
        )
    if any(entry.name == name for entry in ENTRIES):
        return (
            f"{name} needs weights, a server or a part of your choice: write a function that returns it and "
            f"name that as FILE.py:FUNCTION; `worldcompass rewards {name}` lists the arguments"
        )
    near = difflib.get_close_matches(name, shipped) or shipped
    return f"there is no critic {name!r}: expected {', '.join(near)}, or FILE.py:FUNCTION"


def print_audit(audit: Audit) -> None:
    """Print the tables, the other measures and the verdict."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.audit.exploit import NEVER_FAR
    from worldcompass.audit.run import CORRELATED_WITH, shown

    console = Console()
    words = f"{audit.clips} clips of {audit.videos} videos [95%]"
    for title, first, rows in (
        ("how often a lie scores below the truth", "lie", audit.punished),
        ("how often worthless clips score as high as the truth", "trick", audit.cheated),
    ):
        table = Table(title=f"{audit.critic}: {title}", box=SIMPLE)
        table.add_column(first)
        table.add_column(words if first == "lie" else "searched clips [95%]", justify="right")
        for name, value in rows.items():
            none = NEVER_FAR if rows is audit.cheated else "never scored"
            table.add_row(name.replace("@", ", strength "), shown(value, none))
        console.print(table)
    print(f"full lies it must notice that score below the truth: {shown(audit.accuracy)}")
    print(f"full lies it overlooks: {', '.join(audit.overlooked()) or 'none'}")
    for key, value in audit.correlation.items():
        known = "unknown" if math.isnan(value) else f"{value:.2f}"
        print(f"rank correlation with {CORRELATED_WITH[key]}: {known}")
    if audit.calibration is not None:
        print(f"distance between score and share obeyed: {audit.calibration:.3f}")
    times = "an unknown number of" if math.isnan(audit.signal) else f"{audit.signal:.1f}"
    spread = "" if math.isnan(audit.tremor) else f" ({audit.tremor:.4f})"
    print(f"a full lie costs {times} times the spread under invisible grain{spread}")
    print(f"abstains from {audit.abstained:.0%} of all clips and {audit.unscored:.0%} of the true ones")
    print("sound" if not audit.faults else "NOT SOUND: " + "; ".join(audit.faults))
    if tricks := audit.fooled_by_other_tricks():
        print(f"never use it alone: {', '.join(tricks)} scores as high as the truth")
