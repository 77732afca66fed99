"""The command line: help at every level, one path for errors, settings from the command line."""

import dataclasses
import enum
import errno
import importlib
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from worldcompass import cli
from worldcompass.commands import _options, info
from worldcompass.errors import UserError
from worldcompass.media.video import save_png
from worldcompass.recipes.load import load_recipe
from worldcompass.recipes.overrides import override, parse_value
from worldcompass.settings import flattened
from worldcompass.training.config import Config


def command(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worldcompass", *words], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["help"]])
def test_overview_lists_every_command(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"usage: worldcompass {name}" in out
    assert f"examples:\n  worldcompass {name}" in out


@pytest.mark.parametrize("words", [["doom"], ["doom", "--help"]])
def test_group_help(words, capsys):
    assert cli.main(words) == 0
    assert "doom pretrain" in capsys.readouterr().out


def test_help_is_quick_and_imports_nothing_heavy():
    script = "import sys; from worldcompass import cli; cli.main(['--help']); print('torch' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert computed < 3, "0.1 s, however busy the machine; this only guards against a heavy import"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dmo"], "there is no command 'dmo'; did you mean `worldcompass demo`?"),
        (["doom", "colect"], "did you mean `worldcompass doom collect`?"),
        (["zzz"], "see `worldcompass --help`"),
        (["demo", "--sed", "1"], "unrecognized arguments: --sed 1 (see worldcompass demo --help)"),
        (["demo", "--seed", "x"], "whole number of 0 or more, not 'x'"),
        (["demo", "--device", "tpu"], "unknown device 'tpu'"),
        (["demo", "--device", "cuda:99"], "device cuda:99 is not available"),
        (["doom", "collect", "--frames", "0"], "whole number of 1 or more"),
        (["doom", "pretrain", "--minutes-world", "-1"], "number of minutes above 0"),
        (["doom", "critics", "--data", "absent"], "absent is not a folder"),
        (["report", "absent"], "absent is not a run folder"),
        (["report", __file__], "is not a run folder: it is a file"),
        (["export", __file__, "--out", "absent"], "is not a run folder: it is a file"),
        (["doctor", __file__], "is a file: expected the folder of a run"),
        (
            ["prepare", "--model", "nano", "--images", "absent", "--out", "x"],
            "there is no absent: expected a folder of images",
        ),
        (
            ["judge", ".", "--world", "nano:smoke", "--recordings", str(Path(__file__).parent)],
            "holds no recordings",
        ),
        (["doctor", "absent"], "absent is not a run folder"),
        (["train"], "name a recipe"),
        (["train", "doom_ful"], "there is no recipe 'doom_ful'"),
        (["train", "absent.py:smoke"], "there is no recipe file absent.py"),
    ],
)
def test_user_errors_are_one_sentence_and_exit_code_2(words, sentence, capsys):
    assert cli.main(words) == cli.EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert sentence in captured.err


def test_no_traceback_from_the_shell(tmp_path):
    result = command("report", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path} is not a run folder: expected results.json or metrics.jsonl in it\n"
    )


