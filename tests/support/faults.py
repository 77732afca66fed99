"""Real processes that train the toy world and die where they are told to, for test_kills.py and `make soak`.

This file is a recipe too, ``worldcompass train faults.py:toy``: with ``FUSE=update:7`` in the environment the
process kills itself, by SIGKILL, at the seventh event of that kind. Processes come from the server of forked.py.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from forked import server
from safetensors.torch import load_file, save_file

from worldcompass import cli
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser, muon
from worldcompass.training.selection import Learning

STAGES = ("rollout", "rewards", "update", "optimiser", "checkpoint", "log")
EVENTS_PER_STEP = {"rollout": 4, "rewards": 2, "update": 1, "optimiser": 1, "checkpoint": 5, "log": 1}
"""At least so many events of each kind in a step of ``toy`` that saves."""
DEADLINE = 120.0  # seconds
SMALL = Config(
    steps=8,
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1, denoising_steps=3),
    learning=Learning(best=1, worst=1, noise_levels=2),
    optimiser=Optimiser(lr=0.01),
    keeping=Keeping(save_every=2),
)
_FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


class _Fuse:
    """Kills this process at the n-th event of a kind; without FUSE it never does."""

    def __init__(self) -> None:
        self.stage, _, count = os.environ.get("FUSE", "").partition(":")
        self.left = int(count or 0)

    def burn(self, stage: str) -> None:
        if stage == self.stage:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch_files(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: every use of a file of a checkpoint, whatever its format, and of the metrics."""
        if event in _FILE_EVENTS:
            path = str(args[0])
            if "metrics" in path:
                self.burn("log")
            elif (
                "checkpoints" in path or event != "open"
            ):  # what is inside of a folder goes by relative names
                self.burn("checkpoint")


class _World(ToyWorld):
    def __init__(self, fuse: _Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def predict_clean(self, *args: Any) -> torch.Tensor:
        self.fuse.burn("update" if torch.is_grad_enabled() else "rollout")
        return super().predict_clean(*args)


class _Obedience(ToyObedience):
    """Scores, and holds on for ever where a file named ``hold`` asks for it."""

    def __init__(self, fuse: _Fuse, out: Path) -> None:
        self.fuse, self.out = fuse, out

    def __call__(self, group: Any) -> Any:
        self.fuse.burn("rewards")
        while (self.out / "hold").exists():
            (self.out / "held").touch()
            time.sleep(0.01)
        return super().__call__(group)


@dataclass(frozen=True)
class Toy:
    config: Config = SMALL

    def run(self, out: Path, device: str, resume: bool) -> None:
        fuse = _Fuse()

        def make_optimizer(*args: Any) -> torch.optim.Optimizer:
            optimizer = muon(*args)
            optimizer.register_step_post_hook(lambda *_: fuse.burn("optimiser"))
            return optimizer

        def count(step: int, *_: Any) -> None:
            with (out / "steps_done").open("a") as file:
                file.write(f"{step}\n")

        config = self.config.changed(make_optimizer=make_optimizer)
        sys.addaudithook(fuse.watch_files)
        elsewhere = os.environ.get("CRITIC")
        obedience = RemoteCritic(elsewhere, tries=2) if elsewhere else _Obedience(fuse, out)
        critics = [obedience, ToyCleanliness()]
        policy = train(_World(fuse), critics, toy_scenarios(8), config, out, resume, count, live=False)
        save_file(policy.state(), out / "final.safetensors")


def toy() -> Toy:
    return Toy()


def start(
    out: Path, *options: str, fuse: str = "", file_limit: int | None = None, critic: str = ""
) -> BaseProcess:
    """A process that runs ``worldcompass train`` on the toy; its words go to a file beside ``out``.

    Args:
        fuse: ``STAGE:N``, where it kills itself.
        file_limit: bytes that a file of it may have, a poor man's full disk.
        critic: address of the process that scores obedience; by itself when empty.
    """
    words = ["train", f"{__file__}:toy", "--out", str(out), "--device", "cpu", *options]
    process = server().Process(target=_main, args=(words, fuse, file_limit, critic, words_of(out)))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """The exit code of a process, minus the signal's number where one killed it."""
    process.join(DEADLINE)
    assert process.exitcode is not None, "the process did not end"
    return process.exitcode


def wait_for_step(out: Path, step: int) -> None:
    """Return once that step is in the metrics."""
    wait_for(lambda: (rows := read_metrics(out / "metrics.jsonl")) and rows[-1].step >= step)


def wait_for(holds: Callable[[], Any]) -> None:
    """Return once something holds."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def words_of(out: Path) -> Path:
    """Everything that the processes of a run have said."""
    return out.parent / f"{out.name}.words"


def outcome(out: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Metrics without times and failed tries, and the bytes of all final weights and averages."""
    own = ("seconds", "failed_tries")
    rows = [
        {k: v for k, v in row.to_json().items() if k not in own}
        for row in read_metrics(out / "metrics.jsonl")
    ]
    return rows, {name: t.numpy().tobytes() for name, t in load_file(out / "final.safetensors").items()}


def serve_obedience(groups: int = 0) -> tuple[BaseProcess, str]:
    """A process that scores obedience, and its address, once it answers; it kills itself at a group's number."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = server().Process(target=_serve, args=(port, groups))
    process.start()
    wait_for(lambda: _answers(port))
    return process, f"http://127.0.0.1:{port}"


class _Mortal(ToyObedience):
    """Kills its process at a group's number; 0 is never."""

    def __init__(self, groups: int) -> None:
        self.left = groups

    def __call__(self, group: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(group)


def _serve(port: int, groups: int) -> None:
    import uvicorn

    from worldcompass.serving.scoring import application

    torch.set_num_threads(1)
    uvicorn.run(
        application(_Mortal(groups), ToyWorld().spec), host="127.0.0.1", port=port, log_level="critical"
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _main(words: list[str], fuse: str, file_limit: int | None, critic: str, words_file: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"FUSE": fuse, "CRITIC": critic}
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    with words_file.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(cli.main(words))
