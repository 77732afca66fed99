"""One stage of supervised training: its state, its loop, its file on disk; resumable after Ctrl-C and kill -9.

A stage can be made longer afterwards: resumed with more minutes it goes on from where its learning rate began to
fall.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from worldcompass.errors import StoppedRun
from worldcompass.media.progress import progress
from worldcompass.parallel.sharding import all_finite
from worldcompass.parallel.signals import Interrupted, finishing_the_step
from worldcompass.runs.atomic import write_tensors
from worldcompass.runs.network_files import metadata_of
from worldcompass.training.optim import MakeOptimizer

SAVE_SECONDS, LEAST_SECONDS = 180.0, 15.0  # between two saved states: at most, and at least
SAVES = 8  # of a short run
CHECKED_STEPS = 10  # steps between two looks at whether the losses are finite
MEASURED_STEPS = 30  # steps timed before minutes are turned into a number of steps
EMA_DECAY = 0.998
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Stage:
    """One stage of a training."""

    name: str
    minutes: float
    learning_rate: float
    warmup: int
    ema_decay: float = EMA_DECAY
    max_grad_norm: float = 1.0

    @property
    def save_seconds(self) -> float:
        """Between two saved states."""
        return min(SAVE_SECONDS, max(LEAST_SECONDS, 60 * self.minutes / SAVES))


def learning_rate(stage: Stage, step: int, total: int | None) -> float:
    """Warm-up, constant, then a cosine over the last half to 2 percent."""
    rate = stage.learning_rate * min(1.0, (step + 1) / stage.warmup)
    if total is None or step < total // 2:
        return rate
    share = (step - total // 2) / max(1, total - total // 2)
    return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass(frozen=True)
class _Saved:
    """How far a saved state was."""

    step: int
    total: int | None
    """Steps of the whole stage; None before they are known."""
    seconds: float
    minutes: float
    """Of the stage, when it was saved."""


class StageRun:
    """The mutable state of one stage: module, EMA copy, optimiser, step, chosen number of steps."""

    def __init__(
        self, stage: Stage, net: nn.Module, folder: Path, device: str, optimiser: MakeOptimizer
    ) -> None:
        self.stage, self.net, self.folder, self.device = stage, net.to(device), folder, device
        self.ema = copy.deepcopy(net).requires_grad_(False)
        self.optimiser = optimiser(list(net.parameters()), stage.learning_rate, WEIGHT_DECAY)
        self.step = 0
        self.total: int | None = None
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.stage.name}.state.safetensors"

    @property
    def _half_path(self) -> Path:
        """The state at half of the steps, before the learning rate falls."""
        return self.folder / f"{self.stage.name}.half.safetensors"

    def save(self, path: Path | None = None) -> None:
        """Everything needed to go on, in one file that replaces the last one at once."""
        path = path or self._path
        if not all_finite([*self.net.state_dict().values(), *self.ema.state_dict().values()]):
            raise self._broken("weights are not finite")
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        facts = _Saved(self.step, self.total, self.seconds, self.stage.minutes)
        whole = {k: v.contiguous().cpu() for k, v in tensors.items()}
        write_tensors(path, whole, {"facts": json.dumps(asdict(facts))})

    def resume(self) -> bool:
        """Continue from a saved state when there is one; with more minutes than it had, in proportion longer."""
        if not self._path.exists():
            return False
        saved = self._load(self._path)
        if saved.total is not None and self.stage.minutes > saved.minutes:
            if self._half_path.exists():
                saved = self._load(self._half_path)
            assert saved.total is not None, "the first half is saved once the total is known"
            self.total = round(saved.total * self.stage.minutes / saved.minutes)
        return True

    def _load(self, path: Path) -> _Saved:
        """Take over a saved state, and return how far it was."""
        tensors = load_file(path)
        saved = _Saved(**json.loads(metadata_of(path)["facts"]))
        for prefix, module in (("net.", self.net), ("ema.", self.ema)):
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.step, self.total, self.seconds = saved.step, saved.total, saved.seconds
        return saved

    def run(
        self, loss_of: Callable[[int], Tensor], evaluate: Callable[[nn.Module], dict[str, float]]
    ) -> nn.Module:
        """Train to the end of the stage and return the EMA weights.

        Raises:
            Interrupted: after a signal, once the step is over and saved.
            StoppedRun: when a loss or weights are not finite.
        """
        with finishing_the_step() as stopped, _Bar(self.stage.name) as show:
            return self._run(loss_of, evaluate, stopped, show)

    def _run(
        self,
        loss_of: Callable[[int], Tensor],
        evaluate: Callable[[nn.Module], dict[str, float]],
        stopped: Callable[[], int | None],
        show: Callable[[int, int], None],
    ) -> nn.Module:
        log = (self.folder / f"{self.stage.name}.jsonl").open("a", encoding="utf-8")
        begun = saved = time.monotonic()
        losses: list[Tensor] = []
        counted = self.step
        while self.total is None or self.step < self.total:
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.stage, self.step, self.total)
            loss = loss_of(self.step)
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.stage.max_grad_norm)
            self.optimiser.step()
            self._follow()
            self.step += 1
            losses.append(loss.detach())
            if self.step % CHECKED_STEPS == 0:
                self._check(losses)
            now = time.monotonic()
            if self.total is None and self.step == MEASURED_STEPS:
                self.total = max(
                    MEASURED_STEPS + 1, int(self.stage.minutes * 60 / (now - begun) * MEASURED_STEPS)
                )
            if self.total is not None:
                show(self.step, self.total)
            if self.total is not None and self.step == self.total // 2:
                self.save(self._half_path)
            if now - saved > self.stage.save_seconds or self.step == self.total:
                self._check(losses)
                self.seconds += now - saved
                self._plan_anew((now - saved) / (self.step - counted))
                saved, counted = now, self.step
                self.save()
                row = {"step": self.step, "total": self.total, "seconds": round(self.seconds)}
                row |= {"loss": float(torch.stack(losses).mean()), **evaluate(self.ema)}
                losses.clear()
                log.write(json.dumps(row) + "\n")
                log.flush()
                print(self.stage.name, json.dumps(row), flush=True)
            if (number := stopped()) is not None and self.step != self.total:
                self._check(losses)
                self.seconds += time.monotonic() - saved
                self.save()
                raise Interrupted(number, f"saved step {self.step} of {self.stage.name}")
        log.close()
        return self.ema.eval()

    def _plan_anew(self, seconds_per_step: float) -> None:
        """Choose the number of steps once more while the learning rate is still constant.

        Not on a CPU, whose first steps are like all others and whose runs can be repeated exactly.
        """
        if self.device != "cpu" and self.total is not None and self.step < self.total // 2:
            left = 60 * self.stage.minutes - self.seconds
            self.total = self.step + max(1, int(left / seconds_per_step))

    def _check(self, losses: list[Tensor]) -> None:
        """Stop where a loss is not finite; now and then, since asking makes an accelerator wait."""
        if losses and not bool(torch.stack(losses).isfinite().all()):
            raise self._broken("the loss is not finite")

    def _broken(self, what: str) -> StoppedRun:
        return StoppedRun(
            f"{self.stage.name} stopped at step {self.step}: {what}; resume from the last saved step with the same"
            " command, or lower the stage's learning rate"
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """The EMA follows; faster in the beginning so that it forgets the random start."""
        decay = min(self.stage.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = list(zip(self.ema.state_dict().values(), self.net.state_dict().values(), strict=True))
        floats = [(old, new) for old, new in pairs if old.dtype.is_floating_point]
        get_ema_multi_avg_fn(decay)([old for old, _ in floats], [new for _, new in floats], self.step)
        for old, new in pairs:
            if not old.dtype.is_floating_point:
                old.copy_(new)


class _Bar:
    """Progress with the remaining time, from when the number of steps is known; begun anew when it changes."""

    def __init__(self, what: str) -> None:
        self._what, self._total, self._stack = what, 0, ExitStack()

    def __enter__(self) -> Callable[[int, int], None]:
        return self._show

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _show(self, step: int, total: int) -> None:
        if total != self._total:
            self._stack.close()
            self._total, self._advance = total, self._stack.enter_context(progress(self._what, total))
        self._advance(step)
