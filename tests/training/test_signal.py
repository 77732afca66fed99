"""The learning signal before a run: what gradients share is found, noise is not, optimisers are compared by it."""

import json
import math

import pytest
import torch
from diseases import HEALTHY, Scored
from torch import nn

from worldcompass import cli
from worldcompass.errors import UnfitInputs
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.objective import imitation_loss
from worldcompass.training.optim import adamw, muon, normalised_sgd
from worldcompass.training.rivals import dpo_loss
from worldcompass.training.run import Parts
from worldcompass.training.selection import in_pairs
from worldcompass.training.signal import Agreement, agreement, cosine, measure_signal, reach, step_of

pytestmark = pytest.mark.usefixtures("one_thread")


def whim(group):
    """A score that has nothing to do with what is seen: a hash of the pixels."""
    frames = group.frames_GF3hw.double().flatten(1)
    return (frames @ torch.linspace(0.1, 7.3, frames.shape[1], dtype=torch.double)).sin() * 43758.5453 % 1


def parts(critics, seed=0, **changes):
    return Parts(ToyWorld(), critics, toy_scenarios(16, seed=seed), HEALTHY.changed(seed=seed, **changes))


def unit(vector):
    return vector / vector.norm()


def drawn(common, size, count, seed):
    """Unit vectors that share a part of their square."""
    generator = torch.Generator().manual_seed(seed)
    shared = unit(torch.randn(size, generator=generator))
    noises = [unit(torch.randn(size, generator=generator)) for _ in range(count)]
    return [[common**0.5 * shared + (1 - common) ** 0.5 * noise] for noise in noises]


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("common", [0.0, 0.05, 0.5])
def test_the_interval_holds_the_shared_part_as_often_as_it_says(common):
    found = [agreement(drawn(common, 400, 8, seed)) for seed in range(300)]
    assert sum(f.low <= common <= f.high for f in found) / 300 > 0.97
    assert sum(f.mean for f in found) / 300 == pytest.approx(common, abs=0.01)


def test_so_many_gradients_of_a_small_shared_part_are_half_signal():
    common, size = 0.1, 20_000
    steps = Agreement("", agreement(drawn(common, size, 40, 0))).steps_for_half
    assert steps == pytest.approx(9, rel=0.15)
    (mean,) = torch.stack([part for (part,) in drawn(common, size, 9, 1)]).mean(0, keepdim=True)
    generator = torch.Generator().manual_seed(1)
    shared = unit(torch.randn(size, generator=generator))
    assert cosine([mean], [shared]) ** 2 == pytest.approx(0.5, abs=0.05)
    assert math.isinf(Agreement("", agreement([[torch.eye(4)[i]] for i in range(4)])).steps_for_half)


def test_a_cosine_is_of_all_parameters_together():
    a, b = (
        [torch.tensor([3.0]), torch.tensor([[4.0, 0.0]])],
        [torch.tensor([1.0]), torch.tensor([[0.0, 5.0]])],
    )
    assert cosine(a, b) == pytest.approx(3 / (5 * 26**0.5))
    assert cosine(a, [torch.zeros(1), torch.zeros(1, 2)]) == 0


# ---------------------------------------------------------------- optimisers


def test_the_step_of_an_optimiser_leaves_the_parameters_as_they_are():
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    gradient = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    before = parameter.detach().clone()
    (signs,) = step_of([parameter], adamw, [gradient])
    (plain,) = step_of([parameter], normalised_sgd, [gradient])
    assert torch.equal(parameter, before) and parameter.grad is None
    torch.testing.assert_close(signs, gradient.sign(), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain, gradient / gradient.norm() * 0.2, atol=1e-6, rtol=1e-5)


def test_a_signal_in_few_directions_is_kept_by_its_gradient_and_lost_by_orthogonal_steps():
    generator = torch.Generator().manual_seed(0)
    signal = torch.outer(torch.randn(64, generator=generator), torch.randn(64, generator=generator))
    parameter = nn.Parameter(torch.zeros(64, 64))
    several = [[unit(unit(signal) + unit(torch.randn(64, 64, generator=generator)))] for _ in range(6)]
    plain, own, orthogonal = (reach([parameter], make, several).mean for make in (None, normalised_sgd, muon))
    assert own == pytest.approx(plain, abs=1e-6)
    assert plain > 0.6 and orthogonal < plain / 2


