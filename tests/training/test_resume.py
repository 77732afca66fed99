"""A folder that holds a run is resumed by itself; other settings are shown, and taken only when asked to."""

import random
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldcompass import cli
from worldcompass.cost.plan import Plan, States
from worldcompass.cost.trace import Traced
from worldcompass.doctor import diagnose, read_record
from worldcompass.errors import UserError
from worldcompass.runs.checkpoint import latest_checkpoint, load_checkpoint
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.requirements import GIB
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser, adamw
from worldcompass.training.selection import Learning
from worldcompass.types import Scores

OF_VERSION_1 = Path(__file__).parent.parent / "golden" / "run_of_version_1"
TINY = Config(
    steps=2,
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1, denoising_steps=3),
    learning=Learning(best=1, worst=1, noise_levels=2),
    optimiser=Optimiser(lr=0.01),
    keeping=Keeping(save_every=1),
)


@dataclass(frozen=True)
class Toy:
    """The recipe that these tests train with: this file is one."""

    config: Config = TINY
    gain: float = 1.0

    def run(self, out: Path, device: str, resume: bool) -> None:
        train_toy(out, self.config, resume, live=True)


def toy() -> Toy:
    return Toy()


@dataclass(frozen=True)
class Steps:
    steps: int = 2


@dataclass(frozen=True)
class Plain:
    """A recipe whose settings are no ``Config``."""

    config: Steps = field(default_factory=Steps)
    gain: float = 2.0

    def run(self, out: Path, device: str, resume: bool) -> None:
        train_toy(out, TINY.changed(steps=self.config.steps), resume)


@dataclass(frozen=True)
class Hungry(Toy):
    def run(self, out: Path, device: str, resume: bool) -> None:
        raise torch.OutOfMemoryError(TOLD)


@dataclass(frozen=True)
class Estimated(Hungry):
    def needs(self) -> SimpleNamespace:
        return SimpleNamespace(config=self.config)


TOLD = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


def train_toy(out, config, resume=False, critics=(), live=False):
    critics = critics or (ToyObedience(), ToyCleanliness())
    return train(ToyWorld(), critics, toy_scenarios(4), config, out, resume, live=live)


def command(out, *words, function="toy"):
    sys.modules.pop(f"_recipe_{Path(__file__).stem}", None)
    recipe, fixed = f"{__file__}:{function}", ("--device", "cpu", "--set", "config.steps=3")
    return cli.main(["train", recipe, "--out", str(out), *fixed, *words])


