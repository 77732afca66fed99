"""Real processes that train the toy world together; for tests/parallel/test_distributed.py.

This file is a recipe too: ``worldcompass train ranks.py:toy --nproc 2``. With ``DIE=1:3`` in the environment
rank 1 kills itself after the third step, once; with ``FAIL=1:3`` it raises an exception there.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from forked import hurry, server
from torch import nn

from worldcompass.errors import EXIT_LOST_RANK, LostRank
from worldcompass.parallel.team import Team, end_at_once, joined
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyCleanliness, ToyNet, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora
from worldcompass.training.optim import Optimiser, adamw, muon
from worldcompass.training.policy import Policy
from worldcompass.training.selection import Learning

DEADLINE = 400.0  # seconds; for busy machines, where ranks wait for each other
SMALL = Config(
    steps=3,
    sampling=Sampling(prompts_per_step=4, group_size=4, last_chunk=1, denoising_steps=3),
    learning=Learning(best=1, worst=1, noise_levels=2, micro_rows=8),
    optimiser=Optimiser(max_grad_norm=0.05, lr=0.01, make_optimizer=adamw),
    keeping=Keeping(save_every=1),
)
SAVED_ONCE = SMALL.changed(save_every=SMALL.steps)
VARIANTS = {
    "full": SAVED_ONCE,
    "muon": SAVED_ONCE.changed(make_optimizer=muon, updates_per_rollout=2, kl_weight=0.1, probe_every=3),
    "lora": SAVED_ONCE.changed(lora=Lora(rank=2, alpha=2.0)),
    "bf16": SAVED_ONCE.changed(autocast_bf16=True, steps=1),
}
SPREAD = {
    "plain": {},
    "sharded": {"shard": True},
    "gathered in bf16": {"shard": True, "gather_bf16": True},
    "hybrid, offloaded": {"shard": True, "shard_within": 2, "offload": True},
    "one group on two": {"ranks_per_group": 2},
    "one group on two, sharded": {"ranks_per_group": 2, "shard": True},
}
"""Ways to share a run among processes."""


class Layered(ToyNet):
    """The toy's network, its layers being units of their own."""

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        yield (self.inner,)


def toy_world() -> ToyWorld:
    world = ToyWorld()
    world.net = Layered()
    return world


def post_train(
    out: Path, config: Config, resume: bool = False, on_step: Any = None, live: bool = False
) -> Policy:
    critics = (ToyObedience(), ToyCleanliness())
    with bf16_anywhere():
        return train(toy_world(), critics, toy_scenarios(8), config, out, resume, on_step, live)


def bf16_anywhere() -> Any:
    """A context in which runs in bfloat16 start on CPUs without its instructions too: slow, not wrong."""
    return patch("worldcompass.training.preflight.computes_bf16", lambda device: True)


def outcome(out: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What each step told, and everything that the last checkpoint holds."""
    from worldcompass.runs.checkpoint import latest_checkpoint, load_checkpoint

    told = ("loss", "grad_norm", "deviation", "behaviour_lag", "forward_passes")
    rows = [{n: row.numbers()[n] for n in told} for row in read_metrics(out / "metrics.jsonl")]
    folder = latest_checkpoint(out / "checkpoints")
    assert folder is not None
    return rows, load_checkpoint(folder)[0]


def together(size: int, work: Callable[..., None], *args: Any) -> list[int | None]:
    """Run ``work(*args)`` in processes that have joined; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [server().Process(target=_joined, args=(rank, size, port, work, args)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(DEADLINE)
        rank.kill()
        rank.join()
    return [rank.exitcode for rank in ranks]


def _joined(rank: int, size: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    hurry()
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with joined():
            work(*args)
    except LostRank:
        end_at_once(EXIT_LOST_RANK)  # as the command does


@dataclass(frozen=True)
class ToyRecipe:
    config: Config = SMALL

    def run(self, out: Path, device: str, resume: bool) -> None:
        way = "DIE" if "DIE" in os.environ else "FAIL"
        die_rank, _, die_step = os.environ.get(way, "-1:0").partition(":")

        def die(step: int, metrics: Any, policy: Policy) -> None:
            if "SLOW" in os.environ:
                time.sleep(0.3)
            mark = out / f"died_at_{die_step}"
            if Team.current().rank == int(die_rank) and step == int(die_step) and not mark.exists():
                mark.touch()
                if way == "FAIL":
                    raise ValueError("planted by a test")
                os.kill(os.getpid(), signal.SIGKILL)

        post_train(out, self.config, resume, die, live=True)


def toy() -> ToyRecipe:
    return ToyRecipe()