def fake_command(monkeypatch, failure: BaseException) -> None:
    def run(_args):
        raise failure

    module = SimpleNamespace(__doc__="Fails.", EXAMPLES="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)


def test_output_that_nobody_reads_any_more_is_no_error():
    reader = "import sys; sys.stdin.readline()"
    words = f"{sys.executable} -m worldcompass train doom_full --list | {sys.executable} -c '{reader}'"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {words}"], capture_output=True, text=True)
    assert result.stderr == ""
    assert result.returncode in (0, 128 + signal.SIGPIPE)  # 0: it had written all before the reader left


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    fake_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["demo"]) == cli.EXIT_INTERRUPTED
    assert "interrupted; resume with: worldcompass demo --resume" in capsys.readouterr().err
    assert cli.main(["info"]) == cli.EXIT_INTERRUPTED
    assert "start again with: worldcompass info" in capsys.readouterr().err
    for resumed in ("judge", "evaluate"):
        assert cli.main([resumed]) == cli.EXIT_INTERRUPTED
        assert f"resume with the same command: worldcompass {resumed}" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_outside_of_training_stops_at_once_and_says_how_to_go_on(number, monkeypatch, capsys):
    def run(_args):
        os.kill(os.getpid(), number)

    module = SimpleNamespace(__doc__="Waits.", EXAMPLES="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    before = signal.getsignal(number)
    assert cli.main(["demo"]) == 128 + number
    assert "resume with: worldcompass demo --resume" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_full_disk_is_a_sentence_and_a_bug_is_a_traceback(monkeypatch, capsys):
    fake_command(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "runs/demo/x"))
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "error: No space left on device: runs/demo/x\n"
    fake_command(monkeypatch, OSError(errno.EBADF, "Bad file descriptor"))
    with pytest.raises(OSError, match="Bad file"):
        cli.main(["demo"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x.mp4"), "File name too long: x.mp4"),
        (OSError(errno.EINVAL, "Invalid argument", "run"), "Invalid argument: run"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (
            shutil.Error([("a", "b", "[Errno 13] Permission denied: 'a'")]),
            "cannot copy a: [Errno 13] Permission",
        ),
        (shutil.SameFileError("a and b are the same file"), "a and b are the same file"),
    ],
)
def test_an_error_that_names_its_file_is_a_sentence(error, said, monkeypatch, capsys):
    fake_command(monkeypatch, error)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_names_too_long_for_the_file_system_are_said_before_long_work(capsys, tmp_path):
    long = "x" * 300
    picture = str(tmp_path / "a.png")
    save_png(Path(picture), np.zeros((3, 48, 64), np.uint8))
    for words in (
        ["doctor", long],
        ["train", f"{long}.py:toy"],
        ["imagine", "--image", long, "--path", "w-3"],
        ["imagine", "--image", picture, "--path", "w-3", "--out", f"{long}.mp4"],
    ):
        assert cli.main(words) == 2
        assert "File name too long" in capsys.readouterr().err


def test_a_tilde_after_an_equals_sign_is_the_home_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = cli.build_parser("export", importlib.import_module("worldcompass.commands.export"))
    assert parser.parse_args(["~/run", "--out=~/x"]).out == tmp_path / "x"
    with pytest.raises(UserError, match="~nobody-of-this-name/x"):
        parser.parse_args(["run", "--out", "~nobody-of-this-name/x"])


def test_every_fact_stands_apart_from_its_name(capsys):
    assert cli.main(["info"]) == 0
    assert all("  " in line for line in capsys.readouterr().out.splitlines())


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("worldcompass 0.")


def test_info_names_what_a_bug_report_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(info, "WORLDS", tmp_path)
    file = tmp_path / "pond" / "weights" / "a_world_with_a_very_long_name.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"abc")
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ("worldcompass", "python", "platform", "cpus", "torch threads", "cuda", "vizdoom")
    for name in (*names, f"weights/{file.name}"):
        assert [line for line in lines if line.startswith(f"{name}  ")], "a gap before the next column"
    assert lines[-1].endswith("  0.0 MiB, sha256 ba7816bf8f01")


def test_report_command_prints_the_page(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rewards": {}, "loss": 1}\n')
    assert cli.main(["report", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


def test_devices():
    assert _options.check_device("cpu") == "cpu"
    assert _options.check_device("auto") in ("cpu", "cuda")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Inner:
    decay: float = 0.9


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    rate: float = 1e-4
    name: str = "a"
    compile: bool = False
    out: Path = Path("x")
    limit: int | None = None
    kind: Literal["sample", "global"] = "sample"
    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    names: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    critic: object = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


@pytest.mark.parametrize(
    ("assignment", "name", "value"),
    [
        ("steps=3", "steps", 3),
        ("rate=2e-5", "rate", 2e-5),
        ("name=b=c", "name", "b=c"),
        ("compile=true", "compile", True),
        ("out=/y", "out", Path("/y")),
        ("limit=4", "limit", 4),
        ("limit=none", "limit", None),
        ("kind=global", "kind", "global"),
        ("colour=BLUE", "colour", Colour.BLUE),
        ("sizes=(3,4,5)", "sizes", (3, 4, 5)),
        ("pair=3,4", "pair", (3, 4.0)),
        ("names=a,b", "names", ["a", "b"]),
        ("weights.quality=0.5", "weights", {"quality": 0.5}),
        ("inner.decay=0.5", "inner", Inner(0.5)),
    ],
)
def test_overrides_are_typed(assignment, name, value):
    changed = override(Settings(), [assignment])
    assert getattr(changed, name) == value
    assert dataclasses.replace(changed, **{name: getattr(Settings(), name)}) == Settings()


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("stepz=3", "there is no setting 'stepz'; nearest: steps"),
        ("inner.decai=3", "there is no setting 'inner.decai'; nearest: inner.decay"),
        ("steps.x=3", "steps has no settings inside it"),
        ("steps=many", "steps must be a whole number, not 'many'"),
        ("steps=0", "steps must be at least 1"),
        ("limit=x", "limit must be a whole number"),
        ("compile=maybe", "compile must be one of"),
        ("kind=both", "kind must be one of sample, global, not 'both'"),
        ("pair=1", "pair needs 2 values"),
        ("critic=x", "critic cannot be set from the command line"),
        ("steps", "expected key=value"),
    ],
)
def test_bad_overrides_say_what_is_wrong(assignment, sentence):
    with pytest.raises(UserError) as raised:
        override(Settings(), [assignment])
    assert sentence in str(raised.value)


def test_settings_are_listed_flat():
    assert flattened(Settings())["inner.decay"] == 0.9


def test_every_listed_recipe_can_be_made(capsys):
    assert cli.main(["train", "--list"]) == 0
    *lines, own = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert all(len(line.split()) > 3 for line in lines) and "FILE.py:FUNCTION" in own
    assert {"demo", "hands_demo", "minwm", "nano", "waypoint", "forgewm"} <= set(names)
    assert all(load_recipe(name)().config.steps for name in names)


def test_settings_are_listed_with_what_they_do(capsys):
    assert cli.main(["train", "doom_full", "--list"]) == 0
    out = capsys.readouterr().out
    assert "config.sampling.group_size = 12\n    G: candidate futures of one chunk.\n" in out
    assert "config.rewards.scale = worldcompass.training.advantages." in out and "<function" not in out


def test_a_recipe_in_a_folder_with_a_colon_is_found(tmp_path):
    folder = tmp_path / "10:20"
    folder.mkdir()
    (folder / "mine.py").write_text("def mine():\n    return 1\ndef other():\n    return 2\n")
    assert load_recipe(f"{folder}/mine.py")() == 1
    assert load_recipe(f"{folder}/mine.py:other")() == 2


def test_own_recipe_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def smoke():\n    return None\n")
    assert load_recipe(f"{file}:smoke").__name__ == "smoke"
    with pytest.raises(UserError, match="no recipe function 'absent'"):
        load_recipe(f"{file}:absent")


def test_settings_that_fit_only_together_may_come_in_any_order():
    smaller = ["group_size=4", "best=2", "worst=2"]
    for order in itertools.permutations(smaller):
        config = override(Config(), order)
        assert (config.sampling.group_size, config.learning.best, config.learning.worst) == (4, 2, 2)
    with pytest.raises(UserError, match=r"^best \+ worst must be .*; got group_size=4, best=9"):
        override(Config(), ["group_size=4", "best=9"])


def test_training_configuration_can_be_overridden():
    module = pytest.importorskip("worldcompass.training.loop", reason="the training loop")
    config = override(module.Config(**required(module.Config)), ["lr=0.001", "seed=3"])
    assert (config.optimiser.lr, config.seed) == (0.001, 3)


def test_the_doctor_is_told_what_to_do_from_the_command_line(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass, field\nfrom worldcompass.errors import StoppedRun\n"
        "from worldcompass.training.config import Config\n"
        "@dataclass(frozen=True)\nclass Mine:\n    config: Config = field(default_factory=Config)\n"
        "    def run(self, out, device, resume):\n        raise StoppedRun(self.config.keeping.on_disease)\n"
    )
    words = ["train", f"{file}:Mine", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--on-disease", "rollback"]) == cli.EXIT_DISEASED
    assert capsys.readouterr().err == "rollback\n"
    assert cli.main([*words, "--set", "config.on_disease=pray"]) == cli.EXIT_USER_ERROR
    assert "must be one of warn, stop, rollback" in capsys.readouterr().err


def required(kind: type) -> dict[str, int]:
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    return {f.name: 1 for f in fields if f.default is missing and f.default_factory is missing}


def test_package_warnings_are_one_line_and_others_show_their_place(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert cli.main(["--version"]) == 0
    own = str(Path(cli.__file__).parent / "train.py")
    said = warnings.formatwarning("a checkpoint is damaged", UserWarning, own, 3)
    assert said == "warning: a checkpoint is damaged\n"
    said = warnings.formatwarning("old", UserWarning, "/lib/torch/x.py", 3)
    assert said == "/lib/torch/x.py:3: UserWarning: old\n"


def test_a_type_that_only_type_checkers_know_stops_no_other_setting(tmp_path, monkeypatch):
    (tmp_path / "checked.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pathlib import Path\n"
        "@dataclass(frozen=True)\nclass Base:\n    gain: float = 1.0\n"
        "@dataclass(frozen=True)\nclass Toy(Base):\n    extra: Path | None = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("checked").Toy()
    assert override(toy, ["gain=2"]).gain == 2.0
    with pytest.raises(UserError, match="extra cannot be set from the command line: its type is unknown"):
        override(toy, ["extra=x"])


def test_a_recipe_imports_its_neighbours_and_they_hide_no_library(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "parts_beside_a_recipe.py").write_text("STEPS = 3\n")
    (tmp_path / "json.py").write_text("raise ImportError('hidden')\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\nfrom parts_beside_a_recipe import STEPS\ndef mine():\n    return json, STEPS\n"
    )
    library, steps = load_recipe(f"{file}:mine")()
    assert steps == 3 and library.loads("1") == 1


def test_a_linked_recipe_has_the_neighbours_of_its_file(tmp_path, monkeypatch):
    """As a linked script has."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "part_beside_a_linked_recipe.py").write_text("STEPS = 3\n")
    (tmp_path / "real" / "mine.py").write_text(
        "from part_beside_a_linked_recipe import *\nmine = lambda: STEPS\n"
    )
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "mine.py")
    assert load_recipe(f"{tmp_path}/link.py:mine")() == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "def mine(weights, device='cpu'):\n    pass\n",
            r"needs arguments \(weights\): a recipe is a function",
        ),
        ("def mine():\n    return 3\n", "returned int: expected a frozen dataclass with a method run"),
        (
            "def mine():\n    return 1 / 0\n",
            r"mine\.py failed: ZeroDivisionError: division by zero, mine\.py line 2",
        ),
        ("class mine:\n    pass\n", "returned mine: expected a frozen dataclass"),
        ("import dataclasses\n@dataclasses.dataclass\nclass mine:\n    a: int = 1\n", "has no method run"),
        ("import sys\nsys.exit(3)\n", r"cannot be imported \(SystemExit"),
        ("def mine(:\n", r"cannot be imported \(invalid syntax"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(body, said, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(body)
    assert cli.main(["train", str(file), "--out", str(tmp_path / "out")]) == cli.EXIT_USER_ERROR
    words = capsys.readouterr().err
    assert words.count("\n") == 1 and re.search(said, words), words
    assert not (tmp_path / "out").exists()


def test_a_tilde_is_the_users_home_in_settings_and_files(tmp_path, monkeypatch):
    """A shell leaves it alone in ``--set key=~/x`` and ``--world=~/w.py:make``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_value("~/x", Path, "source.checkpoints") == tmp_path / "x"
    assert parse_value("~/x", Path | None, "source.poses") == tmp_path / "x"
    (tmp_path / "own.py").write_text("def make(*_):\n    return 7\n")
    assert load_recipe("~/own.py:make")() == 7
    with pytest.raises(UserError, match="~nobody_here/x"):
        parse_value("~nobody_here/x", Path, "key")


def test_a_closed_output_is_no_fault_of_a_command(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after >&-
    assert cli.main(["--version"]) == 0


def test_a_folder_that_was_deleted_is_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == "error: the current folder was deleted: change to one that exists\n"
