"""The command line ``worldcompass``: find the command, parse its options, run it and report errors in one line."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import os
import select
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from worldcompass.errors import (
    EXIT_DISEASED,
    EXIT_INTERRUPTED,
    EXIT_LOST_RANK,
    EXIT_SIGNAL,
    EXIT_USER_ERROR,
    LAUNCHED,
    LostRank,
    StoppedRun,
    UserError,
)
from worldcompass.parallel.signals import Interrupted, notices_raise
from worldcompass.version import __version__

# Command -> (module of worldcompass.commands, one-line summary).
COMMANDS = {
    "demo": ("demo", "post-train a small world and compare it with before; twelve minutes on 2 cores"),
    "train": ("train", "post-train a world model with a recipe"),
    "worlds": ("worlds", "list the worlds: size, actions, licence, parity, what is untried"),
    "prepare": ("prepare", "encode start images for an open world model, once"),
    "plan": ("plan", "show what a recipe needs: memory per GPU, files, matching checkpoints"),
    "profile": ("profile", "show where the time of one training step goes"),
    "signal": ("signal", "before a run: do its rewards give a direction to learn?"),
    "trajectories": ("trajectories", "write camera trajectories as WorldPlay's pose files"),
    "evaluate": ("evaluate", "score a world model on the fixed scenarios, with intervals"),
    "horizon": ("horizon", "imagine long videos, and say at which frame a world breaks down"),
    "imagine": ("imagine", "imagine a video from a picture along a path"),
    "judge": ("judge", "judge by what a viewer sees whether training changed the looks"),
    "ablate": ("ablate", "run a grid of recipes over seeds: does each part earn its place?"),
    "audit": ("audit", "test a critic against the engine before a run relies on it"),
    "critics train": ("critics_train", "train a critic of controls on your own recordings"),
    "serve-reward": ("serve_reward", "serve a critic over HTTP to other processes"),
    "rewards": ("rewards", "list critics and camera estimators, and what each needs"),
    "score": ("score", "score how well a video follows a path and how good it looks"),
    "play": ("play", "play the world in the browser, before and after post-training"),
    "vote-sheet": ("vote_sheet", "make a sheet for a blind vote: pairs, hidden controls, a form"),
    "votes": ("votes", "score blind votes from a sheet or from the browser"),
    "doctor": ("doctor", "report whether a run is learning, and what is wrong if not"),
    "export": ("export", "write the final weights and a model card, push them to a hub"),
    "report": ("report", "write the self-contained HTML page of a run"),
    "tables": ("tables", "combine seeds of a recipe into one result, and write tables from stored results"),
    "info": ("info", "show versions, devices and weights, for a bug report"),
    "doom levels": ("doom_levels", "show the levels made from a seed, or write their WAD files"),
    "doom collect": ("doom_collect", "record training data in the engine"),
    "doom pretrain": ("doom_pretrain", "train the embedded world's autoencoder and transformer"),
    "rooms pretrain": ("rooms_pretrain", "train the depth and the transformer of the world of rooms"),
    "rooms measure": ("rooms_measure", "measure weights of the world of rooms on held-out episodes"),
    "doom measure": ("doom_measure", "measure an embedded world's weights on held-out episodes"),
    "doom critics": ("doom_critics", "train the critics and the held-out judge"),
    "doom pickups": ("doom_pickups", "score a critic on scenes of pick-ups"),
    "doom pickup-critic": ("doom_pickup_critic", "train the detector of pick-ups"),
    "hands collect": ("hands_collect", "record training data in the engine"),
    "hands pretrain": ("hands_pretrain", "train the Hands world's frames between pictures and transformer"),
    "hands measure": ("hands_measure", "measure weights of the Hands world on held-out episodes"),
    "hands policies": ("hands_policies", "compare policies' success in the world model and in the engine"),
    "hands chains": (
        "hands_chains",
        "count sub-goals in a row that succeed in the world model and in the engine",
    ),
    "hands critics": ("hands_critics", "train the critics and the held-out judge"),
    "hands errands": ("hands_errands", "carry out instructions by scripted commands in the world model"),
    "hands measure-critics": (
        "hands_measure_critics",
        "measure critics and judges against the engine's truth",
    ),
}

WIDTH = max(map(len, COMMANDS)) + 2  # of the column of commands in --help

GROUPS = {
    "critics": "make critics of your own recordings",
    "doom": "make the embedded world: data, weights, critics",
    "rooms": "make the embedded world of legible rooms",
    "hands": "make the embedded world of a gripper over a table: data, weights, critics",
}

RESUMED = ("critics", "doom", "hands", "rooms", "prepare", "evaluate", "horizon", "judge", "vote-sheet")
"""First words of commands that the same words resume."""

# Errors of the operating system that a user can fix, even where they name no file; all others that name none keep
# their traceback.
_USER_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
    errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a UserError for invalid arguments."""

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument; a path may begin with ``~``, which a shell leaves alone in ``--out=~/x``."""
        if options.get("type") is Path:
            options["type"] = _path
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage and exiting."""
        raise UserError(f"{message} (see {self.prog} --help)")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; in a team of processes (``RANK`` is set) the process ends here.

    Returns:
        0 on success, 1 for a diseased run, 2 after a user error, 128 + N after signal N, such as 130 for Ctrl-C.
    """
    code = _outcome(list(sys.argv[1:] if argv is None else argv))
    if os.environ.get("RANK"):
        from worldcompass.parallel.team import end_rank

        end_rank(code)
    return code


def _outcome(words: list[str]) -> int:
    """Run a command, print its failure in one sentence, and return the exit code."""
    warnings.formatwarning = _warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # for signs and names that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        with notices_raise():
            code = _dispatch(words)
            print(
                end="", flush=True
            )  # unlike the stream itself also where a shell closed it, which leaves None
            return code
    except UserError as error:
        return _fail(str(error))
    except StoppedRun as stop:
        print(stop, file=sys.stderr)
        return EXIT_DISEASED
    except LostRank as loss:
        if LAUNCHED not in os.environ:  # else the launcher reports the lost rank
            print(f"error: {loss}", file=sys.stderr)
        return EXIT_LOST_RANK
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            return EXIT_SIGNAL + signal.SIGPIPE
        sentence = _sentence_of(error)
        if sentence is None:
            raise
        return _fail(sentence)
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'interrupted'}; {_resume_hint(words)}", file=sys.stderr)
        return EXIT_SIGNAL + stop.number if isinstance(stop, Interrupted) else EXIT_INTERRUPTED


def _sentence_of(error: OSError) -> str | None:
    """What to tell about an error of the operating system; None for one that a user cannot mend."""
    if isinstance(error, shutil.Error):  # several files failed, in a list; each with its own reason
        parts = [part for part in error.args if part]
        first = parts[0][0] if parts and isinstance(parts[0], list) else parts
        return f"cannot copy {first[0]}: {first[-1]}" if isinstance(first, tuple) else str(error)
    if isinstance(error, ConnectionError):
        return None
    if error.filename is not None and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return error.strerror if error.errno in _USER_ERRNOS else None


def _reader_has_left() -> bool:
    """Whether nobody reads the output any more, as after ``| head``; then what is left of it is dropped."""
    poll = select.poll() if hasattr(select, "poll") else None
    if poll is None:  # Windows
        return False
    poll.register(sys.stdout.fileno(), select.POLLERR)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
    return True


def _dispatch(words: list[str]) -> int:
    try:
        Path.cwd()
    except FileNotFoundError:  # PyTorch would end the process
        raise UserError("the current folder was deleted: change to one that exists") from None
    if words in (["--version"], ["-V"]):
        print(f"worldcompass {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in GROUPS and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(group_overview(words[0]))
        return 0
    name = _command_name(words)
    module = importlib.import_module(f"worldcompass.commands.{COMMANDS[name][0]}")
    args = build_parser(name, module).parse_args(words[len(name.split()) :])
    return module.run(args) or 0


def build_parser(name: str, module: ModuleType) -> Parser:
    """The parser of one command."""
    parser = Parser(
        prog=f"worldcompass {name}",
        description=(module.__doc__ or "").strip(),
        epilog=f"examples:\n{module.EXAMPLES.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def overview() -> str:
    """What ``worldcompass --help`` prints."""
    lines = [f"  {name:<{WIDTH}}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: worldcompass COMMAND [options]",
            "",
            "Reinforcement-learning post-training of interactive video world models.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            "  worldcompass demo                      # nothing to prepare, no GPU needed",
            "  worldcompass train doom_full           # longer than the demo: half an hour on 2 cores",
            "  worldcompass COMMAND --help            # options and examples of one command",
        ]
    )


def group_overview(group: str) -> str:
    """What ``worldcompass GROUP --help`` prints."""
    members = {name: text for name, (_, text) in COMMANDS.items() if name.startswith(f"{group} ")}
    return "\n".join(
        [
            f"usage: worldcompass {group} COMMAND [options]",
            "",
            f"{GROUPS[group].capitalize()}.",
            "",
            "commands, in the order to run them:",
            *[f"  {name:<{WIDTH}}{text}" for name, text in members.items()],
            "",
            "examples:",
            *[f"  worldcompass {name} --help" for name in members],
        ]
    )


def _command_name(words: list[str]) -> str:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name
    typed = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    near = difflib.get_close_matches(typed, [*COMMANDS, *GROUPS], n=1)
    hint = f"did you mean `worldcompass {near[0]}`?" if near else "see `worldcompass --help`"
    raise UserError(f"there is no command {typed!r}; {hint}")


def _resume_hint(words: list[str]) -> str:
    if words[:1] in (["demo"], ["train"]):
        again = words if "--resume" in words else [*words, "--resume"]
        return f"resume with: worldcompass {shlex.join(again)}"
    if words and words[0] in RESUMED:
        return f"resume with the same command: worldcompass {shlex.join(words)}"
    return f"start again with: worldcompass {shlex.join(words)}"


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format warnings of this package as one line, and others with their place as Python does."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