@pytest.mark.parametrize("words", [["train", "demo"], ["train", "hands_demo"], ["demo"]], ids=" ".join)
def test_a_folder_with_a_run_of_another_kind_is_refused_without_a_notice(words, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(OF_VERSION_1, out)
    assert cli.main([*words, "--out", str(out), "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {out} is not an empty folder and holds no run: choose another --out\n"
    assert said.out == ""


def test_the_same_command_resumes_and_changed_settings_need_acceptance(tmp_path, capsys):
    out = tmp_path / "run"
    train_toy(out, TINY)
    assert command(out) == 0
    said = capsys.readouterr().out
    assert f"{out} holds a run: resuming after step 2" in said
    assert f"worldcompass report {out}; its weights: worldcompass export {out} --out FOLDER" in said
    assert [row.step for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]
    changed = (
        "--set",
        "config.lr=0.5",
        "--set",
        "config.behaviour_decay.lowest=0.1",
        "--set",
        "config.steps=4",
    )
    assert command(out, *changed) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {out} holds a run with other settings (saved -> now):",
        "  behaviour_decay.lowest: 0.2 -> 0.1",
        "  lr: 0.01 -> 0.5",
        "give the same settings, choose another --out, or resume with these by --accept-changes",
    ]
    assert command(out, *changed, "--accept-changes") == 0
    _, state = load_checkpoint(latest_checkpoint(out / "checkpoints"))
    assert state.step == 4 and state.run["lr"] == 0.5 and state.config["keeping"]["recipe"].endswith(":toy")
    assert state.optimizer["param_groups"][0]["initial_lr"] == 0.5
    (deed,) = diagnose(read_record(out)).history
    assert deed == "Resumed with changed settings after step 3: behaviour_decay.lowest, lr."
    with pytest.raises(UserError, match="make_optimizer") as refused:
        train_toy(out, TINY.changed(make_optimizer=adamw, accept_changes=True), resume=True)
    assert "--accept-changes" not in str(refused.value), "another optimiser cannot take the state over"


def test_a_recipes_own_settings_are_compared_too(tmp_path, capsys):
    """Also of a recipe without a configuration of its own; runs without them are resumed."""
    for function in ("toy", "Plain"):
        out = tmp_path / function
        words = ["--set", "gain=2"] if function == "toy" else []
        assert command(out, *words, function=function) == 0
        _, state = load_checkpoint(latest_checkpoint(out / "checkpoints"))
        assert state.run["recipe_settings"]["gain"] == 2.0
        capsys.readouterr()
        assert command(out, "--set", "gain=3", "--set", "config.steps=4", function=function) == 2
        assert "(saved -> now):\n  gain: 2.0 -> 3.0\n" in capsys.readouterr().err
        changed = ("--set", "gain=3", "--set", "config.steps=4", "--accept-changes")
        assert command(out, *changed, function=function) == 0
        assert read_metrics(out / "metrics.jsonl")[-1].step == 4
    train_toy(tmp_path / "python", TINY)
    assert command(tmp_path / "python", "--set", "gain=3") == 0, "nothing is known of a run from Python"


def test_more_steps_are_a_changed_setting_where_the_rate_falls_along_them(tmp_path):
    falling = TINY.changed(lr_end=0.1)
    train_toy(tmp_path / "run", falling)
    longer = falling.changed(steps=TINY.steps + 1)
    with pytest.raises(UserError, match=rf"steps: {TINY.steps} -> {TINY.steps + 1}"):
        train_toy(tmp_path / "run", longer, resume=True)
    train_toy(tmp_path / "run", longer.changed(accept_changes=True), resume=True)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1].step == TINY.steps + 1


def test_a_folder_that_a_run_is_training_into_is_refused_to_others(tmp_path):
    out, refused = tmp_path / "run", []

    def meanwhile(step, *_):
        before = (out / "metrics.jsonl").read_text()
        with pytest.raises(
            UserError, match=r"another process trains into .*run: wait until it ends"
        ) as mistake:
            train_toy(out, TINY, resume=True)
        assert (out / "metrics.jsonl").read_text() == before
        refused.append(mistake)

    train(
        ToyWorld(),
        (ToyObedience(), ToyCleanliness()),
        toy_scenarios(4),
        TINY,
        out,
        on_step=meanwhile,
        live=False,
    )
    assert len(refused) == 2
    train_toy(out, TINY.changed(steps=3), resume=True)


class Moody:
    """Draws from every global generator there is."""

    name = "moody"

    def __call__(self, group):
        size = len(group.frames_GF3hw)
        drawn = torch.rand(size) + random.random() * torch.from_numpy(np.random.rand(size)).float()
        return Scores(drawn, torch.ones(len(drawn), dtype=torch.bool))


def test_foreign_code_draws_the_same_after_a_resume(tmp_path):
    straight = train_toy(tmp_path / "a", TINY.changed(steps=4), critics=[Moody()])
    train_toy(tmp_path / "b", TINY, critics=[Moody()])
    torch.rand(3), random.random(), np.random.rand()
    resumed = train_toy(tmp_path / "b", TINY.changed(steps=4), True, [Moody()])
    assert all(torch.equal(resumed.state()[name], value) for name, value in straight.state().items())


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (
        tmp_path / "file",
        tmp_path / "file" / "run",
        Path("/proc/worldcompass"),
    ):  # the last even for root
        assert command(out) == 2
        said = capsys.readouterr().err
        assert f"cannot write to {out} (" in said and "choose another --out" in said and said.count("\n") == 1


def test_too_little_gpu_memory_says_what_to_lower(tmp_path, capsys, monkeypatch):
    assert command(tmp_path / "run", function="Hungry") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "(Tried to allocate 2.00 GiB): lower config.micro_rows" in said

    lower_decode = "lower config.group_size (now 4) or config.prompts_per_step (now 2). For every"
    shared = (
        "; 8.00 GiB of it are weights, averages and optimiser: split them over more GPUs with config.shard"
    )
    for weights, traced, told in (
        (
            1,
            Traced(0, 0, 0, 0, 9 * GIB),
            "a step needs about 10.00 GiB of live tensors in its phase update; lower",
        ),
        (
            1,
            Traced(0, 0, 0, 0, 9 * GIB),
            "lower config.micro_rows (now 64). For every part: worldcompass plan",
        ),
        (1, Traced(0, 0, 0, 9 * GIB, 0), f"in its phase decode; {lower_decode}"),
        (8, Traced(0, 0, 0, 0, GIB), shared),
    ):
        plan = Plan(1, 2, States(0, 0, weights * GIB, 0, 0, 0, 0, 0, 0, 0), traced, 0, 0)
        monkeypatch.setattr("worldcompass.cost.plan.make_plan", lambda *_, plan=plan: plan)
        assert command(tmp_path / "run", function="Estimated") == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said
