"""Settings in groups: short names, rules, and what earlier versions wrote."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from worldcompass.doctor import read_record
from worldcompass.errors import UserError
from worldcompass.recipes.overrides import override
from worldcompass.report.runs import load_run
from worldcompass.rollout import imagine_groups, imagine_whole_videos
from worldcompass.runs.checkpoint import load_checkpoint
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.settings import RunSettings, read_settings
from worldcompass.settings import flattened
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.advantages import all_groups, damped
from worldcompass.training.balance import Weighing, soft_minimum
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.loop import train
from worldcompass.training.objective import imitation_loss
from worldcompass.training.optim import Optimiser, muon, normalised_sgd
from worldcompass.training.policy import Decay
from worldcompass.training.selection import at_first

# Stopped by a signal after step 4 of 6; written by the code of git 101d63f, before settings stood in groups and
# modules lay in folders.
OF_VERSION_1 = Path(__file__).parent.parent / "golden" / "run_of_version_1"


def config_of_version_1() -> Config:
    """What it was trained with."""
    return Config.from_flat(
        steps=6,
        seed=3,
        prompts_per_step=2,
        group_size=4,
        last_chunk=1,
        best=1,
        worst=1,
        noise_levels=2,
        kl_weight=0.1,
        lr=0.01,
        weights={"obedience": 2.0},
        scale=damped,
        balance=soft_minimum,
        save_every=3,
        keep_checkpoints=1,
    )


def run(config, out, resume=False):
    critics = [ToyObedience(), ToyCleanliness()]
    return train(ToyWorld(), critics, toy_scenarios(4), config, out, resume=resume, live=False)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lr", math.inf), ("weight_decay", math.nan), ("kl_weight", math.inf), ("advantage_clip", math.inf)],
)
def test_a_setting_that_is_not_finite_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be a finite number; got {setting}={value}"):
        Config.from_flat(**{setting: value})
    assert Config.from_flat(max_grad_norm=math.inf).optimiser.max_grad_norm == math.inf  # no limit


def test_every_setting_has_a_short_name_of_its_own():
    config = Config()
    groups = [f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, f.name))]
    names = [f.name for group in groups for f in dataclasses.fields(getattr(config, group))]
    assert len(groups) == 6 and len(set(names)) == len(names) and not set(names) & set(groups)
    assert config.flat().keys() == {*names, "steps", "seed"}
    assert all(getattr(config, config.group_of(name)).__dict__[name] is config.flat()[name] for name in names)
    assert config.group_of("steps") is None and config.group_of("nothing") is None


def test_flat_settings_and_groups_make_the_same_configuration():
    grouped = Config(
        seed=2,
        sampling=Sampling(group_size=6),
        rewards=Weighing(scale=damped),
        optimiser=Optimiser(lr=0.1, behaviour_decay=Decay(0.0, 0.5, 0.1)),
    )
    flat = {"seed": 2, "group_size": 6, "scale": damped, "lr": 0.1, "behaviour_decay": Decay(0.0, 0.5, 0.1)}
    assert Config.from_flat(**flat) == grouped == Config().changed(**flat)
    assert grouped.changed(group_size=12).sampling == Sampling()
    with pytest.raises(ValueError, match="there is no setting 'group_sise'; nearest: group_size"):
        grouped.changed(group_sise=4)


def test_a_setting_is_named_with_its_group_or_without():
    @dataclasses.dataclass(frozen=True)
    class Recipe:
        config: Config = dataclasses.field(default_factory=Config)

    short = [
        "config.lr=0.5",
        "config.weights.quality=2",
        "config.behaviour_decay.highest=0.8",
        "config.seed=1",
    ]
    full = [
        "config.optimiser.lr=0.5",
        "config.rewards.weights.quality=2",
        "config.optimiser.behaviour_decay.highest=0.8",
        "config.seed=1",
    ]
    assert override(Recipe(), short) == override(Recipe(), full) != Recipe()
    assert flattened(Recipe())["config.optimiser.lr"] == 1e-5
    with pytest.raises(UserError, match=r"there is no setting 'config.batch_size'; nearest: .*group_size"):
        override(Recipe(), ["config.batch_size=3"])
    with pytest.raises(UserError, match=r"there is no setting 'config.sampling.lr'; nearest: "):
        override(Recipe(), ["config.sampling.lr=3"])
    with pytest.raises(UserError, match=r"there is no setting 'lr'; nearest: config"):
        override(Recipe(), ["lr=3"])
    with pytest.raises(UserError, match=r"^lr and max_grad_norm must be positive; got lr=-1"):
        override(Recipe(), ["config.lr=-1"])


def test_a_setting_that_holds_a_function_is_set_by_its_name():
    @dataclasses.dataclass(frozen=True)
    class Recipe:
        config: Config = dataclasses.field(default_factory=Config)

    names = {
        "make_optimizer": normalised_sgd, "draw": at_first, "objective": imitation_loss, "balance": soft_minimum,
        "scale": damped, "rollout": imagine_whole_videos,
    }  # fmt: skip
    found = override(Recipe(), [f"config.{key}={function.__name__}" for key, function in names.items()])
    assert {key: found.config.flat()[key] for key in names} == names
    with pytest.raises(
        UserError, match=r"make_optimizer must be one of muon, adamw, normalised_sgd, not 'sgd'"
    ):
        override(Recipe(), ["config.make_optimizer=sgd"])
    with pytest.raises(UserError, match="dpo_loss"):  # rules between settings hold for names, too
        override(Recipe(), ["config.objective=dpo_loss"])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"steps": 0}, "steps must be at least 1; got steps=0"),
        ({"seed": -1}, "seed must not be negative; got seed=-1"),
        (
            {"best": 9, "worst": 9},
            "best + worst must be between 1 and group_size; got group_size=12, best=9, worst=9",
        ),
        ({"gather_bf16": True, "shard": True}, "gather_bf16 needs autocast_bf16=true"),
        (
            {"offload": True},
            "need shard=true; got shard=False, shard_within=0, offload=True, gather_bf16=False",
        ),
        ({"weights": {"a": -1.0}}, "weights must be finite and not negative; got weights={'a': -1.0}"),
        ({"ranks_per_group": 5}, "multiples of ranks_per_group"),
    ],
)
def test_a_broken_rule_names_the_settings_and_what_they_were(broken, words):
    with pytest.raises(ValueError, match=r"must|need") as said:
        Config.from_flat(**broken)
    assert words in str(said.value)


def test_functions_are_described_by_their_names():
    config = Config.from_flat(weights={"a": 2.0})
    described = json.loads(json.dumps(config.described()))
    assert described["version"] == 2 and described["rewards"]["weights"] == {"a": 2.0}
    assert described["optimiser"]["behaviour_decay"] == {"lowest": 0.2, "highest": 0.9, "per_step": 0.01}
    names = config.settings()
    for function in (all_groups, muon, imagine_groups):
        assert f"{function.__module__}.{function.__qualname__}" in names.values()


def test_both_versions_are_read_by_short_names(tmp_path):
    run_settings = json.loads(json.dumps(config_of_version_1().settings()))
    stored = read_settings(OF_VERSION_1 / "config.json").values
    assert stored == {name: value for name, value in run_settings.items() if name in stored}
    later = {name: value for name, value in run_settings.items() if name not in stored}
    assert later == {name: json.loads(json.dumps(Config().settings()[name])) for name in later}  # defaults
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of_version_1().described()))
    assert read_settings(path).values == run_settings
    path.write_text('{"version": 3}')
    with pytest.raises(UserError, match="has version 3, this version reads up to 2"):
        read_settings(path)
    assert read_settings(tmp_path / "nothing.json") == RunSettings()


def test_a_run_of_version_1_is_read_and_resumed(tmp_path):
    out = shutil.copytree(OF_VERSION_1, tmp_path / "run")
    record = read_record(out)
    assert record.planned == 6 and record.weights == {"obedience": 2.0}
    assert load_run(out).config.values["lr"] == 0.01
    with pytest.raises(UserError, match=r"lr: 0.01 -> 1.0"):
        run(config_of_version_1().changed(lr=1.0), out, resume=True)
    stored, _ = load_checkpoint(out / "checkpoints" / "step_000004")
    policy = run(config_of_version_1().changed(steps=4), out, resume=True)
    held = {f"policy/{name}": tensor for name, tensor in policy.tensors().items()}
    assert held and all(torch.equal(stored[name], tensor) for name, tensor in held.items())
    before = (out / "metrics.jsonl").read_text()
    run(config_of_version_1(), out, resume=True)
    assert (out / "metrics.jsonl").read_text().startswith(before)
    assert [row.step for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((out / "config.json").read_text())["version"] == 2