# ---------------------------------------------------------------- on runs


@pytest.mark.parametrize("seed", [11, 12])
def test_an_honest_reward_gives_a_direction_and_a_whim_gives_none(seed):
    honest = measure_signal(parts([ToyObedience(), ToyCleanliness()], seed))
    fooled = measure_signal(parts([Scored("whim", whim)], seed))
    assert honest.found and honest.agreements[0].cosine.low > 0.2
    assert not fooled.found and fooled.agreements[0].cosine.mean < 0.15
    names = [row.what for row in honest.agreements]
    assert names[:3] == ["as trained", "obedience alone", "cleanliness alone"]
    assert names[3] == "noise level 1.00"
    assert [row.optimiser for row in honest.reaches] == ["gradient", "muon", "normalised_sgd", "adamw"]
    assert honest.kept(honest.reaches[1]) < 0.8 < honest.kept(honest.reaches[2])


def test_measuring_trains_nothing_and_repeats():
    inputs = parts([ToyObedience()])
    before = [p.detach().clone() for p in inputs.world.net.parameters()]
    first = measure_signal(inputs, 4)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs.world.net.parameters(), strict=True))
    again = measure_signal(parts([ToyObedience()]), 4)
    assert [row.cosine for row in first.agreements] == [row.cosine for row in again.agreements]


def test_objectives_that_draw_their_own_rows_are_measured_as_they_train():
    found = measure_signal(parts([ToyObedience()], objective=dpo_loss, draw=in_pairs, best=1, worst=1), 4)
    assert [row.what for row in found.agreements] == ["as trained"]
    assert measure_signal(parts([ToyObedience()], objective=imitation_loss, worst=0), 4).steps == 4


def test_too_few_steps_are_refused():
    with pytest.raises(UnfitInputs, match="3 steps are too few"):
        measure_signal(parts([ToyObedience()]), 3)


# ---------------------------------------------------------------- the command

RECIPE = """
from dataclasses import dataclass, field
from pathlib import Path
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.run import Parts

@dataclass(frozen=True)
class Toy:
    config: Config = field(default_factory=lambda: Config(sampling=Sampling(prompts_per_step=4, last_chunk=1)))

    def run(self, out: Path, device: str, resume: bool): ...

    def parts(self, device):
        return Parts(ToyWorld(), [ToyObedience(), ToyCleanliness()], toy_scenarios(8), self.config)

def recipe():
    return Toy()

def no_parts():
    return NoParts()

@dataclass(frozen=True)
class NoParts:
    config: Config = field(default_factory=Config)

    def run(self, out: Path, device: str, resume: bool): ...
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return path


def test_the_command_prints_a_table_and_says_what_it_means(recipe, capsys):
    assert cli.main(["signal", f"{recipe}:recipe", "--steps", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 steps of 4 groups")
    assert any(line.startswith("cleanliness alone") for line in lines)
    assert lines[-2].startswith("There is something to learn") or lines[-1].startswith("There is something")


def test_json_holds_finite_numbers_alone(recipe, capsys):
    assert cli.main(["signal", f"{recipe}:recipe", "--steps", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["found"] is True and said["reaches"][0]["optimiser"] == "gradient"
    assert all(math.isfinite(row["cosine"]["mean"]) for row in said["agreements"] + said["reaches"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe", "--steps", "3"], "3 steps are too few"),
        (["recipe", "--set", "config.prompts_per_step=9"], "prompts_per_step"),
        (["no_parts"], "give it a method parts"),
    ],
)
def test_mistakes_get_one_sentence(recipe, arguments, words, capsys):
    assert cli.main(["signal", f"{recipe}:{arguments[0]}", *arguments[1:]]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and "\n" not in err and "Traceback" not in err
